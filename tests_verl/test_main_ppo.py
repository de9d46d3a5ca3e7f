"""`main_ppo` from start to end on CPU, with conversations: one row per episode, two iterations and validations.

The rollout servers are `cpu_rollout`'s; everything else is verl's and the plugin's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data
from stapo.verl_plugin.overrides import Machines, verl_overrides
from test_engine import policy_of, with_flags
from toy_world import toy_settings

SECONDS = 900
ON_CPU = [
    "actor_rollout_ref.rollout.name=hf",
    "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
    "actor_rollout_ref.rollout.agent.num_workers=1",
    "actor_rollout_ref.model.use_remove_padding=False",
    "actor_rollout_ref.model.enable_gradient_checkpointing=False",
    "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
    "actor_rollout_ref.actor.fsdp_config.use_torch_compile=False",
    "actor_rollout_ref.ref.fsdp_config.use_torch_compile=False",
    "reward.num_workers=1",
    "trainer.device=cpu",
    "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
    "ray_kwargs.ray_init.num_cpus=24",
    "+ray_kwargs.ray_init.num_gpus=1",
    "+ray_kwargs.ray_init.include_dashboard=False",
]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("fit")
    policy_of(0).save(folder / "policy")
    settings = toy_settings(
        folder / "policy", agent__prompt="conversation", optim__mini_batch=8, eval__greedy=False,
        rollout__correction="token_mask",
    )  # fmt: skip
    run = replace(from_data(RunConfig, settings), algorithm=with_flags(6, "stapo"))
    run = replace(run, model=replace(run.model, dtype="float32"))
    theirs = [*verl_overrides(run, Machines(1, 1), "fit", str(folder / "out")), *ON_CPU]
    modules = "cpu_platform,cpu_rollout,toy_plugin"
    with (folder / "log").open("w") as out:
        code = subprocess.run(
            [sys.executable, "-m", "verl.trainer.main_ppo", *theirs],
            env={**os.environ, "VERL_USE_EXTERNAL_MODULES": modules},
            cwd=folder,
            stdout=out,
            stderr=out,
            timeout=SECONDS,
            check=False,
        ).returncode
    said = Path(folder / "log").read_text()
    assert code == 0, said[-6000:]
    return said


def metrics_of(log: str, step: int) -> dict[str, float]:
    (line,) = re.findall(rf"step:{step} - (.*)", log)
    pairs = (part.rsplit(":", 1) for part in line.split(" - "))
    return {key: float(re.sub(r"np\.\w+\(|\)", "", value)) for key, value in pairs}


def test_iterations_with_one_row_per_episode(log):
    for step in (1, 2):
        found = metrics_of(log, step)
        # Two groups of four, three steps each.
        assert (found["stapo/rows"], found["stapo/sequences/count"]) == (24, 8)
        assert found["stapo/sequences/tokens"] < found["stapo/sequences/row_tokens"]
        # The one optimizer step is taken at the policy that sampled.
        assert found["actor/stapo/ratio"] == pytest.approx(1, abs=1e-5)
        assert found["actor/stapo/old_kl"] == pytest.approx(0, abs=1e-6)
        assert found["training/rollout_probs_diff_max"] < 1e-4
        # Corrected, and there is nothing to correct.
        assert found["stapo/mismatch/k3_kl"] == pytest.approx(0, abs=1e-6)
        assert (found["stapo/mismatch/truncated"], found["stapo/mismatch/ess"]) == (0, pytest.approx(1, abs=1e-6))
        assert found["actor/grad_norm"] > 0
        assert found["stapo/outlier/acted_on"] > 0
        assert found["actor/stapo/r_ta"] > 0


def test_weights_reach_the_servers(log):
    moved = dict(re.findall(r"server: weights of step (\d) moved by ([\d.e-]+)", log))
    assert float(moved["1"]) > 0
    assert float(moved["2"]) > 0


def test_validations(log):
    assert len(re.findall(r"val-aux/toy/won/mean@1:", log)) >= 2
