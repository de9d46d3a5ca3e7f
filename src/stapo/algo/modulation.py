"""Advantages bent by the entropy of their steps: EMPG (arXiv 2509.09265)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stapo.algo.checks import require_length
from stapo.algo.config import ModulationConfig
from stapo.algo.groups import DoubleArray, FloatArray, float32, real_values
from stapo.algo.returns import previous_rows


def entropy_scale(entropy_b: npt.ArrayLike, k: float) -> tuple[DoubleArray, DoubleArray]:
    """Scale of each step's advantage, larger where the policy was certain; its mean is 1.

    Hn is the entropy, min-max normalized over the batch (0 where all entropies are equal), and
    g = exp(-k Hn) / mean exp(-k Hn).

    Args:
        entropy_b: (B,) finite step entropies.
        k: sharpness.

    Returns:
        (B,) Hn and (B,) g.
    """
    entropy = np.asarray(entropy_b, dtype=np.float64)
    if entropy.size == 0:
        return entropy, entropy
    low, high = float(entropy.min()), float(entropy.max())
    level = (entropy - low) / (high - low) if high > low else np.zeros_like(entropy)
    certain = np.exp(-k * level)
    return level, certain / certain.mean()


def modulated_advantages(
    advantage_b: npt.ArrayLike,
    entropy_b: npt.ArrayLike,
    traj_b: npt.ArrayLike,
    step_b: npt.ArrayLike,
    config: ModulationConfig,
    *,
    weight_b: npt.ArrayLike | None = None,
) -> FloatArray:
    """Scale advantages by certainty and add a bonus for a certain next step; then center the batch.

    A = A * g + zeta * f, minus its mean over the batch, with g from `entropy_scale` and
    f = exp(-k_future * Hn of the next step), 0 at the last step of a trajectory.

    Args:
        advantage_b: (B,) advantages of the base method.
        entropy_b: (B,) mean token entropies, nats; NaN for a row without tokens, whose advantage is
            not scaled and to which no bonus leads.
        traj_b: (B,) trajectory of each row, unique across tasks.
        step_b: (B,) step number inside the trajectory.
        config: settings; with ``kind=none`` the advantages come back as they are.
        weight_b: (B,) 0 on padding rows; None if there are none.

    Returns:
        (B,) float32, 0 on padding.

    Raises:
        ValueError: lengths differ.
        NonFiniteError: a real row's advantage, or its entropy, is infinite.
    """
    advantage, real = real_values("advantage_b", advantage_b, weight_b)
    if config.kind == "none":
        return float32(advantage)
    rows = advantage.shape[0]
    require_length(rows, entropy_b=entropy_b, traj_b=traj_b, step_b=step_b)
    known = real & ~np.isnan(np.asarray(entropy_b, dtype=np.float64))
    entropy, _ = real_values("entropy_b", entropy_b, known)
    scale, certainty = np.ones(rows), np.zeros(rows)
    level, scale[known] = entropy_scale(entropy[known], config.k)
    certainty[known] = np.exp(-config.k_future * level)
    previous = previous_rows(traj_b, step_b, real)
    bonus = np.zeros(rows)
    has_previous = previous >= 0
    bonus[previous[has_previous]] = certainty[has_previous]
    bent = (advantage * scale + config.zeta * bonus) * real
    return float32((bent - bent.sum() / max(int(real.sum()), 1)) * real)
