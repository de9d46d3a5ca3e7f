"""Scores beyond eq. 2, and the rows drawn by chance, with numbers worked by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from stapo.algo import OutlierConfig, entropy_scores, select_outliers, state_key
from stapo.errors import NonFiniteError

FOUR = [0.2, 0.3, 0.4, 0.9]
METRICS = ("leave-one-out", "median-mad", "shrunken", "running")


def scores(entropy, anchor, metric, included=None, *, states=None, **settings):
    return entropy_scores(
        entropy, anchor, included, OutlierConfig(metric=metric, **settings),
        state_b=[f"state {a}" for a in anchor], states=states,
    )  # fmt: skip


def score(*args, **settings):
    return scores(*args, **settings).score_b


def batch(n, groups=60, planted=0.5, seed=0):
    """Groups of n steps whose usual entropies differ; one step of the first group is raised."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.3, 1.0, groups)
    entropy = (base[:, None] + 0.03 * rng.normal(size=(groups, n))).ravel()
    entropy[0] += planted
    return entropy, np.repeat(np.arange(groups), n)


class TestLeaveOneOut:
    def test_by_hand(self):
        """.9 against .2 .3 .4: mean .3, spread .1. .2 against .3 .4 .9: mean .5333, spread .32146."""
        found = score(FOUR, [0] * 4, "leave-one-out", eps=0.0)
        assert found[[0, 3]] == pytest.approx([-1.03695, 6.0], abs=1e-4)

    @pytest.mark.parametrize("n", [3, 4, 5, 8])
    def test_it_has_no_bound_where_eq_2_has_one(self, n):
        """However far a step is off, eq. 2 gives (n - 1) / sqrt(n) at most."""
        bound = (n - 1) / math.sqrt(n)
        usual, own = [], []
        for planted in (1.0, 10.0, 100.0):
            entropy = [planted, *np.linspace(0.1, 0.3, n - 1)]
            usual.append(score(entropy, [0] * n, "normalized")[0])
            own.append(score(entropy, [0] * n, "leave-one-out")[0])
        assert max(usual) <= bound + 1e-9
        assert usual[-1] == pytest.approx(bound, abs=1e-3)
        assert own[1] > 9 * own[0]
        assert own[2] > 9 * own[1]

    def test_a_small_group_can_hold_an_outlier_only_here(self):
        """Four attempts per state: eq. 2 cannot reach its fences, whatever is planted."""
        entropy, anchor = batch(4, planted=50.0)
        usual = select_outliers(entropy, anchor, None, OutlierConfig())
        assert usual.upper > 1.5
        assert not usual.mask_b.any()
        assert select_outliers(entropy, anchor, None, OutlierConfig(metric="leave-one-out")).mask_b[0]

    def test_others_without_spread(self):
        """Their spread counts as .01, so that equal entropies make no division by 0 and no outlier of rounding."""
        found = score([0.2, 0.2, 0.2, 0.9], [0] * 4, "leave-one-out", eps=0.0)
        assert found[3] == pytest.approx(70.0)
        assert score([0.3] * 5, [0] * 5, "leave-one-out").tolist() == [0] * 5

    def test_two_rows_have_no_spread_to_leave_one_out_of(self):
        assert score([0.2, 0.9], [0, 0], "leave-one-out").tolist() == [0.2, 0.9]
        assert score([0.2, 0.9], [0, 0], "leave-one-out", singleton="zero").tolist() == [0, 0]
        found = scores([0.2, 0.9], [0, 0], "leave-one-out", singleton="exclude")
        assert not found.scored_b.any()


class TestMedianMad:
    def test_by_hand(self):
        """Median .35, deviations .15 .05 .05 .55 with median .1: .55 / .14826."""
        found = score(FOUR, [0] * 4, "median-mad", eps=0.0)
        assert found == pytest.approx([-1.01174, -0.33724, 0.33724, 3.70970], abs=1e-4)
        found = score([0.1, 0.2, 0.9], [0] * 3, "median-mad", eps=0.0)
        assert found == pytest.approx([-0.67449, 0, 4.72143], abs=1e-4)

    def test_groups_do_not_mix(self):
        both = score([*FOUR, 5.0, 6.0, 9.0], [1] * 4 + [0] * 3, "median-mad")
        assert both[:4] == pytest.approx(score(FOUR, [0] * 4, "median-mad"))
        assert both[4:] == pytest.approx(score([5.0, 6.0, 9.0], [0] * 3, "median-mad"))


class TestShrunken:
    def test_by_hand(self):
        """Batch: mean .65, variance .17. Groups: .3 and .02, 1 and 0. Weight 2 / (2 + 2)."""
        found = score([0.2, 0.4, 1.0, 1.0], [0, 0, 1, 1], "shrunken", shrinkage=2.0, eps=0.0)
        assert found == pytest.approx([-0.89221, -0.24333, 0.60025, 0.60025], abs=1e-4)

    def test_a_state_seen_once_has_a_score(self):
        """.8 alone weighs 1 / 3: its mean is .5333 + .2667, and its variance two thirds of the batch's."""
        entropy = [0.2, 0.4, 0.6, 0.8]
        found = scores(entropy, [0, 0, 0, 1], "shrunken", shrinkage=2.0, eps=0.0)
        spread = math.sqrt(2 / 3 * np.var(entropy, ddof=1))
        assert found.score_b[3] == pytest.approx((0.8 - (0.8 / 3 + 0.5 * 2 / 3)) / spread)
        assert found.scored_b.all()

    def test_without_shrinkage_it_is_eq_2(self):
        entropy, anchor = batch(6)
        own = score(entropy, anchor, "shrunken", shrinkage=0.0, min_scale=1e-9)
        assert own == pytest.approx(score(entropy, anchor, "normalized"), abs=1e-6)


class TestRunning:
    def test_by_hand_over_two_iterations(self):
        first = scores([0.2, 0.4], [0, 0], "running", eps=0.0)
        assert first.score_b == pytest.approx([-0.70711, 0.70711], abs=1e-4)
        assert first.states == {"state 0": pytest.approx((2, 0.3, 0.02))}
        # One visit of the old two is left, with half their squares; pooled with .9 and .5: 3, .56667, .19667.
        second = scores([0.9, 0.5], [0, 0], "running", states=first.states, running_decay=0.5, eps=0.0)
        assert second.states == {"state 0": pytest.approx((3, 0.566667, 0.196667), abs=1e-5)}
        assert second.score_b == pytest.approx([1.06299, -0.21260], abs=1e-4)

    def test_the_past_lifts_the_bound(self):
        """A state visited once per iteration never has a score under eq. 2."""
        states = None
        for entropy in (0.3, 0.31, 0.29, 0.3, 0.32, 0.28, 0.3, 0.31):
            states = scores([entropy], [0], "running", states=states).states
        assert scores([0.9], [0], "running", states=states).score_b[0] > 2

    def test_a_state_is_known_in_every_task(self):
        found = entropy_scores(
            [0.2, 0.4], [0, 1], None, OutlierConfig(metric="running", eps=0.0), state_b=["here", "here"]
        )
        assert found.score_b == pytest.approx([-0.70711, 0.70711], abs=1e-4)
        assert found.size_b.tolist() == [1, 1]

    def test_the_first_visit_is_a_singleton(self):
        assert scores([0.4], [0], "running").score_b.tolist() == [0.4]
        assert not scores([0.4], [0], "running", singleton="exclude").scored_b.any()

    def test_they_survive_json_and_are_not_changed(self):
        entropy, anchor = batch(5)
        states = scores(entropy, anchor, "running").states
        before = dict(states)
        read = json.loads(json.dumps(states))
        one, two = (scores(entropy, anchor, "running", states=s) for s in (states, read))
        assert one.states == two.states
        assert (one.score_b == two.score_b).all()
        assert states == before

    def test_their_number_is_bounded(self):
        states = None
        for first in range(0, 100, 10):
            entropy, anchor = np.full(20, 0.4), first + np.arange(20) % 10
            states = scores(entropy, anchor, "running", states=states, running_states=25).states
            assert len(states) <= 25
        assert set(states) >= {f"state {i}" for i in range(80, 100)}
        # Unseen for long, a state is forgotten without a bound, too.
        for _ in range(60):
            states = scores([0.4], [0], "running", states=states).states
        assert list(states) == ["state 0"]

    def test_a_state_is_needed(self):
        with pytest.raises(ValueError, match="state_b is None"):
            entropy_scores([0.4], [0], None, OutlierConfig(metric="running"))
        assert state_key("a desk") != state_key("a bed")
        assert len(state_key("a \udc80 desk")) == 16


class TestRandom:
    RANDOM, IQR = OutlierConfig(select="random"), OutlierConfig()

    def data(self):
        entropy, anchor = batch(20, seed=3)
        entropy[::100] += 1.0
        return np.append(entropy, [np.nan, np.nan]), np.append(anchor, [0, 1])

    def draw(self, *seed, **settings):
        entropy, anchor = self.data()
        config = OutlierConfig(select="random", **settings)
        return select_outliers(entropy, anchor, np.isfinite(entropy), config, seed=seed)

    def test_as_many_as_the_fences_flag(self):
        entropy, anchor = self.data()
        usual = select_outliers(entropy, anchor, np.isfinite(entropy), self.IQR)
        drawn = self.draw(0, 1)
        assert drawn.flagged == usual.flagged == drawn.mask_b.sum() >= 12
        assert (drawn.mask_b != usual.mask_b).any()
        assert (drawn.lower, drawn.upper) == (usual.lower, usual.upper)

    def test_the_seed_decides_alone(self):
        one, same, other = self.draw(0, 1), self.draw(0, 1), self.draw(0, 2)
        assert (one.mask_b == same.mask_b).all()
        assert (one.mask_b != other.mask_b).any()

    def test_every_row_with_a_score_has_the_same_chance(self):
        count = sum(self.draw(0, i).mask_b.astype(int) for i in range(300))
        assert count[-2:].tolist() == [0, 0]
        expected = 300 * self.draw(0).flagged / 1200
        assert count[:-2].mean() == pytest.approx(expected)
        # Six standard deviations of a binomial count.
        assert count.max() < expected + 6 * math.sqrt(expected)

    def test_nothing_flagged_nothing_drawn(self):
        assert not select_outliers([0.3] * 9, [0] * 9, None, self.RANDOM, seed=(0,)).mask_b.any()
        assert self.draw(0, max_fraction=2 / 1200).flagged == 2
        with pytest.raises(ValueError, match="seed is None"):
            select_outliers(*batch(20), None, self.RANDOM)


@pytest.mark.parametrize("metric", METRICS)
class TestEveryScore:
    def test_equal_entropies_are_0(self, metric):
        for value in (0.0, 0.7):
            found = select_outliers(
                [value] * 12, np.arange(12) % 3, None, OutlierConfig(metric=metric), state_b=["s"] * 12
            )
            assert found.normalized_b == pytest.approx(np.zeros(12), abs=1e-9)
            assert not found.mask_b.any()
            assert "interquartile" in found.reason

    def test_order_of_rows(self, metric):
        entropy, anchor = batch(5)
        p = np.random.default_rng(1).permutation(len(entropy))
        assert score(entropy[p], anchor[p], metric) == pytest.approx(score(entropy, anchor, metric)[p])

    def test_padding(self, metric):
        entropy, anchor = batch(5)
        plain = score(entropy, anchor, metric)
        weight = np.append(np.ones(len(entropy)), [0, 0])
        padded = scores(np.append(entropy, [np.nan, 50.0]), np.append(anchor, [0, 999]), metric, weight)
        assert padded.score_b == pytest.approx([*plain, 0, 0])
        assert padded.scored_b[-2:].tolist() == [False, False]
        assert padded.size_b[-2:].tolist() == [0, 0]

    def test_a_shift_of_all_entropies_changes_nothing(self, metric):
        entropy, anchor = batch(5)
        shifted = score(entropy + 3.0, anchor, metric)
        assert shifted == pytest.approx(score(entropy, anchor, metric), abs=1e-6)

    def test_nothing_and_nothing_in_use(self, metric):
        assert score([], [], metric).tolist() == []
        found = scores([0.4, 0.5], [0, 0], metric, [0, 0])
        assert found.score_b.tolist() == [0, 0]
        assert not found.scored_b.any()

    def test_everything_flagged(self, metric):
        entropy, anchor = batch(5)
        config = OutlierConfig(metric=metric, select="all")
        assert select_outliers(entropy, anchor, None, config, state_b=["s"] * len(entropy)).mask_b.all()

    def test_numbers_that_are_not_finite(self, metric):
        with pytest.raises(NonFiniteError, match="entropy_b"):
            score([math.inf, 0.4], [0, 0], metric)
