"""How well a number ranks bad steps above good ones, and how sure that is.

Area under the ROC curve by ranks, ties counted half. Intervals by bootstrap over whole clusters (tasks): the steps of
one task resemble each other, and resampling single steps would make every interval too narrow. All quantities of one
diagnosis share their resamples, so differences between them are paired.

Pure functions on arrays; shape letters B rows (steps), C clusters, R resamples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


class Estimate(NamedTuple):
    """A number with its 95 % interval.

    Attributes:
        value: from the data as they are; NaN where it is undefined.
        low: 2.5 % quantile over resamples; NaN where there are too few clusters to resample.
        high: 97.5 % quantile.
    """

    value: float
    low: float
    high: float


def auc(score_b: npt.ArrayLike, bad_b: npt.ArrayLike) -> float:
    """Chance that a bad row scores above a good one, ties counted half; NaN without both kinds.

    Args:
        score_b: (B,) higher means more suspicious; finite.
        bad_b: (B,) the rows that should score high.

    Raises:
        ValueError: lengths differ, or a score is not finite.
    """
    score, bad = _checked(score_b, bad_b)
    wins, pairs = _wins(score, bad, np.zeros(len(bad), dtype=np.int64), 1)
    return float(wins[0, 0] / pairs[0, 0]) if pairs[0, 0] else float("nan")


def roc_curve(score_b: npt.ArrayLike, bad_b: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Share of good and of bad rows at or above each threshold, from (0, 0) to (1, 1); equal scores are one point.

    Returns:
        false and true positive rates; empty where one kind of row is missing.

    Raises:
        ValueError: lengths differ, or a score is not finite.
    """
    score, bad = _checked(score_b, bad_b)
    if bad.all() or not bad.any():
        return np.zeros(0), np.zeros(0)
    order = np.argsort(-score, kind="stable")
    score, bad = score[order], bad[order]
    last = np.append(score[1:] != score[:-1], True)
    hits, misses = np.cumsum(bad)[last], np.cumsum(~bad)[last]
    return np.append(0.0, misses / misses[-1]), np.append(0.0, hits / hits[-1])


def resamples(clusters: int, count: int, seed: int) -> Counts:
    """How often each cluster is drawn in each resample.

    Args:
        clusters: C; every resample draws C of them with replacement.
        count: R resamples.
        seed: names the random stream.

    Returns:
        (R, C) counts; with fewer than two clusters there is nothing to resample, and R is 0.
    """
    if clusters < 2:
        return np.zeros((0, clusters), dtype=np.int64)
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, 32))))
    return random.multinomial(clusters, np.full(clusters, 1 / clusters), size=count)


def auc_replicates(
    score_b: npt.ArrayLike, bad_b: npt.ArrayLike, cluster_b: npt.ArrayLike, counts_rc: Counts
) -> tuple[float, Floats]:
    """The area under the ROC curve, of the data and of each resample (NaN where that lacks one kind of row).

    Args:
        score_b: (B,) scores.
        bad_b: (B,) bad rows.
        cluster_b: (B,) cluster of each row, 0 … C-1.
        counts_rc: (R, C) as `resamples` returns.

    Raises:
        ValueError: lengths differ, or a score is not finite.
    """
    score, bad = _checked(score_b, bad_b)
    wins, pairs = _wins(score, bad, np.asarray(cluster_b, dtype=np.int64), counts_rc.shape[1])
    c = counts_rc.astype(np.float64)
    # The pairs of a resample are those of the data, weighted by how often both clusters were drawn.
    return _ratio(wins.sum(), pairs.sum()), _ratios(((c @ wins) * c).sum(1), ((c @ pairs) * c).sum(1))


def auc_inside_replicates(
    score_b: npt.ArrayLike, bad_b: npt.ArrayLike, group_b: npt.ArrayLike, cluster_b: npt.ArrayLike, counts_rc: Counts
) -> tuple[float, Floats]:
    """The chance that a bad row scores above a good row of its own group, ties counted half.

    All such pairs count alike, whatever their group. A score less the mean of its group is not ranked by this: where
    most rows of a group are bad, half of these are below its mean, and are compared with good rows of other groups.

    Args:
        score_b: (B,) scores.
        bad_b: (B,) bad rows.
        group_b: (B,) group of each row, any numbers.
        cluster_b: (B,) cluster of each row, 0 … C-1; the rows of a group have one.
        counts_rc: (R, C) as `resamples` returns.

    Returns:
        of the data and of each resample; NaN where no group has both kinds of rows.

    Raises:
        ValueError: lengths differ, or a score is not finite.
    """
    score, bad = _checked(score_b, bad_b)
    _, group, size = np.unique(np.asarray(group_b), return_inverse=True, return_counts=True)
    order = np.lexsort((score, group))
    wins_c, pairs_c = np.zeros(counts_rc.shape[1]), np.zeros(counts_rc.shape[1])
    for rows in np.split(order, np.cumsum(size)[:-1]):
        good, hits = score[rows[~bad[rows]]], score[rows[bad[rows]]]
        if len(good) and len(hits):
            cluster = int(np.asarray(cluster_b)[rows[0]])
            wins_c[cluster] += (np.searchsorted(good, hits, "left") + np.searchsorted(good, hits, "right")).sum() / 2
            pairs_c[cluster] += len(good) * len(hits)
    c = counts_rc.astype(np.float64)
    return _ratio(wins_c.sum(), pairs_c.sum()), _ratios(c @ wins_c, c @ pairs_c)


def mean_replicates(
    value_b: npt.ArrayLike, rows_b: npt.ArrayLike, cluster_b: npt.ArrayLike, counts_rc: Counts
) -> tuple[float, Floats]:
    """Mean of `value_b` over the rows `rows_b`, of the data and of each resample (NaN without such rows)."""
    rows = np.asarray(rows_b, dtype=bool)
    value, cluster = np.asarray(value_b, dtype=np.float64)[rows], np.asarray(cluster_b, dtype=np.int64)[rows]
    width, weights_rc = counts_rc.shape[1], counts_rc.astype(np.float64)
    sums, sizes = np.bincount(cluster, value, width), np.bincount(cluster, minlength=width).astype(np.float64)
    return _ratio(sums.sum(), sizes.sum()), _ratios(weights_rc @ sums, weights_rc @ sizes)


def estimate(value: float, replicates_r: Floats) -> Estimate:
    """A value with the interval that its resamples give."""
    known = replicates_r[np.isfinite(replicates_r)]
    if not np.isfinite(value) or len(known) < 2:
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(known, (0.025, 0.975))
    return Estimate(value, float(low), float(high))


def _checked(score_b: npt.ArrayLike, bad_b: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
    score, bad = np.asarray(score_b, dtype=np.float64), np.asarray(bad_b, dtype=bool)
    if score.shape != bad.shape or score.ndim != 1:
        raise ValueError(f"score_b has shape {score.shape} and bad_b {bad.shape}; expected one shape (B,).")
    if not np.isfinite(score).all():
        raise ValueError(f"score_b holds {score[~np.isfinite(score)][0]}; expected finite scores.")
    return score, bad


def _wins(score: Floats, bad: npt.NDArray[np.bool_], cluster: Counts, width: int) -> tuple[Floats, Floats]:
    """(C, C) bad rows of one cluster above good rows of another, ties half; and how many such pairs there are."""
    wins, bad_score, bad_cluster = np.zeros((width, width)), score[bad], cluster[bad]
    good_c = np.bincount(cluster[~bad], minlength=width).astype(np.float64)
    bad_c = np.bincount(bad_cluster, minlength=width).astype(np.float64)
    for c in np.flatnonzero(good_c):
        good = np.sort(score[~bad & (cluster == c)])
        below = np.searchsorted(good, bad_score, "left") + np.searchsorted(good, bad_score, "right")
        wins[:, c] = np.bincount(bad_cluster, below / 2, width)
    return wins, np.outer(bad_c, good_c)


def _ratio(top: float, bottom: float) -> float:
    return float(top / bottom) if bottom else float("nan")


def _ratios(top: Floats, bottom: Floats) -> Floats:
    known = bottom > 0
    return np.where(known, top, np.nan) / np.where(known, bottom, 1.0)
