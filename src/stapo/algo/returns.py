"""Returns: what the steps of a trajectory have earned, from a step on or as a whole (STAPO eq. 6, 7).

Sums run in float64. Rows of weight 0 are padding: they enter no sum, and come out as 0. Nothing here
loops over rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stapo.algo.checks import require_length
from stapo.algo.groups import BoolArray, DoubleArray, dense_codes, real_values


def step_returns(
    reward_b: npt.ArrayLike,
    traj_b: npt.ArrayLike,
    step_b: npt.ArrayLike,
    discount: float,
    *,
    weight_b: npt.ArrayLike | None = None,
) -> DoubleArray:
    """Discounted return from each step to the end of its trajectory, R_t of eq. 7.

    R_t = sum over t' >= t of discount^(t'-t) * r_t'.

    Args:
        reward_b: (B,) reward of each step.
        traj_b: (B,) trajectory of each row, unique across tasks.
        step_b: (B,) integer step number; gaps are discounted as the number says.
        discount: in [0, 1].
        weight_b: (B,) 0 on padding rows; None if there are none.

    Returns:
        (B,) float64, 0 on padding.

    Raises:
        ValueError: lengths differ, or two real rows are the same step of the same trajectory.
        NonFiniteError: a real row's reward is NaN or infinite.
    """
    reward, real = real_values("reward_b", reward_b, weight_b)
    rows = np.flatnonzero(real)
    out = np.zeros(reward.shape[0])
    require_length(reward.shape[0], traj_b=traj_b, step_b=step_b)
    if rows.size == 0:
        return out
    traj = dense_codes(np.asarray(traj_b)[rows])
    step = np.asarray(step_b, dtype=np.int64)[rows]
    order = np.lexsort((step, traj))
    traj, step = traj[order], step[order]
    same = (traj[1:] == traj[:-1]) & (step[1:] == step[:-1])
    if same.any():
        row = int(rows[order[int(np.argmax(same)) + 1]])
        raise ValueError(
            f"row {row} repeats step {np.asarray(step_b)[row]} of trajectory "
            f"{np.asarray(traj_b)[row]}; expected one row per step. Give padding rows weight 0."
        )
    total = reward[rows][order]
    longest = int(np.bincount(traj).max())
    # Doubling: after each pass a row holds the discounted sum of the next `reach` rows, so log2(T)
    # passes do.
    reach = 1
    while reach < longest:
        factor = np.where(traj[reach:] == traj[:-reach], discount ** (step[reach:] - step[:-reach]).clip(0), 0.0)
        ahead = factor * total[reach:]
        total = total.copy()
        total[:-reach] += ahead
        reach *= 2
    out[rows[order]] = total
    return out


def episode_returns(
    reward_b: npt.ArrayLike, traj_b: npt.ArrayLike, *, weight_b: npt.ArrayLike | None = None
) -> DoubleArray:
    """Undiscounted return of each row's whole trajectory, R(tau) of eq. 6.

    Returns:
        (B,) float64, the same number on all rows of a trajectory, 0 on padding.

    Raises:
        ValueError: lengths differ.
        NonFiniteError: a real row's reward is NaN or infinite.
    """
    reward, real = real_values("reward_b", reward_b, weight_b)
    require_length(reward.shape[0], traj_b=traj_b)
    if reward.size == 0:
        return reward
    traj = dense_codes(np.asarray(traj_b))
    return np.asarray(np.bincount(traj, weights=reward)[traj] * real)


def next_rows(traj_b: npt.ArrayLike, step_b: npt.ArrayLike, real_b: BoolArray) -> npt.NDArray[np.int64]:
    """Return (B,) the row of the step after, in the same trajectory; -1 at its end, and on padding.

    Args:
        traj_b: (B,) trajectory of each row, unique across tasks.
        step_b: (B,) step number; the step after is the next larger number that is there.
        real_b: (B,) false on padding rows.
    """
    previous = previous_rows(traj_b, step_b, real_b)
    following = np.full(real_b.shape[0], -1, dtype=np.int64)
    later = np.flatnonzero(previous >= 0)
    following[previous[later]] = later
    return following


def previous_rows(traj_b: npt.ArrayLike, step_b: npt.ArrayLike, real_b: BoolArray) -> npt.NDArray[np.int64]:
    """Return (B,) the row of the step before, in the same trajectory; -1 where there is none, and on padding.

    Args:
        traj_b: (B,) trajectory of each row, unique across tasks.
        step_b: (B,) step number; the step before is the next smaller number that is there.
        real_b: (B,) false on padding rows.
    """
    previous = np.full(real_b.shape[0], -1, dtype=np.int64)
    rows = np.flatnonzero(real_b)
    if rows.size:
        traj = dense_codes(np.asarray(traj_b)[rows])
        order = np.lexsort((np.asarray(step_b, dtype=np.int64)[rows], traj))
        rows, traj = rows[order], traj[order]
        same = traj[1:] == traj[:-1]
        previous[rows[1:][same]] = rows[:-1][same]
    return previous
