"""Returns and advantages: hand-worked numbers, invariances, degenerate groups."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stapo.algo import (
    AdvantageConfig,
    compute_advantages,
    episode_advantages,
    episode_returns,
    group_normalize,
    group_statistics,
    step_advantages,
    step_returns,
)
from stapo.errors import NonFiniteError

PAPER = AdvantageConfig()
FREE = AdvantageConfig(invalid_penalty=0.0)


def advantages(b, config=PAPER, **changes):
    a = {k: changes.get(k, getattr(b, k)) for k in vars(b)}
    return compute_advantages(
        a["reward"], a["valid"], a["group"], a["traj"], a["step"], a["anchor"], a["weight"], config
    )


def test_returns_fixture():
    np.testing.assert_allclose(step_returns([0, 0, 10], [7, 7, 7], [1, 2, 3], 0.95), [9.025, 9.5, 10])


def test_returns_of_mixed_trajectories_in_any_order():
    reward, traj, step = [4, 1, 2, 8, 0], ["a", "b", "a", "a", "b"], [2, 0, 0, 1, 1]
    # a: rewards 2, 8, 4; b: 1, 0. Discount 1/2.
    np.testing.assert_allclose(step_returns(reward, traj, step, 0.5), [4, 1, 7, 10, 0])
    np.testing.assert_allclose(episode_returns(reward, traj), [14, 1, 14, 14, 1])


def test_a_gap_in_steps_is_discounted_by_its_length():
    np.testing.assert_allclose(step_returns([0, 8], [0, 0], [1, 4], 0.5), [1, 8])


def test_discount_edges():
    np.testing.assert_allclose(step_returns([1, 2, 3], [0] * 3, [0, 1, 2], 0.0), [1, 2, 3])
    np.testing.assert_allclose(step_returns([1, 2, 3], [0] * 3, [0, 1, 2], 1.0), [6, 5, 3])


@given(
    st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=40), min_size=1, max_size=6),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_returns_match_the_recursion(rewards, discount, seed):
    expected = []
    for trajectory in rewards:
        total, out = 0.0, []
        for r in reversed(trajectory):
            total = r + discount * total
            out.append(total)
        expected += out[::-1]
    flat = np.concatenate([np.array(r, dtype=float) for r in rewards])
    traj = np.repeat(np.arange(len(rewards)), [len(r) for r in rewards])
    step = np.concatenate([np.arange(len(r)) for r in rewards])
    p = np.random.default_rng(seed).permutation(len(flat))
    got = step_returns(flat[p], traj[p], step[p], discount)
    np.testing.assert_allclose(got, np.array(expected)[p], atol=1e-9)


def test_a_repeated_step_is_refused_unless_it_is_padding():
    with pytest.raises(ValueError, match="row 2 repeats step 1 of trajectory 0"):
        step_returns([1, 2, 2], [0, 0, 0], [0, 1, 1], 0.9)
    out = step_returns([1, 2, 2], [0, 0, 0], [0, 1, 1], 0.5, weight_b=[1, 1, 0])
    np.testing.assert_allclose(out, [2, 2, 0])


def test_episode_fixture_over_trajectories_and_steps():
    """Success (10) in 2 steps against failure in 6."""
    reward, traj = [0, 10] + [0] * 6, [0, 0] + [1] * 6
    over_trajectories = episode_advantages(reward, [0] * 8, traj, PAPER)
    np.testing.assert_allclose(over_trajectories, [0.7071] * 2 + [-0.7071] * 6, atol=1e-4)
    over_steps = episode_advantages(reward, [0] * 8, traj, AdvantageConfig(episode_stats="step"))
    np.testing.assert_allclose(over_steps, [1.620] * 2 + [-0.540] * 6, atol=1e-3)


def test_population_spread_and_no_spread():
    reward, group, traj = [10, 0], [0, 0], [0, 1]
    population = episode_advantages(reward, group, traj, AdvantageConfig(ddof=0))
    np.testing.assert_allclose(population, [1, -1], atol=1e-6)
    centered = episode_advantages(reward, group, traj, AdvantageConfig(advantage_norm="none"))
    np.testing.assert_allclose(centered, [5, -5])


def test_step_advantage_by_hand():
    # Anchor 0: returns 1, 2, 3, mean 2, sample spread 1. Anchor 1: a single row.
    out = step_advantages([1, 2, 3, 9], [0, 0, 0, 1], PAPER)
    np.testing.assert_allclose(out, [-1, 0, 1, 0], atol=1e-5)


def test_total_by_hand_with_omega_and_penalty():
    """Two trajectories of one task meet in one state; the failing one acts invalidly there."""
    args = ([10.0, 0.0], [True, False], [0, 0], [0, 1], [0, 0], [0, 0], None)
    centered = AdvantageConfig(advantage_norm="none", omega=0.5)
    out = compute_advantages(*args, centered)
    # Episode: mean 5 without the penalty -> 5 and -5.1. Step: returns 10 and -0.1, mean 4.95.
    np.testing.assert_allclose(out.return_b, [10, -0.1], atol=1e-6)
    np.testing.assert_allclose(out.episode_return_b, [10, -0.1], atol=1e-6)
    np.testing.assert_allclose(out.episode_b, [5, -5.1], atol=1e-6)
    np.testing.assert_allclose(out.step_b, [5.05, -5.05], atol=1e-6)
    np.testing.assert_allclose(out.total_b, [7.525, -7.625], atol=1e-6)
    np.testing.assert_array_equal(out.anchor_size_b, [2, 2])
    over_steps = compute_advantages(*args, dataclasses.replace(centered, episode_stats="step"))
    np.testing.assert_allclose(over_steps.episode_b, [5.05, -5.05], atol=1e-6)
    flat = compute_advantages(*args, dataclasses.replace(centered, invalid_penalty_on="advantage"))
    np.testing.assert_allclose(flat.return_b, [10, 0])
    np.testing.assert_allclose(flat.total_b, [7.5, -7.6], atol=1e-6)


def test_the_penalty_trap_and_its_remedy():
    """In an all-failed anchor group the normalized penalty grows to units; a flat one stays 0.1."""
    n = 16
    valid = np.ones(n, bool)
    valid[0] = False
    args = ([0.0] * n, valid, [0] * n, range(n), [0] * n, [0] * n, None)
    normalized = compute_advantages(*args, PAPER)
    assert normalized.step_b[0] == pytest.approx(-3.75, abs=1e-3)
    flat = compute_advantages(*args, AdvantageConfig(invalid_penalty_on="advantage"))
    np.testing.assert_allclose(flat.total_b, [-0.1] + [0] * (n - 1), atol=1e-7)
    floored = compute_advantages(*args, AdvantageConfig(std_floor=0.05))
    np.testing.assert_array_equal(floored.step_b, 0)


def test_grpo_has_no_step_part_and_step_only_no_episode_part(batch):
    grpo = advantages(batch, dataclasses.replace(PAPER, step_advantage=False))
    np.testing.assert_array_equal(grpo.step_b, 0)
    np.testing.assert_array_equal(grpo.total_b, grpo.episode_b)
    step_only = advantages(batch, dataclasses.replace(PAPER, episode="none"))
    np.testing.assert_array_equal(step_only.episode_b, 0)
    np.testing.assert_array_equal(step_only.total_b, step_only.step_b)


@pytest.mark.parametrize("stats", ["trajectory", "step"])
@pytest.mark.parametrize("norm", ["std", "none"])
class TestInvariances:
    def config(self, stats, norm, **more):
        return AdvantageConfig(episode_stats=stats, advantage_norm=norm, **more)

    def test_permuting_rows_permutes_the_result(self, batch, stats, norm):
        config = self.config(stats, norm)
        p = np.random.default_rng(1).permutation(batch.n)
        plain = advantages(batch, config)
        shuffled = advantages(batch, config, **{k: v[p] for k, v in vars(batch).items() if k != "n"})
        for f in dataclasses.fields(plain):
            np.testing.assert_allclose(getattr(shuffled, f.name), getattr(plain, f.name)[p], atol=2e-6)

    def test_padding_rows_change_nothing_and_get_zero(self, batch, stats, norm):
        config = self.config(stats, norm)
        plain = advantages(batch, config)
        pad = 5
        more = {k: np.concatenate([v, v[:pad]]) for k, v in vars(batch).items() if k != "n"}
        more["reward"][-pad:] = np.nan
        more["group"][-pad:] = 99
        more["weight"][-pad:] = 0
        padded = advantages(batch, config, **more)
        for f in dataclasses.fields(plain):
            got = getattr(padded, f.name)
            np.testing.assert_array_equal(got[: batch.n], getattr(plain, f.name))
            np.testing.assert_array_equal(got[batch.n :], 0)

    def test_shifting_trajectory_returns_of_a_task_changes_no_episode_advantage(self, batch, stats, norm):
        config = self.config(stats, norm)
        shifted = batch.reward + 1000.0 * (batch.step == 0)
        np.testing.assert_allclose(
            advantages(batch, config, reward=shifted).episode_b,
            advantages(batch, config).episode_b,
            atol=1e-4,
        )

    def test_scaling_rewards_scales_or_cancels(self, batch, stats, norm):
        config = self.config(stats, norm, invalid_penalty=0.0)
        one, ten = advantages(batch, config), advantages(batch, config, reward=batch.reward * 10)
        factor = 1 if norm == "std" else 10
        np.testing.assert_allclose(ten.total_b, factor * one.total_b, rtol=1e-4, atol=1e-5)

    def test_renaming_ids_changes_nothing(self, batch, stats, norm):
        config = self.config(stats, norm)
        renamed = advantages(
            batch,
            config,
            group=np.array([f"task {g}" for g in batch.group]),
            traj=batch.traj * 1_000_003 - 7,
            anchor=-batch.anchor,
        )
        np.testing.assert_allclose(renamed.total_b, advantages(batch, config).total_b, atol=2e-6)


def test_step_advantages_are_shift_invariant():
    rng = np.random.default_rng(0)
    value, anchor = rng.normal(size=60), rng.integers(8, size=60)
    np.testing.assert_allclose(
        step_advantages(value + 1e6, anchor, PAPER),
        step_advantages(value, anchor, PAPER),
        atol=1e-4,
    )


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
@settings(max_examples=100, deadline=None)
def test_a_z_score_is_bounded_by_its_group_size(values):
    z = group_normalize(values, [0] * len(values))
    n = len(values)
    assert np.all(np.abs(z) <= (n - 1) / np.sqrt(n) + 1e-4)
    assert abs(z.astype(np.float64).sum()) < 1e-3 * n


@pytest.mark.parametrize(("n", "bound"), [(5, 1.79), (8, 2.47), (10, 2.85), (16, 3.75)])
def test_the_bound_is_reached(n, bound):
    assert group_normalize([1.0] + [0.0] * (n - 1), [0] * n)[0] == pytest.approx(bound, abs=0.006)


class TestDegenerate:
    def test_equal_rewards_give_zero(self):
        out = compute_advantages([0.1] * 6, [True] * 6, [0] * 6, range(6), [0] * 6, [0] * 6, None, PAPER)
        np.testing.assert_array_equal(out.total_b, 0)

    def test_a_group_of_one_gives_zero(self):
        for norm in ("std", "none"):
            config = AdvantageConfig(advantage_norm=norm)
            out = compute_advantages([10.0], [False], [0], [0], [0], [0], None, config)
            assert out.total_b[0] == 0

    def test_a_spread_below_the_floor_gives_zero(self):
        assert not group_normalize([1.0, 1.0 + 1e-9], [0, 0]).any()
        assert group_normalize([1.0, 1.0 + 1e-6], [0, 0]).any()

    def test_zero_eps_and_zero_floor_still_never_divide_by_zero(self):
        with np.errstate(all="raise"):
            assert not group_normalize([3.0, 3.0], [0, 0], eps=0.0, std_floor=0.0).any()

    def test_all_padding_and_no_rows(self):
        out = compute_advantages([np.nan] * 2, [True] * 2, [0, 1], [0, 0], [0, 0], [0, 0], [0, 0], PAPER)
        np.testing.assert_array_equal(out.total_b, 0)
        empty = compute_advantages([], [], [], [], [], [], None, PAPER)
        assert empty.total_b.shape == (0,)
        assert group_statistics([], []).mean_b.shape == (0,)
        assert episode_returns([], []).shape == (0,)

    def test_a_non_finite_reward_is_named(self, batch):
        reward = batch.reward.copy()
        reward[3] = np.inf
        with pytest.raises(NonFiniteError, match="reward_b holds inf at row 3"):
            advantages(batch, reward=reward)

    def test_ids_shared_between_tasks_are_refused(self):
        args = ([0.0, 1.0], [True, True], [0, 1])
        with pytest.raises(ValueError, match=r"row (0|1) shares its trajectory id"):
            compute_advantages(*args, [0, 0], [0, 1], [0, 1], None, PAPER)
        with pytest.raises(ValueError, match="shares its anchor group id"):
            compute_advantages(*args, [0, 1], [0, 0], [0, 0], None, PAPER)

    def test_a_wrong_length_is_named(self, batch):
        with pytest.raises(ValueError, match="valid_b has shape"):
            advantages(batch, valid=batch.valid[1:])
        with pytest.raises(ValueError, match="reward_b has shape"):
            advantages(batch, reward=batch.reward[:, None])

    def test_results_are_float32(self, batch):
        out = advantages(batch)
        assert {out.total_b.dtype, out.episode_b.dtype, out.step_b.dtype, out.return_b.dtype} == {np.dtype(np.float32)}
