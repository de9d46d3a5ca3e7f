"""SFT: a linear warmup of its own length, then a cosine to a tenth; batches that are read in parts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

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
