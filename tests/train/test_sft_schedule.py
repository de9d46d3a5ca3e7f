"""SFT: a linear warmup of its own length, then a cosine to a tenth; batches that are read in parts."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import torch

import stapo
from stapo.config import load_config
from stapo.config.training import SFTConfig
from stapo.errors import ConfigError
from stapo.policy import build_policy
from stapo.policy.sequences import row_batches
from stapo.rollout.encoding import PromptEncoder
from stapo.training.demonstrations import demonstrate, tokenizer_texts
from stapo.training.factories import RunEnv
from stapo.training.sft import SFT, _batches, _schedule


def test_warmup_has_the_length_that_is_set():
    config = SFTConfig(steps=30, warmup_steps=10)
    assert [_schedule(step, config, None) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert _schedule(20, config, None) == pytest.approx(0.55)
    assert _schedule(30, config, None) == pytest.approx(0.1)


def test_without_warmup_it_begins_at_the_peak():
    assert _schedule(0, SFTConfig(steps=30, warmup_steps=0), None) == pytest.approx(1.0)


def test_a_negative_warmup_is_refused():
    with pytest.raises(ConfigError, match=r"sft\.warmup_steps is -1"):
        SFTConfig(warmup_steps=-1)


@pytest.mark.parametrize("blind", [0.0, 0.5])
def test_a_batch_read_in_parts_gives_the_same_loss_and_gradients(blind):
    """Parts have different lengths, so a mean of their means would be another number."""
    config = load_config("tiny-conversation")
    config = replace(config, sft=replace(config.sft, episodes=6, batch_size=40, blind_fraction=blind))
    env = RunEnv(config)
    try:
        demos = demonstrate(env.pool, config.agent, config.sft, "train", "goal_history", 0)
    finally:
        env.close()
    policy = build_policy(config.model, tokenizer_texts(demos), 1200, 0)
    batch = next(_batches(demos, PromptEncoder(policy.tokenizer), config.sft, 0))
    found = []
    for micro_tokens in (0, 300):
        training = SFT(policy, replace(config.sft, micro_tokens=micro_tokens), 0)
        policy.model.zero_grad()
        found.append((training._gradients(batch), [p.grad.clone() for p in policy.model.parameters()]))
    (loss, whole), (in_parts, parts) = found
    assert in_parts == pytest.approx(loss, rel=1e-5)
    assert len(row_batches(batch, 300)) > 2
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("changes", [{"episodes": 1}, {"episodes": 4, "wander": 1.0}])
def test_demonstrations_without_a_step_are_an_error_that_names_the_settings(changes):
    config = load_config("tiny-conversation")
    env = RunEnv(config)
    try:
        with pytest.raises(ConfigError, match=r"sft\.episodes is \d, .* hold no step to imitate"):
            demonstrate(env.pool, config.agent, replace(config.sft, **changes), "train", "goal_history", 0)
    finally:
        env.close()


def test_sft_ends_with_the_weights_of_the_best_measurement(tmp_path, monkeypatch):
    """Of four measurements the second has the best pass@k; the third only succeeds more often."""
    from stapo.rollout.evaluate import summarize
    from stapo.rollout.shares import wilson
    from stapo.training import preparation

    shares = iter([0.5, 0.75, 0.5, 0.75])
    successes, weights = iter([0.2, 0.3, 0.9, 0.3]), []

    def measured(played, k):
        assert (k, {len(trajectories) for trajectories in played}) == (2, {6})
        return {2: wilson(next(shares), 3)}

    class Ear(stapo.Callback):
        said: ClassVar[list[str]] = []

        def on_notice(self, message):
            self.said.append(message)

    monkeypatch.setattr(preparation, "pass_shares", measured)
    monkeypatch.setattr(preparation, "summarize", lambda played: {**summarize(played), "success": next(successes)})
    ask = SFT._ask

    def asked(self, probe):
        weights.append(self.policy.model.model.norm.weight.detach().clone())
        ask(self, probe)

    monkeypatch.setattr(SFT, "_ask", asked)
    config = stapo.load_config(
        "tiny",
        model={"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32, "dtype": "float32"},
        sft={"steps": 7, "episodes": 6, "batch_size": 4, "curriculum": 0.0, "keep": "best", "probe_every": 2,
             "probe_episodes": 3, "probe_k": 2, "learning_rate": 0.01},
        env={"options": {"max_steps": 2, "games_per_type": 4}},
        optim={"iterations": 0}, eval={"episodes": 1, "greedy": False},
    )  # fmt: skip
    run = stapo.train(config, tmp_path / "run", callbacks=[Ear()])
    rows = [row for row in run.directory.rows("sft") if "train_success" in row]
    assert [row["step"] for row in rows] == [2, 4, 6, 7]
    assert [row["best"] for row in rows] == [True, True, False, False]
    assert [row["train_pass_at_k"] for row in rows] == [0.5, 0.75, 0.5, 0.75]
    kept = run.policy("final").model.model.norm.weight
    assert torch.equal(kept, weights[1])
    assert not torch.equal(kept, weights[3])
    assert any("SFT keeps its step 4: pass@2 0.750" in said for said in Ear.said)
