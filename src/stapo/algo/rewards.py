"""Several named rewards: what each step earned of each, and how they become one advantage (GDPO, arXiv 2601.05242).

``sum`` weighs and adds rewards before they are normalized, as one reward would be: attempts that earned (0, 2) in one
group and (0, 1) in another get the same advantages. ``each`` normalizes every reward inside its groups first, then
weighs and adds, then divides by the standard deviation over the batch, so that the size of an advantage does not grow
with the number of rewards. GDPO also subtracts the mean over the batch there. Here that is left out: a group-normalized
advantage has mean 0 already where every episode has one step, and elsewhere a task whose attempts are all alike would
be pushed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from stapo.algo.checks import require_length
from stapo.algo.config import AdvantageConfig
from stapo.algo.credit import Advantages, compute_advantages
from stapo.algo.groups import DoubleArray, float32, group_statistics, real_values
from stapo.algo.mass import trajectory_mass
from stapo.algo.registries import ADVANTAGE_ESTIMATORS
from stapo.errors import ConfigError
from stapo.registry import trait

RewardNorm = Literal["sum", "each"]


class RewardAdvantages(NamedTuple):
    """Advantages of several rewards.

    Attributes:
        advantages: to train with; returns are those of the weighted sum.
        share: of the variance of the total advantage, how much comes from each reward, by name: the covariance of its
            part with the total, over the variance of the total. They add up to 1, less what the penalty for invalid
            actions has; with HGPO's levels under ``sum``, about. None where nothing varies, with a critic, and with
            step credits other than ``return``.
    """

    advantages: Advantages
    share: dict[str, float | None]


def cost_rewards(
    amount_b: npt.ArrayLike, won_b: npt.ArrayLike, group_b: npt.ArrayLike, traj_b: npt.ArrayLike
) -> DoubleArray:
    """Turn what each step used into a negative reward, scaled by the share of its task's attempts that were won.

    A task that nobody solves costs nothing: there, shorter attempts would only fail sooner.

    Args:
        amount_b: (B,) what the step used, such as its response tokens.
        won_b: (B,) whether the row's trajectory was won.
        group_b: (B,) task.
        traj_b: (B,) trajectory, unique across tasks.

    Returns:
        (B,) float64, 0 or less.
    """
    amount, _ = real_values("amount_b", amount_b, None)
    require_length(amount.shape[0], won_b=won_b, group_b=group_b, traj_b=traj_b)
    if not amount.size:
        return amount
    first_b = np.zeros(amount.shape[0], dtype=bool)
    first_b[np.unique(np.asarray(traj_b), return_index=True)[1]] = True  # long trajectories count once as well
    won = np.asarray(won_b, dtype=np.float64)
    return np.asarray(-amount * group_statistics(won, group_b, weight_b=first_b).mean_b)


def reward_advantages(
    reward_b: Mapping[str, npt.ArrayLike],
    weight: Mapping[str, float],
    normalize: RewardNorm,
    config: AdvantageConfig,
    *,
    valid_b: npt.ArrayLike,
    group_b: npt.ArrayLike,
    traj_b: npt.ArrayLike,
    step_b: npt.ArrayLike,
    anchor_b: npt.ArrayLike,
    weight_b: npt.ArrayLike | None = None,
    success_b: npt.ArrayLike | None = None,
    penalized: str = "",
    **more: Any,
) -> RewardAdvantages:
    """Advantages of weighted rewards, and each one's share of the result.

    Args:
        reward_b: name -> (B,) that reward of each step.
        weight: name -> its weight; a reward without one is left out.
        normalize: before or after the rewards are added.
        config: settings of the advantages; they hold for each reward under ``each``.
        valid_b: (B,) whether the step's action was valid.
        group_b: (B,) task.
        traj_b: (B,) trajectory, unique across tasks.
        step_b: (B,) step number inside the trajectory.
        anchor_b: (B,) anchor ids, unique across tasks.
        weight_b: (B,) 0 on padding rows; None if no row is padding.
        success_b: (B,) whether the row's trajectory solved its task, as for `compute_advantages`.
        penalized: under ``each``, the reward that carries the penalty for invalid actions in its returns; without one,
            that with the first weight. A penalty on advantages is subtracted after all else.
        more: critic and values, as for `compute_advantages`; for ``sum`` alone.

    Raises:
        ValueError, NonFiniteError: as `compute_advantages`.
        ConfigError: ``each`` with an estimator that needs a critic, or no weight differs from 0.
    """
    names = [name for name in reward_b if weight.get(name, 0.0) != 0]
    if not names:
        raise ConfigError("every reward has weight 0; expected one that has not, or nothing is learned.")
    rows = (valid_b, group_b, traj_b, step_b, anchor_b, weight_b)
    credited = partial(compute_advantages, success_b=success_b)
    total_b = np.sum([weight[name] * np.asarray(reward_b[name], np.float64) for name in names], axis=0)
    valued = trait(ADVANTAGE_ESTIMATORS.get(config.episode), "needs_values", False)
    foreign = config.step_advantage and config.step_credit != "return"
    unpunished = replace(config, invalid_penalty=0.0)
    mass_b = trajectory_mass(traj_b, weight_b=weight_b) if config.equal_mass == "trajectory" else 1.0
    if normalize == "sum":
        whole = credited(total_b, *rows, config, **more)
        if valued or foreign:
            return RewardAdvantages(whole, dict.fromkeys(reward_b))
        parts = _parts_of_sum({name: (weight[name], reward_b[name]) for name in names}, total_b, whole, config, rows)
        parts = {name: part * mass_b for name, part in parts.items()}
        return RewardAdvantages(whole, _shares(reward_b, parts, whole.total_b, weight_b))
    if valued:
        raise ConfigError(
            f"rewards.normalize is 'each', and advantage.episode '{config.episode}' has a critic, which values the sum "
            "of the rewards. Set rewards.normalize to 'sum', or take an algorithm without a critic."
        )
    if foreign:
        raise ConfigError(
            f"rewards.normalize is 'each', and advantage.step_credit is '{config.step_credit}', which does not rest on "
            "rewards alone and would count once for each of them. Set rewards.normalize to 'sum', or step_credit to "
            "'return'."
        )
    in_return = config.invalid_penalty_on == "return"
    penalized = penalized if penalized in names else names[0]
    each = {
        name: compute_advantages(
            reward_b[name], *rows, config if in_return and name == penalized else unpunished
        )
        for name in names
    }  # fmt: skip
    sums = credited(total_b, *rows, config)
    episode_b, step_part_b, added_b = (
        np.sum([weight[name] * getattr(each[name], part).astype(np.float64) for name in names], axis=0)
        for part in ("episode_b", "step_b", "total_b")
    )
    scale = _batch_scale(added_b, weight_b, config)
    flat_b = np.zeros(0) if in_return else config.invalid_penalty * ~np.asarray(valid_b, dtype=bool) * mass_b
    final_b = scale * added_b if in_return else scale * added_b - flat_b * _real(added_b, weight_b)
    advantages = replace(
        sums, total_b=float32(final_b), episode_b=float32(scale * episode_b), step_b=float32(scale * step_part_b)
    )
    parts = {name: scale * weight[name] * each[name].total_b.astype(np.float64) for name in names}
    return RewardAdvantages(advantages, _shares(reward_b, parts, advantages.total_b, weight_b))


def _real(value_b: DoubleArray, weight_b: npt.ArrayLike | None) -> npt.NDArray[np.bool_]:
    return real_values("advantage", value_b, weight_b)[1]


def _batch_scale(added_b: DoubleArray, weight_b: npt.ArrayLike | None, config: AdvantageConfig) -> float:
    """What brings the advantages to a standard deviation of 1 over the real rows; 1 where they are only centered."""
    if config.advantage_norm == "none":
        return 1.0
    stats = group_statistics(added_b, np.zeros(len(added_b), np.int64), weight_b=weight_b, ddof=config.ddof)
    std = float(stats.std_b[0]) if len(added_b) else 0.0
    return 1.0 / (std + config.eps) if std > config.std_floor else 1.0


def _parts_of_sum(
    weighted: Mapping[str, tuple[float, npt.ArrayLike]],
    total_b: DoubleArray,
    whole: Advantages,
    config: AdvantageConfig,
    rows: tuple[Any, Any, Any, Any, Any, Any],
) -> dict[str, DoubleArray]:
    """What each reward gives to the advantages of a sum.

    Advantages are centered returns times a scale of their group. Centering is linear, so each reward is centered alone
    and gets the scale of the sum.
    """
    centered = replace(config, advantage_norm="none")
    whole_centered = compute_advantages(total_b, *rows, centered)
    parts = {}
    for name, (weight, reward_b) in weighted.items():
        alone = compute_advantages(reward_b, *rows, replace(centered, invalid_penalty=0.0))
        parts[name] = np.zeros(len(total_b))
        for part, factor in (("episode_b", 1.0), ("step_b", config.omega)):
            scaled, plain = getattr(whole, part).astype(np.float64), getattr(whole_centered, part).astype(np.float64)
            scale_b = np.divide(scaled, plain, out=np.zeros_like(scaled), where=plain != 0)
            parts[name] += factor * weight * getattr(alone, part) * scale_b
    return parts


def _shares(
    reward_b: Mapping[str, Any], parts: Mapping[str, DoubleArray], total_b: Any, weight_b: npt.ArrayLike | None
) -> dict[str, float | None]:
    total = np.asarray(total_b, np.float64)
    real = _real(total, weight_b)
    centered = (total - total[real].mean() if real.any() else total) * real
    variance = float((centered**2).sum())
    if not variance:
        return dict.fromkeys(reward_b)
    return {name: float((parts[name] * centered).sum() / variance) if name in parts else 0.0 for name in reward_b}
