"""Step credit among steps with a common past: the hierarchy of groups of HGPO (arXiv 2602.22817).

Level k compares steps that saw the same last k + 1 observations of their own trajectories. Level 0 is
the anchor groups; the higher a level, the more alike its steps and the fewer of them there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stapo.algo.checks import require_length
from stapo.algo.config import AdvantageConfig
from stapo.algo.groups import FloatArray, dense_codes, float32, group_statistics, real_values, standardize
from stapo.algo.returns import previous_rows

IntArray = npt.NDArray[np.int64]


def history_groups(
    anchor_b: npt.ArrayLike,
    traj_b: npt.ArrayLike,
    step_b: npt.ArrayLike,
    depth: int,
    *,
    weight_b: npt.ArrayLike | None = None,
) -> list[IntArray]:
    """Group rows by their last k + 1 observations, for k = 0 … depth.

    Args:
        anchor_b: (B,) anchor ids, unique across tasks: equal ids are equal observations.
        traj_b: (B,) trajectory of each row, unique across tasks.
        step_b: (B,) step number inside the trajectory.
        depth: K, the level of the longest history.
        weight_b: (B,) 0 on padding rows; None if there are none.

    Returns:
        depth + 1 arrays (B,) int64 of group ids; -1 for a row with fewer than k + 1 observations, and
        on padding.

    Raises:
        ValueError: lengths differ.
    """
    rows = np.shape(anchor_b)[0]
    require_length(rows, traj_b=traj_b, step_b=step_b)
    _, real = real_values("weight_b", np.zeros(rows), weight_b)
    anchor = np.where(real, dense_codes(np.asarray(anchor_b)), -1).astype(np.int64)
    previous = previous_rows(traj_b, step_b, real)
    levels = [anchor]
    for _ in range(depth):
        before = np.where(previous >= 0, levels[-1][previous], -1)
        known = before >= 0
        level = np.full(rows, -1, dtype=np.int64)
        if known.any():
            # Same observation now, and the same history up to the step before.
            pair = anchor[known] * (int(before.max()) + 1) + before[known]
            level[known] = np.unique(pair, return_inverse=True)[1]
        levels.append(level)
    return levels


def history_advantages(
    return_b: npt.ArrayLike,
    levels: Sequence[IntArray],
    config: AdvantageConfig,
    *,
    weight_b: npt.ArrayLike | None = None,
) -> FloatArray:
    """Weighted mean over levels of the step return against its group of that level.

    sum_k w_k A_k with w_k proportional to (k + 1)^length_alpha. A level counts for a row only if the
    row's group there has two rows or more; the weights of the levels that count sum to 1. The
    published code has (k + 2)^length_alpha, and a level with A_k = 0 does not count
    (``level_weights=code``).

    Args:
        return_b: (B,) discounted return from each step on.
        levels: group ids per level, from `history_groups`.
        config: `ddof`, `eps`, `std_floor`, `advantage_norm`, `length_alpha` and `level_weights`.
        weight_b: (B,) 0 on padding rows; None if there are none.

    Returns:
        (B,) float32; 0 on padding and for a row that no level compares with another.

    Raises:
        ValueError: lengths differ.
        NonFiniteError: a real row's return is NaN or infinite.
    """
    value, real = real_values("return_b", return_b, weight_b)
    total, weights = np.zeros(value.shape[0]), np.zeros(value.shape[0])
    for k, level_b in enumerate(levels):
        present = real & (level_b >= 0)
        stats = group_statistics(value, level_b, weight_b=present, ddof=config.ddof)
        z = standardize(value, stats, eps=config.eps, norm=config.advantage_norm, std_floor=config.std_floor)
        as_coded = config.level_weights == "code"
        counts = present & (stats.size_b > 1) & ((z != 0) | (not as_coded))
        weight = np.where(counts, (k + 1.0 + as_coded) ** config.length_alpha, 0.0)
        total += weight * z
        weights += weight
    return float32(total / np.where(weights > 0, weights, 1.0))
