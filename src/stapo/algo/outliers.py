"""Which steps stand out: step entropy, and the fences around its score (STAPO eq. 1, 3).

The score itself, eq. 2 or another, is `stapo.algo.step_scores`.
Runs once per rollout batch, on unique rows, without gradients. With several ranks gather the
entropies first: the quartiles belong to the whole batch. Fences use float64 and linearly
interpolated quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from stapo.algo.checks import require_finite
from stapo.algo.config import OutlierConfig
from stapo.algo.groups import BoolArray, DoubleArray, FloatArray, float32
from stapo.algo.step_scores import StateEntropies, entropy_scores

FENCE_MARGIN = 1e-6
"""A score has to clear a fence by this much, so that rounding alone never flags a row."""

MIN_IQR = 1e-6
"""Below this interquartile range the fences collapse onto the quartiles; no row is flagged."""


@dataclass(frozen=True)
class Outliers:
    """What `select_outliers` returns; arrays are (B,) and False or 0 on rows that took no part.

    Attributes:
        mask_b: the flagged rows, M_b of eq. 3.
        normalized_b: float32 score that was held against the fences (eq. 2, or what
            `OutlierConfig.metric` says).
        included_b: rows that had a score: of weight above 0, not in a group below `min_std`, and
            not a singleton under ``singleton=exclude``.
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
        states: entropies by state to hand to the next iteration; None but under
            ``metric=running``.
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
    states: StateEntropies | None = None


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


def select_outliers(
    entropy_b: npt.ArrayLike,
    anchor_b: npt.ArrayLike,
    included_b: npt.ArrayLike | None,
    config: OutlierConfig,
    *,
    seed: Sequence[int] | None = None,
    state_b: Sequence[str] | None = None,
    states: Mapping[str, Sequence[float]] | None = None,
) -> Outliers:
    """Flag the steps outside the fences Q1 - lam * IQR and Q3 + lam * IQR (eq. 3).

    Under ``select=random`` as many rows are flagged, drawn without replacement from all that have a
    score.

    Args:
        entropy_b: (B,) mean token entropies, nats.
        anchor_b: (B,) anchor ids, unique across tasks.
        included_b: (B,) rows to use, as booleans or weights (0 for padding and for rows without
            tokens); None for all.
        config: settings of this step.
        seed: of the rows drawn; for ``select=random``.
        state_b: (B,) key of each row's state (`state_key`); for ``metric=running``.
        states: what the last iteration returned as `Outliers.states`; for ``metric=running``.

    Raises:
        ValueError: lengths differ, or `seed` or `state_b` is missing where it is needed.
        NonFiniteError: the entropy of a row in use is NaN or infinite.
    """
    score, scored, size, states_after = entropy_scores(
        entropy_b, anchor_b, included_b, config, state_b=state_b, states=states
    )
    used = size > 0
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
    elif config.select in ("iqr", "random") and not included:
        reason = (
            f"every anchor group is smaller than n_min {config.n_min}, or its entropies differ by less than min_std"
        )
    elif config.select in ("iqr", "random") and iqr < MIN_IQR:
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
        if config.select == "random":
            mask = _drawn(scored, int(mask.sum()), seed)
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
        states=states_after,
    )


def join_outliers(parts: Mapping[str, Outliers]) -> Outliers:
    """The rows of several batches, each with fences of its own, as one; the joint fences are NaN.

    Args:
        parts: by what the batches are called.
    """
    each, nan = list(parts.values()), float("nan")
    names = [f.name for f in fields(Outliers) if f.name.endswith("_b")]
    rows: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in each]) for name in names}
    used = [int((part.anchor_size_b > 0).sum()) for part in each]
    alone = sum(part.singleton_share * count for part, count in zip(each, used, strict=True))
    reasons = [f"{name}: {part.reason}" for name, part in parts.items() if part.reason is not None]
    return Outliers(
        **rows, q1=nan, q3=nan, iqr=nan, lower=nan, upper=nan,
        included=sum(part.included for part in each),
        flagged=sum(part.flagged for part in each),
        singleton_share=alone / max(1, sum(used)),
        reason="; ".join(reasons) if len(reasons) == len(each) else None,
    )  # fmt: skip


def _farthest(mask: BoolArray, score: DoubleArray, lower: float, upper: float, limit: int) -> BoolArray:
    """Keep the `limit` flagged rows farthest outside the fences; the earlier row wins a tie."""
    if int(mask.sum()) <= limit:
        return mask
    outside = np.where(mask, np.maximum(score - upper, lower - score), -np.inf)
    kept = np.zeros_like(mask)
    kept[np.argsort(-outside, kind="stable")[:limit]] = True
    return kept


def _drawn(scored: BoolArray, count: int, seed: Sequence[int] | None) -> BoolArray:
    """Draw `count` of the rows that have a score."""
    if seed is None:
        raise ValueError("seed is None; outlier.select 'random' needs one, so that a run can be repeated.")
    rows = np.flatnonzero(scored)
    drawn = np.zeros_like(scored)
    drawn[np.random.default_rng(list(seed)).permutation(rows)[:count]] = True
    return drawn
