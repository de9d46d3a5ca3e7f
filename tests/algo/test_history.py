"""HGPO: groups of a common past and their weighted mean, with numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stapo.algo import AdvantageConfig, compute_advantages, get_algorithm, history_advantages, history_groups

# Three attempts at one task saw:  a b c  -  a b d  -  x b c
A, B, C, D, X = range(5)
ANCHOR = np.array([A, B, C, A, B, D, X, B, C])
TRAJ = np.repeat([0, 1, 2], 3)
STEP = np.tile([0, 1, 2], 3)
RETURN = np.array([5.0, 1, 0, 5, 3, 7, 9, 8, 2])
CONFIG = AdvantageConfig(ddof=0, step_groups="history")


def partition(ids):
    """Rows by group; rows that are in none are left out."""
    return sorted(np.flatnonzero(ids == i).tolist() for i in set(ids.tolist()) - {-1})


def test_groups_of_equal_histories():
    levels = history_groups(ANCHOR, TRAJ, STEP, 2)
    assert partition(levels[0]) == [[0, 3], [1, 4, 7], [2, 8], [5], [6]]
    # a b, x b, b c, b d: first steps have no observation before them.
    assert partition(levels[1]) == [[1, 4], [2, 8], [5], [7]]
    assert partition(levels[2]) == [[2], [5], [8]]
    assert [(level == -1).sum() for level in levels] == [0, 3, 6]


def test_advantages_by_hand():
    """Row 1 is in b: {1, 3, 8} with z -1.01905, and in a b: {1, 3} with z -1; weights 1 / 3 and 2 / 3."""
    found = history_advantages(RETURN, history_groups(ANCHOR, TRAJ, STEP, 2), CONFIG)
    expected = [0, -1.00635, -1, 0, 0.55344, 0, 0, 1.35873, 1]
    assert found == pytest.approx(expected, abs=1e-4)


def test_equal_weights_and_no_history():
    levels = history_groups(ANCHOR, TRAJ, STEP, 2)
    even = history_advantages(RETURN, levels, AdvantageConfig(ddof=0, length_alpha=0.0))
    assert even[1] == pytest.approx((-1.01905 - 1) / 2, abs=1e-4)
    anchor_only = history_advantages(RETURN, levels[:1], CONFIG)
    assert anchor_only[[1, 4, 7]] == pytest.approx([-1.01905, -0.33968, 1.35873], abs=1e-4)


def test_the_preset_has_no_episode_advantage():
    algorithm = get_algorithm("hgpo")
    reward = np.zeros(9)
    reward[5] = 1.0
    found = compute_advantages(
        reward, np.ones(9, bool), np.zeros(9, int), TRAJ, STEP, ANCHOR, None, algorithm.advantage
    )
    assert not found.episode_b.any()
    assert (found.total_b == found.step_b).all()
    # Only b is common to the winner and others: .95 against 0 and 0 in b, .95 against 0 in a b.
    z = np.array([-1, 2, -1]) / math.sqrt(2)
    assert found.total_b[[1, 4, 7]] == pytest.approx([(z[0] - 2) / 3, (z[1] + 2) / 3, z[2]], abs=1e-4)


class TestDegenerate:
    def test_one_step_each(self):
        levels = history_groups([0, 0, 1], [0, 1, 2], [0, 0, 0], 3)
        assert [partition(level) for level in levels] == [[[0, 1], [2]], [], [], []]
        assert history_advantages([1.0, 3.0, 9.0], levels, CONFIG) == pytest.approx([-1, 1, 0], abs=1e-5)

    def test_one_attempt_and_equal_returns(self):
        levels = history_groups([0, 1, 2], [0, 0, 0], [0, 1, 2], 2)
        assert history_advantages([1.0, 2.0, 3.0], levels, CONFIG).tolist() == [0, 0, 0]
        levels = history_groups([0, 1, 0, 1], [0, 0, 1, 1], [0, 1, 0, 1], 2)
        assert history_advantages([2.0] * 4, levels, CONFIG).tolist() == [0, 0, 0, 0]

    def test_no_rows(self):
        assert [level.tolist() for level in history_groups([], [], [], 1)] == [[], []]


class TestInvariances:
    def test_order_of_rows_and_names_of_ids(self):
        plain = history_advantages(RETURN, history_groups(ANCHOR, TRAJ, STEP, 2), CONFIG)
        p = np.random.default_rng(0).permutation(9)
        levels = history_groups(10 + 7 * ANCHOR[p], 3 - TRAJ[p], 5 * STEP[p], 2)
        assert history_advantages(RETURN[p], levels, CONFIG) == pytest.approx(plain[p])

    def test_padding(self):
        plain = history_advantages(RETURN, history_groups(ANCHOR, TRAJ, STEP, 2), CONFIG)
        weight = np.append(np.ones(9), 0)
        levels = history_groups([*ANCHOR, B], [*TRAJ, 0], [*STEP, 1], 2, weight_b=weight)
        padded = history_advantages([*RETURN, math.nan], levels, CONFIG, weight_b=weight)
        assert padded == pytest.approx([*plain, 0])
