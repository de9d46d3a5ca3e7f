"""Step entropy, its z-score, the fences, and every reason for which nothing is flagged."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stapo.algo import OutlierConfig, normalized_entropy, select_outliers, step_entropy
from stapo.errors import NonFiniteError

G1 = [0.20, 0.22, 0.18, 0.21, 0.19, 0.20, 0.23, 0.17, 0.20, 0.21, 0.19, 0.65]
ENTROPY = np.array([*G1, 0.50, 0.55, 0.45, 0.52, 0.33])
ANCHOR = np.array([0] * 12 + [1] * 4 + [2])


def flagged(out) -> list[int]:
    return np.flatnonzero(out.mask_b).tolist()


@pytest.mark.parametrize(
    ("ddof", "z", "q1", "q3", "lower", "upper"),
    [
        (1, 3.1500, -0.3627, -0.0573, -0.8209, 0.4009),
        (0, 3.2901, -0.3789, -0.0598, -0.8574, 0.4187),
    ],
)
def test_fixture(ddof, z, q1, q3, lower, upper):
    out = select_outliers(ENTROPY, ANCHOR, None, OutlierConfig(ddof=ddof))
    got = [out.normalized_b[11], out.q1, out.q3, out.lower, out.upper]
    np.testing.assert_allclose(got, [z, q1, q3, lower, upper], atol=5e-5)
    assert flagged(out) == [11, 13, 14]
    assert np.flatnonzero(out.high_b).tolist() == [11, 13]
    assert np.flatnonzero(out.low_b).tolist() == [14]
    assert out.iqr == pytest.approx(out.q3 - out.q1)
    assert (out.included, out.flagged, out.reason) == (17, 3, None)
    assert out.singleton_share == pytest.approx(1 / 17)
    np.testing.assert_array_equal(out.anchor_size_b, [12] * 12 + [4] * 4 + [1])
    assert out.normalized_b[16] == pytest.approx(0.33)


class TestKnobs:
    def test_sides(self):
        assert flagged(select_outliers(ENTROPY, ANCHOR, None, OutlierConfig(sides="high"))) == [
            11,
            13,
        ]
        assert flagged(select_outliers(ENTROPY, ANCHOR, None, OutlierConfig(sides="low"))) == [14]

    def test_singletons(self):
        zero = select_outliers(ENTROPY, ANCHOR, None, OutlierConfig(singleton="zero"))
        assert zero.normalized_b[16] == 0
        assert zero.included == 17
        out = select_outliers(ENTROPY, ANCHOR, None, OutlierConfig(singleton="exclude"))
        assert out.included == 16
        assert not out.included_b[16]
        expected = np.quantile(out.normalized_b[:16].astype(float), [0.25, 0.75])
        np.testing.assert_allclose([out.q1, out.q3], expected, atol=1e-6)

    def test_n_min_moves_small_groups_to_the_singletons(self):
        out = select_outliers(ENTROPY, ANCHOR, None, OutlierConfig(n_min=5))
        np.testing.assert_allclose(out.normalized_b[12:], ENTROPY[12:], atol=1e-7)
        assert out.singleton_share == pytest.approx(5 / 17)

    def test_shannon_scores_are_the_entropies(self):
        out = select_outliers(ENTROPY, ANCHOR, None, OutlierConfig(metric="shannon"))
        np.testing.assert_allclose(out.normalized_b, ENTROPY, atol=1e-7)
        q1, q3 = np.quantile(ENTROPY, [0.25, 0.75])
        assert (out.q1, out.q3) == (pytest.approx(q1), pytest.approx(q3))
        far = np.append(ENTROPY, 9.0)
        out = select_outliers(far, np.append(ANCHOR, 2), None, OutlierConfig(metric="shannon", singleton="exclude"))
        assert flagged(out) == [17]

    def test_lambda_zero_flags_what_lies_outside_the_quartiles(self):
        out = select_outliers(ENTROPY, ANCHOR, None, OutlierConfig(lam=0.0))
        z = out.normalized_b.astype(float)
        expected = (z > out.q3 + 1e-6) | (z < out.q1 - 1e-6)
        np.testing.assert_array_equal(out.mask_b, expected)
        assert 0.3 < out.mask_b.mean() < 0.6

    @pytest.mark.parametrize(("distance", "count"), [(5e-7, 0), (1e-5, 1)])
    @pytest.mark.parametrize("sign", [1, -1])
    def test_a_fence_has_to_be_cleared_by_the_margin(self, distance, count, sign):
        entropy = 10 + sign * np.array([0.0, 1, 2, 3, 3 + distance])
        sides = "high" if sign > 0 else "low"
        settings = OutlierConfig(metric="shannon", lam=0.0, sides=sides)
        assert select_outliers(entropy, [0] * 5, None, settings).flagged == count

    def test_select_all_flags_every_row_in_use_and_still_reports_fences(self):
        used = np.ones(17)
        used[3] = 0
        out = select_outliers(ENTROPY, ANCHOR, used, OutlierConfig(select="all"))
        np.testing.assert_array_equal(out.mask_b, used > 0)
        assert out.high_b[11]
        assert math.isfinite(out.upper)
        excluded = OutlierConfig(select="all", singleton="exclude")
        assert select_outliers(ENTROPY, ANCHOR, used, excluded).mask_b[16]

    def test_max_fraction_keeps_the_farthest(self):
        out = select_outliers(ENTROPY, ANCHOR, None, OutlierConfig(max_fraction=1 / 17))
        assert flagged(out) == [11]
        assert (int(out.high_b.sum()), int(out.low_b.sum())) == (1, 0)
        out = select_outliers(ENTROPY, ANCHOR, None, OutlierConfig(max_fraction=0.99))
        assert flagged(out) == [11, 13, 14]
        assert int(out.high_b.sum()) == 2

    def test_std_floor_silences_a_tiny_spread(self):
        entropy = np.array([0.2, 0.2 + 1e-4, 0.2 - 1e-4, 0.4, 0.5, 0.9])
        anchor = [0, 0, 0, 1, 1, 1]
        loud, _, _ = normalized_entropy(entropy, anchor, None, OutlierConfig())
        assert abs(loud[1]) > 0.9
        quiet, _, _ = normalized_entropy(entropy, anchor, None, OutlierConfig(std_floor=1e-3))
        np.testing.assert_array_equal(quiet[:3], 0)
        assert quiet[3:].any()


class TestNothingCanBeFlagged:
    def reason(self, entropy, anchor, included=None, **settings):
        out = select_outliers(entropy, anchor, included, OutlierConfig(**settings))
        assert not out.mask_b.any()
        assert out.flagged == 0
        return out.reason

    def test_reasons(self):
        assert "'none'" in self.reason(ENTROPY, ANCHOR, select="none")
        assert "no row" in self.reason(ENTROPY, ANCHOR, np.zeros(17))
        assert "no row" in self.reason([], [])
        assert "n_min 2" in self.reason([1.0, 2.0], [0, 1], singleton="exclude")
        assert "interquartile range 0" in self.reason([0.0] * 9, [0] * 9)
        assert "less than one" in self.reason(ENTROPY, ANCHOR, max_fraction=0.01)

    def test_iqr_below_the_limit_even_with_a_far_row(self):
        """Eleven equal steps and one at 5: the fences collapse, and nothing may be flagged."""
        entropy = [0.3] * 11 + [5.0]
        assert "interquartile" in self.reason(entropy, [0] * 12)

    def test_no_row_outside_is_not_a_reason(self):
        out = select_outliers([0.1, 0.2, 0.3, 0.4], [0] * 4, None, OutlierConfig())
        assert (out.flagged, out.reason) == (0, None)

    def test_all_steps_with_equal_entropy_are_still_all_flagged(self):
        out = select_outliers([0.0] * 4, [0] * 4, None, OutlierConfig(select="all"))
        assert out.flagged == 4


class TestInvariances:
    def test_permutation(self, batch):
        p = np.random.default_rng(3).permutation(batch.n)
        a = select_outliers(batch.entropy, batch.anchor, None, OutlierConfig())
        b = select_outliers(batch.entropy[p], batch.anchor[p], None, OutlierConfig())
        np.testing.assert_array_equal(b.mask_b, a.mask_b[p])
        np.testing.assert_allclose([a.lower, a.upper], [b.lower, b.upper], atol=1e-9)

    def test_padding(self, batch):
        a = select_outliers(batch.entropy, batch.anchor, None, OutlierConfig())
        entropy = np.append(batch.entropy, [np.nan, 50.0])
        weight = np.append(np.ones(batch.n), [0, 0])
        b = select_outliers(entropy, np.append(batch.anchor, [0, 0]), weight, OutlierConfig())
        np.testing.assert_array_equal(b.mask_b, np.append(a.mask_b, [False, False]))
        assert (a.lower, a.upper, a.included) == (b.lower, b.upper, b.included)
        np.testing.assert_array_equal(b.normalized_b[-2:], 0)

    @given(st.integers(0, 10_000), st.floats(-0.1, 5), st.floats(0.5, 4))
    @settings(max_examples=40, deadline=None)
    def test_shift_and_scale_of_entropy_without_singletons(self, seed, shift, scale):
        rng = np.random.default_rng(seed)
        entropy, anchor = rng.gamma(2, 0.3, 80) + 0.1, np.repeat(np.arange(8), 10)
        config = OutlierConfig(eps=0.0)
        a = select_outliers(entropy, anchor, None, config)
        b = select_outliers(entropy * scale + shift, anchor, None, config)
        np.testing.assert_allclose(a.normalized_b, b.normalized_b, atol=1e-5)

    @given(st.integers(0, 10_000))
    @settings(max_examples=40, deadline=None)
    def test_wider_fences_flag_fewer(self, seed):
        rng = np.random.default_rng(seed)
        entropy, anchor = rng.gamma(1, 0.5, 120), rng.integers(10, size=120)
        masks = [select_outliers(entropy, anchor, None, OutlierConfig(lam=lam)).mask_b for lam in (0.5, 1.5, 3.0)]
        assert np.all(masks[2] <= masks[1])
        assert np.all(masks[1] <= masks[0])


def test_small_groups_cannot_hold_an_outlier():
    """In groups of 5 a score stays below 1.79, inside fences of a wide spread of scores."""
    rng = np.random.default_rng(0)
    entropy, anchor = rng.normal(1.0, 0.2, 500), np.repeat(np.arange(100), 5)
    entropy[0] = 40.0
    out = select_outliers(entropy, anchor, None, OutlierConfig())
    assert out.upper > 1.79
    assert out.flagged == 0


class TestStepEntropy:
    def test_masked_mean_by_hand(self):
        entropy = [[1.0, 3.0, np.nan], [5.0, np.inf, 7.0], [np.nan] * 3]
        mask = [[1, 1, 0], [0, 0, 1], [0, 0, 0]]
        mean, count = step_entropy(entropy, mask)
        np.testing.assert_array_equal(mean, [2, 7, 0])
        np.testing.assert_array_equal(count, [2, 1, 0])
        assert mean.dtype == np.float32

    def test_a_row_without_tokens_is_left_out(self):
        mean, count = step_entropy([[0.1], [0.2], [9.0]], [[1], [1], [0]])
        out = select_outliers(mean, [0, 0, 0], count, OutlierConfig())
        assert out.included == 2
        assert not out.mask_b[2]

    def test_non_finite_entries_are_named(self):
        with pytest.raises(NonFiniteError, match=r"entropy_bl holds nan at row 1 \(index \(1, 0\)"):
            step_entropy([[1.0], [np.nan]], [[1], [1]])
        with pytest.raises(NonFiniteError, match="entropy_b holds inf at row 0"):
            select_outliers([np.inf, 1.0], [0, 0], None, OutlierConfig())

    def test_shapes_must_agree(self):
        with pytest.raises(ValueError, match="expected one shape"):
            step_entropy([[1.0]], [[1, 1]])
        with pytest.raises(ValueError, match="anchor_b has shape"):
            select_outliers([1.0, 2.0], [0], None, OutlierConfig())


def test_zero_entropy_everywhere_is_harmless():
    out = select_outliers([0.0] * 5, [0, 0, 1, 1, 2], None, OutlierConfig())
    np.testing.assert_array_equal(out.normalized_b, 0)
    assert all(math.isfinite(x) for x in dataclasses.astuple(out)[6:11])
