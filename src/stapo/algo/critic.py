"""A critic's part: advantages from its values, its clipped loss, how much of the returns it explains.

A critic has one value per row: that of the state before the response, read at the end of the prompt.
What becomes of the advantages (penalty, whitening) is decided in `stapo.algo.credit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from stapo.algo.checks import require_finite, require_length
from stapo.algo.config import CriticConfig
from stapo.algo.groups import DoubleArray, real_values
from stapo.algo.returns import previous_rows, step_returns

if TYPE_CHECKING:
    from torch import Tensor


class ValueLoss(NamedTuple):
    """Scalar loss, and the sum over real rows of 1 where the clip holds; both shares of a mini-batch."""

    loss: Tensor
    clipped: Tensor


def gae_advantages(
    reward_b: npt.ArrayLike,
    value_b: npt.ArrayLike,
    traj_b: npt.ArrayLike,
    step_b: npt.ArrayLike,
    discount: float,
    lam: float,
    *,
    weight_b: npt.ArrayLike | None = None,
) -> DoubleArray:
    """Generalized advantage estimate of each step (Schulman et al., arXiv 1506.02438, eq. 16).

    delta_t = r_t + discount * V_t+1 - V_t, and A_t = sum over k of (discount * lam)^k * delta_t+k,
    inside a trajectory. Behind its last row the value is 0, also where a step limit ended it: the
    limit belongs to the task. discount = lam = 1 is the return from the step on, minus its value.

    Args:
        reward_b: (B,) reward of each step.
        value_b: (B,) value of the state before each step.
        traj_b: (B,) trajectory of each row, unique across tasks.
        step_b: (B,) integer step number; gaps are discounted as the number says.
        discount: gamma, in [0, 1].
        lam: lambda, in [0, 1].
        weight_b: (B,) 0 on padding rows; None if there are none.

    Returns:
        (B,) float64, 0 on padding.

    Raises:
        ValueError: lengths differ, or two real rows are the same step of the same trajectory.
        NonFiniteError: a real row's reward or value is NaN or infinite.
    """
    reward, real = real_values("reward_b", reward_b, weight_b)
    value, _ = real_values("value_b", value_b, weight_b)
    require_length(reward.shape[0], value_b=value, traj_b=traj_b, step_b=step_b)
    delta = reward - value
    previous = previous_rows(traj_b, step_b, real)
    ahead = np.flatnonzero(previous >= 0)
    here = previous[ahead]
    step = np.asarray(step_b, dtype=np.int64)
    delta[here] += discount ** (step[ahead] - step[here]) * value[ahead]
    return step_returns(delta, traj_b, step_b, discount * lam, weight_b=real)


def value_loss(
    value_b: Tensor,
    old_b: Tensor,
    target_b: Tensor,
    config: CriticConfig,
    rows: float,
    *,
    weight_b: Tensor | None = None,
) -> ValueLoss:
    """Half the squared error of values, clipped around what they were (PPO's value loss).

    v' = old + clamp(v - old, -clip, clip); L_b = max((v - target)^2, (v' - target)^2) / 2. Beyond the
    clip the larger error is that of v', which has no gradient: a value moves a bounded way in an
    iteration.

    Args:
        value_b: (B,) values with gradient.
        old_b: (B,) values at the start of the iteration.
        target_b: (B,) what they should have been.
        config: clip and factor.
        rows: weights of the whole mini-batch, summed, of which these rows may be a part; the sum
            over its micro-batches is the loss of the mini-batch.
        weight_b: (B,) weight of each row, 0 on padding; 1 where None.

    Raises:
        ValueError: shapes differ, or `rows` is not above 0.
    """
    shapes = [tuple(t.shape) for t in (value_b, old_b, target_b, *([] if weight_b is None else [weight_b]))]
    if len(set(shapes)) > 1 or value_b.ndim != 1:
        raise ValueError(f"value_b, old_b, target_b and weight_b have shapes {shapes}; expected (B,) four times.")
    if not rows > 0:
        raise ValueError(f"rows is {rows}; expected the number of rows of the mini-batch, above 0.")
    real_b = value_b.new_ones(value_b.shape) if weight_b is None else weight_b
    # What padding holds must not count, NaN included: not in the loss, and not in its gradient.
    target_b = target_b.where(real_b > 0, value_b.detach())
    old_b = old_b.where(real_b > 0, value_b.detach())
    error_b = (value_b - target_b).square()
    held_b = real_b < 0
    if config.value_clip is not None:
        near_b = old_b + (value_b - old_b).clamp(-config.value_clip, config.value_clip)
        clipped_b = (near_b - target_b).square()
        held_b = clipped_b.detach() > error_b.detach()
        error_b = error_b.maximum(clipped_b)
    loss = 0.5 * config.value_coef * (error_b * real_b).sum() / rows
    return ValueLoss(loss, (held_b & (real_b > 0)).sum())


def explained_variance(
    value_b: npt.ArrayLike, target_b: npt.ArrayLike, *, weight_b: npt.ArrayLike | None = None
) -> float | None:
    """1 - Var(target - value) / Var(target) over rows of weight above 0.

    1 is a perfect critic, 0 one that says the same of every state, below 0 one that is worse than that.
    None where the targets do not differ (or there are none): then there is nothing to explain.

    Raises:
        ValueError: lengths differ.
        NonFiniteError: a value or a target that counts is NaN or infinite.
    """
    value, target = np.asarray(value_b, dtype=np.float64), np.asarray(target_b, dtype=np.float64)
    require_length(value.shape[0] if value.ndim else 0, value_b=value, target_b=target)
    if weight_b is not None:
        require_length(value.shape[0], weight_b=weight_b)
        real = np.asarray(weight_b) > 0
        value, target = value[real], target[real]
    require_finite("value_b", value)
    require_finite("target_b", target)
    if target.size == 0 or float(target.var()) < 1e-12:
        return None
    return float(1 - (target - value).var() / target.var())
