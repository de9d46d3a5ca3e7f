"""Statistics inside groups of rows, for the advantages (eq. 6, 7) and the entropy score (eq. 2).

Sums run in float64. A row of weight 0 is padding: it enters no statistic, whatever it holds.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from stapo.algo.checks import require_finite, require_length
from stapo.documents import shown
from stapo.errors import ConfigError

AdvantageNorm = Literal["std", "none"]
FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class GroupStats(NamedTuple):
    """(B,) mean, standard deviation (0 where undefined) and number of real rows of each row's group."""

    mean_b: DoubleArray
    std_b: DoubleArray
    size_b: npt.NDArray[np.int64]


def group_statistics(
    value_b: npt.ArrayLike,
    group_b: npt.ArrayLike,
    *,
    weight_b: npt.ArrayLike | None = None,
    ddof: int = 1,
) -> GroupStats:
    """Mean, standard deviation and size of each row's group over its rows of weight above 0.

    A group with `ddof` rows or fewer has no standard deviation; 0 stands for it.

    Raises:
        ValueError: lengths differ.
        NonFiniteError: a real row's value is NaN or infinite.
    """
    value, real = real_values("value_b", value_b, weight_b)
    require_length(value.shape[0], group_b=group_b)
    if value.size == 0:
        return GroupStats(value, value, np.zeros(0, np.int64))
    return statistics_by_code(value, dense_codes(np.asarray(group_b)), real, ddof)


def group_normalize(
    value_b: npt.ArrayLike,
    group_b: npt.ArrayLike,
    *,
    weight_b: npt.ArrayLike | None = None,
    eps: float = 1e-6,
    ddof: int = 1,
    norm: AdvantageNorm = "std",
    std_floor: float = 1e-8,
) -> FloatArray:
    """Center each value on its group's mean; under ``norm=std`` divide by (standard deviation + eps).

    This is the form of eq. 2, 6 and 7.
    0 where the group has a single real row, and under ``norm=std`` where its standard deviation is below
    `std_floor`.

    Returns:
        (B,) float32, 0 on padding.

    Raises:
        ValueError: lengths differ.
        NonFiniteError: a real row's value is NaN or infinite.
    """
    value, real = real_values("value_b", value_b, weight_b)
    stats = group_statistics(value, group_b, weight_b=real, ddof=ddof)
    return float32(standardize(value, stats, eps=eps, norm=norm, std_floor=std_floor) * real)


def standardize(
    value_b: DoubleArray, stats: GroupStats, *, eps: float, norm: AdvantageNorm, std_floor: float
) -> DoubleArray:
    """Apply given group statistics to values, with the zero rules of `group_normalize`."""
    centered = value_b - stats.mean_b
    usable = stats.size_b > 1
    if norm == "none":
        return np.where(usable, centered, 0.0)
    usable &= (stats.std_b >= std_floor) & (stats.std_b > 0)
    return np.where(usable, centered / np.where(usable, stats.std_b + eps, 1.0), 0.0)


def statistics_by_code(value: DoubleArray, code: npt.NDArray[np.intp], real: BoolArray, ddof: int) -> GroupStats:
    """`group_statistics` for dense codes and checked values."""
    size = np.bincount(code, weights=real)
    mean = np.bincount(code, weights=value * real) / np.maximum(size, 1)
    # Two passes, not E[x^2] - E[x]^2: the latter loses everything when rewards carry a large common
    # offset.
    deviation = (value - mean[code]) * real
    variance = np.bincount(code, weights=deviation**2) / np.maximum(size - ddof, 1)
    std = np.where(size > ddof, np.sqrt(variance), 0.0)
    return GroupStats(mean[code], std[code], size.astype(np.int64)[code])


def real_values(name: str, value_b: npt.ArrayLike, weight_b: npt.ArrayLike | None) -> tuple[DoubleArray, BoolArray]:
    """Return (B,) values with padding set to 0, and (B,) which rows are real.

    Raises:
        ValueError: the array is not one-dimensional, or lengths differ.
        NonFiniteError: a real row's value is NaN or infinite.
    """
    value = np.asarray(value_b, dtype=np.float64)
    require_length(value.shape[0] if value.ndim else 0, **{name: value})
    if weight_b is None:
        real = np.ones(value.shape[0], dtype=bool)
    else:
        require_length(value.shape[0], weight_b=weight_b)
        real = np.asarray(weight_b) > 0
    value = np.where(real, value, 0.0)
    require_finite(name, value)
    return value, real


def one_number_per_row(found: npt.ArrayLike, what: str, real_b: BoolArray) -> DoubleArray:
    """What a function of another package may have returned: (B,) finite numbers, 0 on padding.

    Raises:
        ConfigError: it is not one number per row; `what` names the function.
        NonFiniteError: a real row's number is NaN or infinite.
    """
    try:
        value = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError):
        value = np.zeros(())
    if value.shape != real_b.shape:
        raise ConfigError(f"{what} returned {shown(found)}; expected {real_b.shape[0]} numbers, one per row.")
    value = np.where(real_b, value, 0.0)
    require_finite(what, value)
    return value


def dense_codes(ids: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Return dense integers 0, 1, … for arbitrary ids."""
    # Small non-negative integers are usable as they are, and sorting is most of what unique costs.
    if ids.size and ids.dtype.kind in "iu" and ids.min() >= 0 and ids.max() < 4 * ids.size:
        return ids.astype(np.intp, copy=False)
    return np.unique(ids, return_inverse=True)[1].astype(np.intp, copy=False)


def float32(value: DoubleArray) -> FloatArray:
    """Return the values as float32, the precision in which advantages and scores travel."""
    return value.astype(np.float32)
