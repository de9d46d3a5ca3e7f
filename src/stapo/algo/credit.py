"""Credit: rewards of steps become one advantage per row (STAPO eq. 6, 7; GiGPO, 2505.10978).

The pieces are chosen by name: `AdvantageConfig.episode` for whole episodes (an `AdvantageEstimator`,
of this or another package), `step_groups` for single steps. Plain numpy without gradients. Sums run
in float64 and results are float32. Rows of weight 0 are padding: they enter no statistic, whatever
they hold, and come out as 0. Nothing here loops over rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from stapo.algo.checks import require_config, require_length
from stapo.algo.config import AdvantageConfig, CriticConfig
from stapo.algo.critic import gae_advantages
from stapo.algo.groups import (
    BoolArray,
    DoubleArray,
    FloatArray,
    dense_codes,
    float32,
    group_normalize,
    group_statistics,
    one_number_per_row,
    real_values,
    standardize,
)
from stapo.algo.history import history_advantages, history_groups
from stapo.algo.mass import trajectory_mass
from stapo.algo.registries import ADVANTAGE_ESTIMATORS, STEP_CREDITS
from stapo.algo.returns import episode_returns, next_rows, step_returns
from stapo.registry import trait, traits

__all__ = [
    "AdvantageEstimator",
    "Advantages",
    "CreditRows",
    "StepCredit",
    "batch_advantages",
    "compute_advantages",
    "episode_advantages",
    "episode_returns",
    "group_normalize",
    "leave_one_out_advantages",
    "step_advantages",
    "step_returns",
]


class CreditRows(NamedTuple):
    """The rows of a batch (B of them) as an estimator is given them; no array may be changed.

    Attributes:
        reward_b: float64, reward of each step; 0 on padding.
        return_b: float64, discounted return from the step on, less `penalty_b`.
        penalty_b: float64, what an invalid action takes off the returns; 0 where the penalty is flat.
        group_b: integers, task.
        traj_b: integers, trajectory, unique across tasks.
        step_b: step number inside the trajectory.
        anchor_b: integers, anchor group, unique across tasks.
        real_b: False on padding rows, which may enter no statistic.
        success_b: whether the row's trajectory solved its task; False on padding.
        value_b: float64, a critic's value of the state before each step; None without a critic.
    """

    reward_b: DoubleArray
    return_b: DoubleArray
    penalty_b: DoubleArray
    group_b: npt.NDArray[np.intp]
    traj_b: npt.NDArray[np.intp]
    step_b: npt.NDArray[np.int64]
    anchor_b: npt.NDArray[np.intp]
    real_b: BoolArray
    success_b: BoolArray
    value_b: DoubleArray | None

    def following(self, value_b: DoubleArray, end_b: DoubleArray) -> DoubleArray:
        """Return (B,) the value that the next row of the trajectory has; `end_b` where there is none."""
        next_b = next_rows(self.traj_b, self.step_b, self.real_b)
        return np.where(next_b >= 0, value_b[next_b], end_b)


class AdvantageEstimator(Protocol):
    """The advantage of the whole episode, per row: what `advantage.episode` names.

    A pure function. Traits (`stapo.registry.traits`): ``needs_values`` has a critic trained; ``needs_groups`` says that
    a group of one trajectory gets no credit.
    """

    def __call__(
        self, rows: CreditRows, config: AdvantageConfig, critic: CriticConfig, /
    ) -> npt.ArrayLike | tuple[npt.ArrayLike, npt.ArrayLike]:
        """Return (B,) advantages; one with a critic returns (B,) targets of its values as well."""
        ...


class StepCredit(Protocol):
    """The advantage of single steps, per row: what `advantage.step_credit` names. A pure function."""

    def __call__(self, rows: CreditRows, config: AdvantageConfig, /) -> npt.ArrayLike:
        """Return (B,) advantages, before `omega`."""
        ...


@dataclass(frozen=True)
class Advantages:
    """What `compute_advantages` returns; all arrays are (B,) and 0 on padding.

    Attributes:
        total_b: float32, the advantage to train with; times the row's mass under ``equal_mass=trajectory``.
        episode_b: float32, its episode part A_E (0 where the algorithm has none).
        step_b: float32, its step part A_S before `omega` (0 where the algorithm has none).
        return_b: float32, discounted return from the step on, with the penalty where that is put on
            returns.
        episode_return_b: float32, return of the whole trajectory, with the penalty likewise.
        anchor_size_b: int64, real rows in the row's anchor group.
        value_target_b: float32, what a critic should have said of the row's state (0 without one).
    """

    total_b: FloatArray
    episode_b: FloatArray
    step_b: FloatArray
    return_b: FloatArray
    episode_return_b: FloatArray
    anchor_size_b: npt.NDArray[np.int64]
    value_target_b: FloatArray


def episode_advantages(
    reward_b: npt.ArrayLike,
    group_b: npt.ArrayLike,
    traj_b: npt.ArrayLike,
    config: AdvantageConfig,
    *,
    penalty_b: npt.ArrayLike | float = 0.0,
    weight_b: npt.ArrayLike | None = None,
) -> FloatArray:
    """Episode advantage A_E of eq. 6, per row.

    Under ``episode_stats=trajectory`` mean and standard deviation run over the group's trajectory returns
    without penalties; under ``step`` they run over its rows, penalties included. The row's own
    return carries its penalty in both. Where all returns are equal the advantage is 0, whatever the
    penalties: under ``trajectory`` a group of failures is not told which of its rows were invalid.

    Args:
        reward_b: (B,) reward of each step.
        group_b: (B,) task.
        traj_b: (B,) trajectory, unique across tasks.
        config: settings of this step.
        penalty_b: (B,) amount taken off a row's return, or one number.
        weight_b: (B,) 0 on padding rows.

    Returns:
        (B,) float32, 0 on padding.
    """
    _, real = real_values("reward_b", reward_b, weight_b)
    clean = episode_returns(reward_b, traj_b, weight_b=real)
    penalized = (clean - np.asarray(penalty_b, dtype=np.float64)) * real
    if config.episode_stats == "trajectory":
        stats = group_statistics(clean, group_b, weight_b=_one_row_each(traj_b, real), ddof=config.ddof)
    else:
        stats = group_statistics(penalized, group_b, weight_b=real, ddof=config.ddof)
    z = standardize(penalized, stats, eps=config.eps, norm=config.advantage_norm, std_floor=config.std_floor)
    if config.lone == "return":
        z = np.where(stats.size_b == 1, penalized, z)
    return float32(z * real)


def leave_one_out_advantages(
    reward_b: npt.ArrayLike,
    group_b: npt.ArrayLike,
    traj_b: npt.ArrayLike,
    *,
    penalty_b: npt.ArrayLike | float = 0.0,
    weight_b: npt.ArrayLike | None = None,
) -> FloatArray:
    """Return of a row's trajectory minus the mean return of its group's others (RLOO, 2402.14740).

    Equal to n / (n - 1) * (R - mean) in a group of n; 0 in a group of one. The baseline is taken
    without penalties; the row's own return carries its penalty.

    Returns:
        (B,) float32, 0 on padding.
    """
    _, real = real_values("reward_b", reward_b, weight_b)
    clean = episode_returns(reward_b, traj_b, weight_b=real)
    stats = group_statistics(clean, group_b, weight_b=_one_row_each(traj_b, real))
    compared = real & (stats.size_b > 1)
    above = (clean - stats.mean_b) * stats.size_b / np.maximum(stats.size_b - 1, 1)
    return float32(np.where(compared, above - np.asarray(penalty_b, dtype=np.float64), 0.0))


def batch_advantages(
    return_b: npt.ArrayLike, config: AdvantageConfig, *, weight_b: npt.ArrayLike | None = None
) -> FloatArray:
    """Return from a step on, whitened over all rows of the batch (REINFORCE++, 2501.03262).

    Returns:
        (B,) float32, 0 on padding; 0 everywhere where all returns are equal.
    """
    one_group = np.zeros(np.shape(return_b), dtype=np.int64)
    return step_advantages(return_b, one_group, config, weight_b=weight_b)


def step_advantages(
    return_b: npt.ArrayLike,
    anchor_b: npt.ArrayLike,
    config: AdvantageConfig,
    *,
    weight_b: npt.ArrayLike | None = None,
) -> FloatArray:
    """Step advantage A_S of eq. 7: the step return against its anchor group; 0 in a group of one.

    Returns:
        (B,) float32, 0 on padding.
    """
    return group_normalize(
        return_b,
        anchor_b,
        weight_b=weight_b,
        eps=config.eps,
        ddof=config.ddof,
        norm=config.advantage_norm,
        std_floor=config.std_floor,
    )


def compute_advantages(
    reward_b: npt.ArrayLike,
    valid_b: npt.ArrayLike,
    group_b: npt.ArrayLike,
    traj_b: npt.ArrayLike,
    step_b: npt.ArrayLike,
    anchor_b: npt.ArrayLike,
    weight_b: npt.ArrayLike | None,
    config: AdvantageConfig,
    *,
    critic: CriticConfig | None = None,
    value_b: npt.ArrayLike | None = None,
    success_b: npt.ArrayLike | None = None,
) -> Advantages:
    """Total advantage A = A_E + omega * A_S of each row, with its parts.

    Args:
        reward_b: (B,) reward of each step.
        valid_b: (B,) whether the step's action was valid; an invalid one costs
            `config.invalid_penalty`.
        group_b: (B,) task, integers or strings.
        traj_b: (B,) trajectory, unique across tasks.
        step_b: (B,) step number inside the trajectory.
        anchor_b: (B,) anchor ids, unique across tasks (`stapo.algo.anchors`).
        weight_b: (B,) 0 on padding rows, else above 0; None if no row is padding.
        config: settings of this step.
        critic: settings of the estimate from values; its defaults where None.
        value_b: (B,) a critic's value of the state before each step; needed by ``episode=gae`` alone.
        success_b: (B,) whether the row's trajectory solved its task; where None, whether its return is above 0.

    Raises:
        ValueError: lengths differ, a step occurs twice, a trajectory or anchor group spans two
            tasks, or there are no values where the configuration needs them.
        NonFiniteError: a real row's reward or value is NaN or infinite.
        ConfigError: `config` is something else.
    """
    require_config(config, AdvantageConfig)
    reward, real = real_values("reward_b", reward_b, weight_b)
    n = reward.shape[0]
    require_length(n, valid_b=valid_b, group_b=group_b, traj_b=traj_b, step_b=step_b, anchor_b=anchor_b)
    group, traj, anchor = (dense_codes(np.asarray(a)) for a in (group_b, traj_b, anchor_b))
    _require_inside_task("trajectory", traj, group, real)
    _require_inside_task("anchor group", anchor, group, real)

    penalty = config.invalid_penalty * (~np.asarray(valid_b, dtype=bool)) * real
    in_return = penalty if config.invalid_penalty_on == "return" else np.zeros(n)
    returns = step_returns(reward, traj, step_b, config.discount, weight_b=real) - in_return
    whole_return = episode_returns(reward, traj, weight_b=real)
    success = np.asarray(whole_return > 0 if success_b is None else success_b, dtype=bool)
    require_length(n, success_b=success)
    with ADVANTAGE_ESTIMATORS.calling(config.episode) as estimator:
        value = None
        if trait(estimator, "needs_values", False):
            if value_b is None:
                raise ValueError(
                    f"value_b is None with advantage.episode '{config.episode}'; expected a critic's value of each row."
                )
            value, _ = real_values("value_b", value_b, real)
        rows = CreditRows(
            _read_only(reward), _read_only(returns), _read_only(in_return), _read_only(group), _read_only(traj),
            _read_only(np.asarray(step_b)), _read_only(anchor), _read_only(real),
            _read_only(success & real), None if value is None else _read_only(value),
        )  # fmt: skip
        found = estimator(rows, config, critic or CriticConfig())
    whole, target = found if isinstance(found, tuple) else (found, np.zeros(n, np.float32))
    name = f"advantage estimator '{config.episode}'"
    episode, target = (float32(one_number_per_row(part, name, real)) for part in (whole, target))
    step = np.zeros(n, np.float32)
    if config.step_advantage:
        with STEP_CREDITS.calling(config.step_credit) as credit:
            single = credit(rows, config)
        step = float32(one_number_per_row(single, f"step credit '{config.step_credit}'", real))
    flat = penalty - in_return
    total = episode.astype(np.float64) + config.omega * step.astype(np.float64) - flat
    if config.equal_mass == "trajectory":
        total *= trajectory_mass(traj, weight_b=real)
    sizes = np.bincount(anchor, weights=real)[anchor] * real if n else np.zeros(0)
    return Advantages(
        total_b=float32(total),
        episode_b=episode,
        step_b=step,
        return_b=float32(returns),
        episode_return_b=float32(whole_return - in_return),
        anchor_size_b=sizes.astype(np.int64),
        value_target_b=target,
    )


@traits(needs_groups=True)
def grpo(rows: CreditRows, config: AdvantageConfig, critic: CriticConfig) -> FloatArray:
    """Eq. 6; see `episode_advantages`."""
    return episode_advantages(
        rows.reward_b, rows.group_b, rows.traj_b, config, penalty_b=rows.penalty_b, weight_b=rows.real_b
    )


@traits(needs_groups=True)
def rloo(rows: CreditRows, config: AdvantageConfig, critic: CriticConfig) -> FloatArray:
    """See `leave_one_out_advantages`."""
    return leave_one_out_advantages(
        rows.reward_b, rows.group_b, rows.traj_b, penalty_b=rows.penalty_b, weight_b=rows.real_b
    )


def batch(rows: CreditRows, config: AdvantageConfig, critic: CriticConfig) -> FloatArray:
    """See `batch_advantages`."""
    return batch_advantages(rows.return_b, config, weight_b=rows.real_b)


@traits(needs_values=True)
def gae(rows: CreditRows, config: AdvantageConfig, critic: CriticConfig) -> tuple[FloatArray, FloatArray]:
    """Generalized advantage estimates, whitened where `critic.whiten` says so, and the targets of the values."""
    value, real = np.asarray(rows.value_b), rows.real_b
    raw = gae_advantages(rows.reward_b, value, rows.traj_b, rows.step_b, critic.discount, critic.lam, weight_b=real)
    raw = raw - rows.penalty_b
    whitened = batch_advantages(raw, replace(config, advantage_norm="std"), weight_b=real) if critic.whiten else raw
    return float32(np.asarray(whitened)), float32((raw + value) * real)


@traits(needs_groups=True)
def none(rows: CreditRows, config: AdvantageConfig, critic: CriticConfig) -> FloatArray:
    """No advantage of the whole episode: step advantages alone."""
    return np.zeros(rows.reward_b.shape[0], np.float32)


def compared_returns(rows: CreditRows, config: AdvantageConfig) -> FloatArray:
    """Eq. 7, or the mean over the levels of HGPO; see `step_advantages`, `history_advantages`."""
    if config.step_groups == "history":
        levels = history_groups(rows.anchor_b, rows.traj_b, rows.step_b, config.history_depth, weight_b=rows.real_b)
        return history_advantages(rows.return_b, levels, config, weight_b=rows.real_b)
    return step_advantages(rows.return_b, rows.anchor_b, config, weight_b=rows.real_b)


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def _one_row_each(traj_b: npt.ArrayLike, real: BoolArray) -> BoolArray:
    """Mark one real row of each trajectory, so that long ones do not count for more."""
    marked = np.zeros(real.shape[0], dtype=bool)
    rows = np.flatnonzero(real)
    marked[rows[np.unique(np.asarray(traj_b)[rows], return_index=True)[1]]] = True
    return marked


def _require_inside_task(what: str, ids: npt.NDArray[np.intp], group: npt.NDArray[np.intp], real: BoolArray) -> None:
    rows = np.flatnonzero(real)
    if rows.size == 0:
        return
    home = np.zeros(int(ids.max()) + 1, dtype=np.intp)
    home[ids[rows]] = group[rows]
    stray = rows[home[ids[rows]] != group[rows]]
    if stray.size:
        raise ValueError(
            f"row {int(stray[0])} shares its {what} id with a row of another task; expected ids "
            "that are unique across tasks (number them over the whole batch)."
        )
