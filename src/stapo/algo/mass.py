"""Trajectory mass normalization: equal weight for every trajectory, whatever its length (BATON, arXiv 2609.19830).

In a mean over steps, a trajectory of 30 steps has ten times the weight of one of 3 steps, and long ones are mostly
failures. BATON's other part, the attribution of feedback inside a trajectory, is not implemented.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stapo.algo.groups import DoubleArray, dense_codes, real_values


def trajectory_mass(traj_b: npt.ArrayLike, *, weight_b: npt.ArrayLike | None = None) -> DoubleArray:
    """Weights of rows that sum to the same number in every trajectory, and have mean 1.

    B / (N * T) for a row of a trajectory of T rows, among B rows of N trajectories. The clipped loss of a row scales
    with its advantage, so multiplying the advantage multiplies the loss. The mean over steps then equals the mean over
    trajectories of their means over steps, also where mini-batches split trajectories.

    Args:
        traj_b: (B,) trajectory of each row, unique across tasks.
        weight_b: (B,) 0 on padding rows; None if there are none.

    Returns:
        (B,) float64, 0 on padding.

    Raises:
        ValueError: lengths differ.
    """
    traj = dense_codes(np.asarray(traj_b))
    _, real = real_values("traj_b", np.zeros(traj.shape[0]), weight_b)
    if not real.any():
        return np.zeros(traj.shape[0])
    length = np.bincount(traj, weights=real)
    return np.where(real, real.sum() / (np.count_nonzero(length) * np.maximum(length[traj], 1.0)), 0.0)
