"""Limits of an episode, and what reaching one does; steps that are left out of the loss.

1. An episode ends at its tokens or seconds, and says so.
2. What is paid at a limit.
3. Masked steps leave the numerator and the divisor; advantages are computed before.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from paid_steps import group, paid, step
from stapo.algo import OutlierConfig, get_algorithm
from stapo.config.rewards import RewardsConfig
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.config.training import OptimConfig
from stapo.errors import ConfigError
from stapo.policy import load_policy
from stapo.rollout import StopReason
from stapo.rollout.config import LimitsConfig, RolloutConfig
from stapo.rollout.faults import Attempts
from stapo.run import RunDirectory
from stapo.training.batch import build_batch
from stapo.training.loop import Trainer
from stapo.training.rewards import Rewards
from stapo.training.update import Updater
from toy_world import small_policy, toy_settings

GIGPO = get_algorithm("gigpo")
PLAIN = replace(GIGPO, loss=replace(GIGPO.loss, beta=0.0))
MASK = replace(PLAIN, loss=replace(PLAIN.loss, truncated="mask"))


def trained(model, out, **changes):
    config = from_data(RunConfig, toy_settings(model, **changes))
    trainer = Trainer(
        config, load_policy(str(model), config.model), RunDirectory.create(out, to_data(config), ["test"])
    )
    return trainer, trainer.iterate(1)


# -- 1 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits, reason", [({"tokens": 7}, "token_limit"), ({"seconds": 1e-9}, "time_limit")])
def test_an_episode_ends_at_its_limit(toy_model, tmp_path, limits, reason):
    """Responses have 6 tokens at most, and an episode three of them."""
    trainer, row = trained(toy_model, tmp_path / "run", rollout__limits=limits)
    seen = trainer.collector.collect(["toy/train/red"], 4, 1.0, (5, 5))
    for t in seen:
        tokens = [len(s.response_ids) for s in t.steps]
        if t.stop_reason.value == reason:
            assert len(t.steps) < 3
            assert reason == "time_limit" or (sum(tokens) >= 7 > sum(tokens[:-1]))
        else:
            assert reason == "token_limit"
            assert sum(tokens[:-1]) < 7
    assert row["stop_reasons"][reason] > 0
    assert "token_limit" in row["stop_reasons"] or "time_limit" in row["stop_reasons"]


def test_a_limit_out_of_reach_changes_nothing(toy_model, tmp_path):
    _, plain = trained(toy_model, tmp_path / "plain")
    _, limited = trained(toy_model, tmp_path / "limited", rollout__limits={"tokens": 10_000, "seconds": 1e6})
    assert (plain["update"], plain["stop_reasons"]) == (limited["update"], limited["stop_reasons"])
    assert "token_limit" not in plain["stop_reasons"]


@pytest.mark.parametrize(
    "limits, said",
    [({"tokens": 0}, r"limits\.tokens is 0"), ({"seconds": 0}, r"limits\.seconds is 0"), ({"reward": "half"}, "half")],
)
def test_limits_are_checked(limits, said):
    with pytest.raises(ConfigError, match=said):
        from_data(RunConfig, {"rollout": {"limits": limits}})


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_what_an_episode_is_paid_at_a_limit():
    """Zero takes all rewards, and costs stay: the group was half solved, so a step costs .1."""
    for reason in (StopReason.TOKEN_LIMIT, StopReason.TIME_LIMIT, StopReason.STEP_LIMIT, StopReason.PROMPT_TOO_LONG):
        for config, kept, zero in (
            (RewardsConfig(), 0.5, 0.0),
            (RewardsConfig(weights={"tidy": 2.0, "turns": 0.2}), 0.5 + 2 - 0.1, -0.1),
        ):
            for rule, expected in (("keep", kept), ("mask", kept), ("zero", zero)):
                played = group(0, [step(reward=0.5, tidy=1.0)], [step(reward=1.0)], won=(1,))
                played[0].stop_reason, played[1].stop_reason = reason, StopReason.WON
                rollout = RolloutConfig(reward_scale=1.0, limits=LimitsConfig(reward=rule))
                Rewards(config, rollout).pay(played, Attempts(1, 16))
                assert paid(played)[0] == [pytest.approx(expected)]
                assert paid(played)[1][0] >= 0.9


def test_mask_leaves_all_steps_of_a_limited_episode_out():
    played = group(0, [step(), step()], [step(reward=1.0)], won=(1,))
    played[0].stop_reason, played[1].stop_reason = StopReason.TIME_LIMIT, StopReason.WON
    assert build_batch(played, PLAIN).masked_b.tolist() == [False, False, False]
    batch = build_batch(played, PLAIN, at_limit="mask")
    assert batch.masked_b.tolist() == [True, True, False]
    # It is in the baseline all the same: that is what lifts its sibling.
    assert batch.advantages.total_b.tolist() == build_batch(played, PLAIN).advantages.total_b.tolist()
    assert batch.advantages.total_b[2] > 0


# -- 3 -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def played():
    from test_update import trajectories_of

    policy = small_policy(3, architecture="qwen3", initializer_range=0.2)
    return policy, trajectories_of(policy)


def updated(played, algorithm, change=None):
    policy = replace(played[0], model=copy.deepcopy(played[0].model))
    batch = build_batch(played[1], algorithm)
    batch = change(batch) if change else batch
    reference = copy.deepcopy(policy.model).eval() if algorithm.needs_reference else None
    optim = OptimConfig(learning_rate=1e-3, mini_batch=1000, grad_clip=1e9)
    found, _ = Updater(policy, reference, algorithm, optim, 1.0).update(batch, 1e-3, seed=(0, 2, 1))
    return batch, found["update"], torch.cat([p.detach().flatten() for p in policy.model.parameters()])


def test_truncated_steps_leave_numerator_and_divisor(played):
    """Ratios start at 1, so the loss is minus the mean advantage of the steps that count."""
    batch, kept, _ = updated(played, PLAIN)
    masked, found, _ = updated(played, MASK)
    cut = np.array([s.truncated for s in batch.steps])
    assert 0 < cut.sum() < len(cut)
    assert masked.masked_b.tolist() == cut.tolist()
    assert masked.advantages.total_b.tolist() == batch.advantages.total_b.tolist()
    assert kept["loss"] == pytest.approx(-batch.advantages.total_b.mean(), abs=1e-4)
    assert found["loss"] == pytest.approx(-batch.advantages.total_b[~cut].mean(), abs=1e-4)
    assert found["tokens"] == sum(len(s.response_ids) for s in batch.steps if not s.truncated)


def test_what_a_masked_step_holds_does_not_matter(played):
    def disturbed(batch):
        total_b = np.where(batch.masked_b, 1e6, batch.advantages.total_b).astype(np.float32)
        return replace(batch, advantages=replace(batch.advantages, total_b=total_b))

    assert torch.equal(updated(played, MASK)[2], updated(played, MASK, disturbed)[2])


def test_masked_steps_get_no_selective_terms(played):
    stapo = get_algorithm("stapo")
    every = replace(stapo, outlier=OutlierConfig(select="all"), loss=replace(stapo.loss, truncated="mask"))
    batch, found, _ = updated(played, every)
    assert found["selective_rows"] == batch.flag_b.sum()
    assert not (batch.flag_b & batch.masked_b).any()


def test_where_every_step_is_masked_no_weight_moves(played):
    def everything(batch):
        return replace(batch, masked_b=np.ones(len(batch), dtype=bool), flag_b=np.zeros(len(batch), dtype=bool))

    _, found, weights = updated(played, MASK, everything)
    assert found == {"optimizer_steps": 0, "skipped_steps": 0}
    assert torch.equal(weights, torch.cat([p.detach().flatten() for p in played[0].model.parameters()]))


def test_masked_steps_are_counted_in_the_metrics(toy_model, tmp_path):
    changes = {"algorithm": {"name": "stapo", "loss": {"truncated": "mask"}}}
    _, row = trained(toy_model, tmp_path / "run", **changes)
    assert row["masked_rows"] == pytest.approx(row["truncated_responses"] * row["rows"])
    assert "masked_rows" not in trained(toy_model, tmp_path / "plain")[1]
