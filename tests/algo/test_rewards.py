"""Several named rewards: hand-worked advantages, costs and shares; one reward alone is what it was.

1. Normalizing the sum makes (0, 2) and (0, 1) equal; normalizing each keeps them apart (GDPO).
2. Weights, the penalty and groups without a difference.
3. Costs are scaled by the share of the group that was won.
4. Shares of the variance add up.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from stapo.algo import AdvantageConfig, compute_advantages, cost_rewards, reward_advantages
from stapo.errors import ConfigError, NonFiniteError

EXACT = {"eps": 0.0, "invalid_penalty": 0.0}
EPISODES = AdvantageConfig(step_advantage=False, **EXACT)
HALF = 0.5**0.5


def one_step_each(rewards, weights, normalize, config=EPISODES, groups=(0, 0, 1, 1), valid=None):
    n = len(groups)
    return reward_advantages(
        rewards, weights, normalize, config, valid_b=[True] * n if valid is None else valid, group_b=list(groups),
        traj_b=list(range(n)), step_b=[0] * n, anchor_b=list(groups),
    )  # fmt: skip


# Two tasks with two attempts: the second one earns both rewards in the first task, only `a` in the second.
TWO = {"a": [0, 1, 0, 1], "b": [0, 1, 0, 0]}
ONES = {"a": 1.0, "b": 1.0}


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_the_normalized_sum_makes_two_rewards_and_one_equal():
    total = one_step_each(TWO, ONES, "sum").advantages.total_b
    np.testing.assert_allclose(total, [-HALF, HALF, -HALF, HALF], rtol=1e-6)


def test_each_normalized_keeps_them_apart():
    """Before the batch: -2/√2, 2/√2, -1/√2, 1/√2; their standard deviation is √(5/3)."""
    out = one_step_each(TWO, ONES, "each").advantages
    raw = np.array([-2 * HALF, 2 * HALF, -HALF, HALF])
    np.testing.assert_allclose(out.total_b, raw / (5 / 3) ** 0.5, rtol=1e-6)
    assert out.total_b.std(ddof=1) == pytest.approx(1)
    # What is said of returns is said of what was paid.
    assert out.episode_return_b.tolist() == [0, 2, 0, 1]


def test_the_published_case_of_one_group():
    """Rewards (0, 1) and (0, 1) of one pair: 1.4142 before the batch, 0.7071 after it."""
    both = {"a": [0, 1], "b": [0, 1]}
    np.testing.assert_allclose(
        one_step_each(both, ONES, "each", groups=(0, 0)).advantages.total_b, [-HALF, HALF], rtol=1e-6
    )


def test_centering_alone_is_not_scaled_by_the_batch():
    config = dataclasses.replace(EPISODES, advantage_norm="none")
    for normalize in ("sum", "each"):
        assert one_step_each(TWO, ONES, normalize, config).advantages.total_b.tolist() == [-1, 1, -0.5, 0.5]


def test_attempts_of_equal_sums_may_still_teach():
    """(0, 1) and (2, 0) weigh the same under weights 1 and 2; each alone, the heavier reward wins."""
    rewards, weights = {"a": [0, 2], "b": [1, 0]}, {"a": 1.0, "b": 2.0}
    assert one_step_each(rewards, weights, "sum", groups=(0, 0)).advantages.total_b.tolist() == [0, 0]
    apart = one_step_each(rewards, weights, "each", groups=(0, 0)).advantages.total_b
    np.testing.assert_allclose(apart, [HALF, -HALF], rtol=1e-6)


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_weights_apply_after_normalizing_each():
    """The size of a reward does not matter then, its weight does."""
    large = {"a": [0, 100, 0, 100], "b": [0, 1, 0, 0]}
    out = one_step_each(large, {"a": 1.0, "b": 3.0}, "each").advantages.total_b
    raw = np.array([-4 * HALF, 4 * HALF, -HALF, HALF])
    np.testing.assert_allclose(out, raw / raw.std(ddof=1), rtol=1e-6)


def test_a_reward_of_weight_0_or_without_one_is_left_out():
    paid = {**TWO, "c": [9, 0, 0, 9]}
    for normalize in ("sum", "each"):
        expected = one_step_each(TWO, ONES, normalize).advantages.total_b
        for weights in (ONES, {**ONES, "c": 0.0}):
            found = one_step_each(paid, weights, normalize)
            assert found.advantages.total_b.tolist() == expected.tolist()
            assert found.share["c"] == 0
    with pytest.raises(ConfigError, match="every reward has weight 0"):
        one_step_each(paid, {"a": 0.0}, "sum")


def test_a_group_without_a_difference_stays_at_0():
    rewards = {"a": [0, 1, 1, 1], "b": [0, 1, 1, 1]}
    assert one_step_each(rewards, ONES, "each").advantages.total_b[2:].tolist() == [0, 0]


def test_one_reward_as_a_sum_is_what_it_is_alone(batch):
    config = AdvantageConfig()
    rows = (batch.valid, batch.group, batch.traj, batch.step, batch.anchor)
    alone = compute_advantages(batch.reward, *rows, None, config)
    keys = ("valid_b", "group_b", "traj_b", "step_b", "anchor_b")
    named = reward_advantages({"env": batch.reward}, {"env": 1.0}, "sum", config, **dict(zip(keys, rows, strict=True)))
    for part in dataclasses.fields(alone):
        assert getattr(named.advantages, part.name).tobytes() == getattr(alone, part.name).tobytes()


@pytest.mark.parametrize("on", ["return", "advantage"])
def test_the_penalty_counts_once(on):
    """One group of two equal attempts, the second invalid: nobody differs but by the penalty."""
    config = dataclasses.replace(EPISODES, invalid_penalty=0.5, invalid_penalty_on=on, advantage_norm="none")
    rewards, valid = {"a": [1, 1], "b": [1, 1]}, [True, False]
    out = one_step_each(rewards, ONES, "each", config, groups=(0, 0), valid=valid).advantages.total_b
    assert out.tolist() == [0, -0.5]
    assert one_step_each(rewards, ONES, "sum", config, groups=(0, 0), valid=valid).advantages.total_b.tolist() == [
        0,
        -0.5,
    ]


def test_each_has_no_critic():
    with pytest.raises(ConfigError, match="has a critic"):
        one_step_each(TWO, ONES, "each", AdvantageConfig(episode="gae", step_advantage=False))


def test_a_reward_that_is_not_finite_is_named():
    with pytest.raises(NonFiniteError, match="reward_b holds nan at row 1"):
        one_step_each({"a": [0, np.nan, 0, 1]}, {"a": 1.0}, "sum")


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_costs_by_hand():
    """Task 0: one of two attempts won, so half price; task 1: nobody won, so nothing."""
    amount = [10, 20, 30, 5, 7]
    won = [True, True, False, False, False]
    group, traj = [0, 0, 0, 1, 1], [0, 0, 1, 2, 3]
    assert cost_rewards(amount, won, group, traj).tolist() == [-5, -10, -15, 0, 0]
    assert cost_rewards([], [], [], []).tolist() == []


# -- 4 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mass", ["step", "trajectory"])
@pytest.mark.parametrize("normalize", ["sum", "each"])
def test_shares_add_up(normalize, mass, batch):
    config = AdvantageConfig(invalid_penalty=0.0, equal_mass=mass)
    other = np.where(batch.valid, 1.0, 0.0)
    found = reward_advantages(
        {"env": batch.reward, "valid": other}, {"env": 1.0, "valid": 0.5}, normalize, config, valid_b=batch.valid,
        group_b=batch.group, traj_b=batch.traj, step_b=batch.step, anchor_b=batch.anchor,
    )  # fmt: skip
    assert sum(found.share.values()) == pytest.approx(1, abs=1e-5)
    assert all(share > 0 for share in found.share.values())


def test_shares_by_hand():
    """Centered alone, `a` gives ±1.5 and `b` ±0.5 of one pair: three quarters and one quarter."""
    share = one_step_each({"a": [0, 3], "b": [0, 1]}, ONES, "sum", groups=(0, 0)).share
    assert share == {"a": pytest.approx(0.75), "b": pytest.approx(0.25)}
    share = one_step_each({"a": [0, 3], "b": [0, 1]}, ONES, "each", groups=(0, 0)).share
    assert share == {"a": pytest.approx(0.5), "b": pytest.approx(0.5)}
    assert one_step_each({"a": [1, 1]}, {"a": 1.0}, "sum", groups=(0, 0)).share == {"a": None}


def test_step_credits_that_do_not_rest_on_rewards_alone():
    """Under a sum they are what they are, and no reward can claim them; for each reward they would count again."""
    config = AdvantageConfig(step_credit="graphgpo", **EXACT)
    assert one_step_each(TWO, ONES, "sum", config).share == {"a": None, "b": None}
    with pytest.raises(ConfigError, match="step_credit is 'graphgpo'"):
        one_step_each(TWO, ONES, "each", config)
