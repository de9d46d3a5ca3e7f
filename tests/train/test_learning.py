"""Every algorithm learns: on the toy world, with the real trainer, from a policy with random weights.

The bar is the same for all, well above the start and above chance. What is added to the registry is covered, and one
sum of two algorithms stands for all sums.
"""

from __future__ import annotations

import pytest

from slow import slow_except
from stapo.algo import ALGORITHMS
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.policy import load_policy
from stapo.run import RunDirectory
from stapo.training.loop import Trainer
from toy_world import small_policy, toy_settings

BARS = {"stapo-raised-penalty": 0.8}
"""A penalty ten times STAPO's costs success here, as it does in the paper's table 3 on ALFWorld."""


@pytest.mark.parametrize("name", slow_except([*ALGORITHMS, "stapo+g2po"], "stapo"))
def test_the_toy_world_is_learned(tmp_path, name):
    small_policy(architecture="qwen3", initializer_range=0.2).save(tmp_path / "model")
    settings = toy_settings(
        tmp_path / "model", optim__iterations=60,
        algorithm={"name": name, "loss": {"beta": 0.0}, "critic": {"learning_rate": 0.02}},
        optim__learning_rate=0.02, optim__mini_batch=512, rollout__groups=4, rollout__group_size=8,
        agent__max_response_tokens=4, eval__episodes=60, eval__greedy=False, log__transcript_every=0,
        log__save_every=60,
    )  # fmt: skip
    config = from_data(RunConfig, settings)
    run = RunDirectory.create(tmp_path / "run", to_data(config), ["test"])
    Trainer(config, load_policy(str(tmp_path / "model"), config.model), run).train()
    before, after = (row["success"] for row in run.rows("evals"))
    assert before < 0.8
    assert after > BARS.get(name, 0.9)
