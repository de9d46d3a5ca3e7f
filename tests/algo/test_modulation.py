"""EMPG: the scale of certainty, the bonus, and the centring, with numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stapo.algo import ModulationConfig, entropy_scale, get_algorithm, modulated_advantages
from stapo.errors import NonFiniteError

EMPG = ModulationConfig(kind="empg", zeta=0.1)


def bent(advantage, entropy, traj, step, config=EMPG, **more):
    return modulated_advantages(advantage, entropy, traj, step, config, **more)


def test_the_scale_of_the_method_notes():
    level, scale = entropy_scale([1.0, 2.0, 3.0], 1.0)
    assert level.tolist() == [0, 0.5, 1]
    assert scale == pytest.approx([1.5194, 0.9216, 0.5590], abs=5e-5)
    assert scale.mean() == pytest.approx(1.0)


def test_by_hand():
    """1 x g + .1 x (e^-.5, e^-1, 0) = 1.580094, .958376, .558970; their mean 1.032480 is taken off."""
    found = bent([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], [0, 0, 0], [0, 1, 2])
    assert found == pytest.approx([0.547614, -0.074104, -0.473510], abs=1e-5)


def test_the_bonus_ends_with_the_trajectory():
    """Steps 0 and 2 are followed by nothing that their trajectory would lead to."""
    found = bent([0.0] * 3, [0.5, 0.5, 0.5], [0, 1, 1], [0, 0, 1])
    # All entropies equal: Hn 0, so that the one bonus is .1; the mean is .0333.
    assert found == pytest.approx([-1 / 30, 2 / 30, -1 / 30], abs=1e-6)


def test_sharpness_and_weight():
    flat = bent([1.0, 2.0], [0.0, 1.0], [0, 1], [0, 0], ModulationConfig(kind="empg", k=0.0, zeta=0.0))
    assert flat == pytest.approx([-0.5, 0.5])
    assert bent([1.0, 2.0], [0.0, 1.0], [0, 1], [0, 0], ModulationConfig()).tolist() == [1, 2]
    preset = get_algorithm("empg").modulation
    assert (preset.kind, preset.k, preset.k_future) == ("empg", 1.0, 1.0)
    assert 0.05 <= preset.zeta <= 0.1


class TestDegenerate:
    def test_equal_or_zero_entropies_scale_nothing(self):
        for entropy in (0.0, 0.7):
            found = bent([3.0, 1.0], [entropy] * 2, [0, 1], [0, 0])
            assert found == pytest.approx([1, -1])

    def test_one_row_and_none(self):
        assert bent([3.0], [0.4], [0], [0]).tolist() == [0]
        assert bent([], [], [], []).tolist() == []

    def test_a_row_without_tokens(self):
        found = bent([1.0, 1.0, 1.0], [0.2, math.nan, 0.8], [0, 0, 1], [0, 1, 0])
        certain = np.exp([0.0, -1.0])
        g = certain / certain.mean()
        expected = np.array([g[0], 1.0, g[1]])
        assert found == pytest.approx(expected - expected.mean(), abs=1e-6)
        with pytest.raises(NonFiniteError, match="entropy_b"):
            bent([1.0], [math.inf], [0], [0])

    def test_padding(self):
        plain = bent([1.0, 2.0], [0.1, 0.3], [0, 0], [0, 1])
        padded = bent([1.0, 2.0, math.nan], [0.1, 0.3, 9.0], [0, 0, 0], [0, 1, 2], weight_b=[1, 1, 0])
        assert padded == pytest.approx([*plain, 0])


def test_order_of_rows_and_a_shift_of_entropies_change_nothing():
    rng = np.random.default_rng(1)
    advantage, entropy = rng.normal(size=12), rng.random(12)
    traj, step = np.repeat([0, 1, 2], 4), np.tile(np.arange(4), 3)
    plain = bent(advantage, entropy, traj, step)
    p = rng.permutation(12)
    assert bent(advantage[p], entropy[p] + 2.0, traj[p], step[p]) == pytest.approx(plain[p], abs=1e-5)
    assert plain.mean() == pytest.approx(0.0, abs=1e-6)
