"""How well a score finds bad steps.

1. The area under the ROC curve is the chance that a bad row scores above a good one, ties counted half.
2. The curve has one point per distinct score, and its area is the same number.
3. A resample is the data with whole clusters repeated or left out.
4. Intervals respect clusters: repeating rows inside a cluster does not narrow them.
5. Inside groups, a bad row is compared with the good ones of its own group alone.
"""

from __future__ import annotations

import numpy as np
import pytest

from stapo.diagnosis.ranking import (
    auc,
    auc_inside_replicates,
    auc_replicates,
    estimate,
    mean_replicates,
    resamples,
    roc_curve,
)

SCORE = [3.0, 1.0, 2.0, 2.0]
BAD = [True, False, True, False]


# -- 1 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "score, bad, expected",
    [
        # Pairs (bad, good): 3>1, 3>2, 2>1 and the tie 2=2: (1 + 1 + 1 + 0.5) / 4.
        (SCORE, BAD, 0.875),
        ([1.0, 2.0], [False, True], 1.0),
        ([1.0, 2.0], [True, False], 0.0),
        ([7.0, 7.0, 7.0], [True, False, False], 0.5),
        # -1 beats neither, 5 beats both: (0 + 2) / 4.
        ([-1.0, 5.0, 0.0, 4.0], [True, True, False, False], 0.5),
    ],
)
def test_area_by_hand(score, bad, expected):
    assert auc(score, bad) == pytest.approx(expected)


def test_area_needs_both_kinds():
    assert np.isnan(auc([1.0, 2.0], [True, True]))
    assert np.isnan(auc([], []))


def test_area_depends_on_ranks_alone_and_turns_with_the_sign():
    random = np.random.Generator(np.random.Philox(1))
    score, bad = random.normal(size=60).round(1), random.random(60) < 0.3
    assert auc(np.exp(score), bad) == pytest.approx(auc(score, bad))
    assert auc(-score, bad) == pytest.approx(1 - auc(score, bad))


def test_wrong_input():
    with pytest.raises(ValueError, match=r"shape \(2,\) and bad_b \(1,\)"):
        auc([1.0, 2.0], [True])
    with pytest.raises(ValueError, match="holds nan; expected finite scores"):
        auc([1.0, np.nan], [True, False])


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_curve_by_hand():
    false_positive, true_positive = roc_curve(SCORE, BAD)
    np.testing.assert_allclose(false_positive, [0, 0, 0.5, 1])
    np.testing.assert_allclose(true_positive, [0, 0.5, 1, 1])


def test_area_under_the_curve_is_the_area():
    random = np.random.Generator(np.random.Philox(2))
    score, bad = random.integers(0, 6, 80).astype(float), random.random(80) < 0.4
    x, y = roc_curve(score, bad)
    assert np.trapezoid(y, x) == pytest.approx(auc(score, bad))
    assert len(x) == 1 + len(set(score))


def test_no_curve_of_one_kind():
    assert roc_curve([1.0], [True])[0].size == 0


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_resampled_areas_by_hand():
    cluster, counts = [0, 0, 1, 1], np.array([[2, 0], [1, 1], [0, 2]])
    value, replicates = auc_replicates(SCORE, BAD, cluster, counts)
    assert value == pytest.approx(0.875)
    # Cluster 0 alone: 3 > 1. Both: as above. Cluster 1 alone: the tie.
    np.testing.assert_allclose(replicates, [1.0, 0.875, 0.5])


def test_resampled_areas_are_those_of_repeated_rows():
    random = np.random.Generator(np.random.Philox(3))
    score, bad = random.normal(size=40).round(1), random.random(40) < 0.4
    cluster, counts = random.integers(0, 5, 40), resamples(5, 30, seed=0)
    _, replicates = auc_replicates(score, bad, cluster, counts)
    for count, found in zip(counts, replicates, strict=True):
        repeat = count[cluster]
        assert found == pytest.approx(auc(np.repeat(score, repeat), np.repeat(bad, repeat)), nan_ok=True)


def test_a_resample_without_bad_rows_has_no_area():
    _, replicates = auc_replicates([1.0, 2.0], [True, False], [0, 1], np.array([[2, 0], [1, 1], [0, 2]]))
    np.testing.assert_allclose(replicates, [np.nan, 0.0, np.nan])


def test_resampled_means_by_hand():
    counts = np.array([[2, 0], [1, 1], [0, 2]])
    value, replicates = mean_replicates([1.0, 3.0, 5.0], [True] * 3, [0, 0, 1], counts)
    assert value == 3.0
    np.testing.assert_allclose(replicates, [2.0, 3.0, 5.0])
    value, replicates = mean_replicates([1.0, 3.0, np.nan], [True, False, False], [0, 0, 1], counts)
    assert value == 1.0
    np.testing.assert_allclose(replicates, [1.0, 1.0, np.nan])
    assert np.isnan(mean_replicates([1.0], [False], [0], counts)[0])


def test_resamples_draw_as_many_clusters_as_there_are():
    counts = resamples(6, 200, seed=4)
    assert counts.shape == (200, 6)
    assert (counts.sum(1) == 6).all()
    np.testing.assert_array_equal(counts, resamples(6, 200, seed=4))
    assert (counts != resamples(6, 200, seed=5)).any()
    assert resamples(1, 200, seed=0).shape == (0, 1)


# -- 4 -----------------------------------------------------------------------------------------------------------------


def test_interval_by_hand():
    assert estimate(7.0, np.arange(101.0)) == (7.0, 2.5, 97.5)
    assert estimate(7.0, np.array([np.nan, 1.0, 3.0, np.nan]))[1:] == pytest.approx((1.05, 2.95))


@pytest.mark.parametrize("value, replicates", [(np.nan, [1.0, 2.0]), (1.0, [np.nan, 1.0]), (1.0, [])])
def test_no_interval(value, replicates):
    assert np.isnan(estimate(value, np.array(replicates))[1:]).all()


def test_repeated_rows_do_not_narrow_an_interval():
    random = np.random.Generator(np.random.Philox(6))
    value, cluster, counts = random.normal(size=12), np.arange(12), resamples(12, 500, seed=0)
    once = estimate(*mean_replicates(value, np.ones(12, bool), cluster, counts))
    often = estimate(*mean_replicates(np.repeat(value, 50), np.ones(600, bool), np.repeat(cluster, 50), counts))
    np.testing.assert_allclose(once, often)
    assert once.high - once.low > 0.3


# -- 5 -----------------------------------------------------------------------------------------------------------------


def inside(score, bad, group, cluster=None, counts=None):
    clusters = [0] * len(score) if cluster is None else cluster
    return auc_inside_replicates(score, bad, group, clusters, np.ones((1, 1), int) if counts is None else counts)


def test_area_inside_groups_by_hand():
    # Group 7: pairs 3 > 1, 2 > 1. Group 9: the tie 5 = 5, and 4 < 5. Group 8 has no good row, and no pair.
    score, bad = [3.0, 1.0, 2.0, 5.0, 5.0, 4.0, 0.0], [True, False, True, True, False, True, True]
    value, replicates = inside(score, bad, [7, 7, 7, 9, 9, 9, 8])
    assert value == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert replicates == pytest.approx([value])
    assert np.isnan(inside([1.0, 2.0], [True, False], [0, 1])[0])
    with pytest.raises(ValueError, match="expected finite scores"):
        inside([np.nan], [True], [0])


def test_a_score_less_the_mean_of_its_group_is_another_matter():
    """Bad rows have the higher score in every group, but half of them are below the mean of theirs."""
    score = np.array([0.9, 1.0, 1.1, 5.0, 0.1, 0.1, 0.1, 0.12])
    bad = np.array([False, True, True, True, False, False, False, True])
    group = np.repeat([0, 1], 4)
    assert inside(score, bad, group)[0] == 1.0
    means = np.array([score[group == g].mean() for g in (0, 1)])
    assert auc(score - means[group], bad) < 0.7


def test_area_inside_groups_of_a_resample_is_that_of_repeated_clusters():
    random = np.random.Generator(np.random.Philox(3))
    group = random.integers(0, 12, 90)
    cluster = group // 3
    score, bad = random.normal(size=90).round(1), random.random(90) < 0.4
    counts = resamples(4, 30, 0)
    value, replicates = inside(score, bad, group, cluster, counts)
    pairs = [(score[i], score[j], cluster[i]) for i in range(90) for j in range(90)
             if group[i] == group[j] and bad[i] and not bad[j]]  # fmt: skip
    wins = np.array([(a > b) + (a == b) / 2 for a, b, _ in pairs])
    assert value == pytest.approx(wins.mean())
    for found, count in zip(replicates, counts, strict=True):
        weight = count[[c for *_, c in pairs]]
        assert found == pytest.approx((wins * weight).sum() / weight.sum())
