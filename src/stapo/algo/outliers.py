"""Which steps stand out: step entropy, its z-score in anchor groups, fences (STAPO eq. 1 to 3).

Runs once per rollout batch, on unique rows, without gradients. With several ranks gather the
entropies first: the quartiles belong to the whole batch. Fences use float64 and linearly
interpolated quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stapo.algo.checks import require_finite, require_length
from stapo.algo.config import OutlierConfig
from stapo.algo.groups import (
    BoolArray,
    DoubleArray,
    FloatArray,
    float32,
    group_statistics,
    real_values,
    standardise,
)

FENCE_MARGIN = 1e-6
"""A score has to clear a fence by this much, so that rounding alone never flags a row."""

MIN_IQR = 1e-6
"""Below this interquartile range the fences collapse onto the quartiles; no row is flagged."""


@dataclass(frozen=True)
class Outliers:
    """What `select_outliers` returns; arrays are (B,) and False or 0 on rows that took no part.

    Attributes:
        mask_b: the flagged rows, M_b of eq. 3.
        normalized_b: float32 score that was held against the fences (eq. 2, or eq. 1 under
            ``metric=shannon``).
        included_b: rows that had a score: of weight above 0, and not a singleton under
            ``singleton=exclude``.
        high_b: flagged rows above the upper fence.
        low_b: flagged rows below the lower fence.
        anchor_size_b: int64, rows in the row's anchor group.
        q1: lower quartile of the scores; NaN with no row, like the next four.
        q3: upper quartile.
        iqr: q3 - q1.
        lower: lower fence.
        upper: upper fence.
        included: how many rows had a score.
        flagged: how many rows are flagged.
        singleton_share: share of the rows whose anchor group was smaller than `n_min`.
        reason: why no row could be flagged, or None.
    """

    mask_b: BoolArray
    normalized_b: FloatArray
    included_b: BoolArray
    high_b: BoolArray
    low_b: BoolArray
    anchor_size_b: npt.NDArray[np.int64]
    q1: float
    q3: float
    iqr: float
    lower: float
    upper: float
    included: int
    flagged: int
    singleton_share: float
    reason: str | None = None


def step_entropy(entropy_bl: npt.ArrayLike, mask_bl: npt.ArrayLike) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Mean token entropy of each step, H of eq. 1.

    Args:
        entropy_bl: (B, L) entropy of the sampling policy at each response position, nats.
        mask_bl: (B, L) nonzero where a token counts; other positions may hold anything.

    Returns:
        (B,) float32 mean entropy, 0 for a row without tokens, and (B,) int64 count of its tokens. A
        row of count 0 has no entropy: leave it out of `select_outliers`.

    Raises:
        ValueError: shapes differ or are not two-dimensional.
        NonFiniteError: a position that counts is NaN or infinite.
    """
    mask = np.asarray(mask_bl) != 0
    entropy = np.asarray(entropy_bl)
    if entropy.shape != mask.shape or mask.ndim != 2:
        raise ValueError(f"entropy_bl has shape {entropy.shape} and mask_bl {mask.shape}; expected one shape (B, L).")
    kept = np.where(mask, entropy, 0.0)
    require_finite("entropy_bl", kept)
    count = mask.sum(axis=1, dtype=np.int64)
    return float32(kept.sum(axis=1, dtype=np.float64) / np.maximum(count, 1)), count


def normalised_entropy(
    entropy_b: npt.ArrayLike,
    anchor_b: npt.ArrayLike,
    included_b: npt.ArrayLike | None,
    config: OutlierConfig,
) -> tuple[DoubleArray, BoolArray, npt.NDArray[np.int64]]:
    """Z-score of each step's entropy inside its anchor group, H_n of eq. 2.

    With `ddof` 1 a score in a group of n never exceeds (n - 1) / sqrt(n): 1.79 for 5 rows, 2.85 for
    10. Only states visited about ten times can hold an outlier at the default fences.

    Args:
        entropy_b: (B,) mean token entropies, nats.
        anchor_b: (B,) anchor ids, unique across tasks.
        included_b: (B,) rows to use, as booleans or weights; None for all.
        config: knobs.

    Returns:
        (B,) float64 scores, 0 where there is none; (B,) rows that have a score; (B,) rows in the
        anchor group.

    Raises:
        ValueError: lengths differ.
        NonFiniteError: the entropy of a row in use is NaN or infinite.
    """
    entropy, used = real_values("entropy_b", entropy_b, included_b)
    require_length(entropy.shape[0], anchor_b=anchor_b)
    stats = group_statistics(entropy, anchor_b, weight_b=used, ddof=config.ddof)
    size = stats.size_b * used
    small = used & (size < config.n_min)
    z = standardise(entropy, stats, eps=config.eps, norm="std", std_floor=config.std_floor)
    if config.singleton == "raw":
        z = np.where(small, entropy, z)
    else:
        z = np.where(small, 0.0, z)
    scored = used & ~small if config.singleton == "exclude" else used
    return z * scored, scored, size


def select_outliers(
    entropy_b: npt.ArrayLike,
    anchor_b: npt.ArrayLike,
    included_b: npt.ArrayLike | None,
    config: OutlierConfig,
) -> Outliers:
    """Flag the steps outside the fences Q1 - lam * IQR and Q3 + lam * IQR (eq. 3).

    Args:
        entropy_b: (B,) mean token entropies, nats.
        anchor_b: (B,) anchor ids, unique across tasks.
        included_b: (B,) rows to use, as booleans or weights (0 for padding and for rows without
            tokens); None for all.
        config: knobs.

    Raises:
        ValueError: lengths differ.
        NonFiniteError: the entropy of a row in use is NaN or infinite.
    """
    score, scored, size = normalised_entropy(entropy_b, anchor_b, included_b, config)
    used = size > 0
    if config.metric == "shannon":
        score, scored = real_values("entropy_b", entropy_b, included_b)
    included = int(scored.sum())
    q1 = q3 = float("nan")
    if included:
        q1, q3 = (float(q) for q in np.quantile(score[scored], (0.25, 0.75)))
    iqr = q3 - q1
    lower, upper = q1 - config.lam * iqr, q3 + config.lam * iqr

    high = scored & (score > upper + FENCE_MARGIN) & (config.sides != "low")
    low = scored & (score < lower - FENCE_MARGIN) & (config.sides != "high")
    reason: str | None = None
    if config.select == "none":
        reason = "outlier.select is 'none'"
    elif not used.any():
        reason = "no row has weight and response tokens"
    elif config.select == "iqr" and not included:
        reason = f"every anchor group is smaller than n_min {config.n_min}, and those are excluded"
    elif config.select == "iqr" and iqr < MIN_IQR:
        reason = f"the interquartile range {iqr:.3g} is below {MIN_IQR:g}"
    if reason is not None:
        mask = np.zeros_like(scored)
    else:
        mask = used if config.select == "all" else high | low
        if config.max_fraction is not None:
            limit = int(config.max_fraction * used.sum())
            mask = _farthest(mask, score, lower, upper, limit)
            if limit == 0:
                reason = f"outlier.max_fraction {config.max_fraction:g} allows less than one row"
    return Outliers(
        mask_b=mask,
        normalized_b=float32(score),
        included_b=scored,
        high_b=high & mask,
        low_b=low & mask,
        anchor_size_b=size,
        q1=q1,
        q3=q3,
        iqr=iqr,
        lower=lower,
        upper=upper,
        included=included,
        flagged=int(mask.sum()),
        singleton_share=float((size[used] < config.n_min).mean()) if used.any() else 0.0,
        reason=reason,
    )


def _farthest(mask: BoolArray, score: DoubleArray, lower: float, upper: float, limit: int) -> BoolArray:
    """Keep the `limit` flagged rows farthest outside the fences; the earlier row wins a tie."""
    if int(mask.sum()) <= limit:
        return mask
    outside = np.where(mask, np.maximum(score - upper, lower - score), -np.inf)
    kept = np.zeros_like(mask)
    kept[np.argsort(-outside, kind="stable")[:limit]] = True
    return kept
