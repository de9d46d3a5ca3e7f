"""How unusual a step's entropy is for its state: the score that is held against the fences.

``normalized`` (STAPO eq. 2) and ``shannon`` (eq. 1) are the paper's. The others answer two weaknesses
of eq. 2 in small anchor groups: a row takes part in the mean and standard deviation it is measured by, so that its
score is at most (n - 1) / sqrt(n); and a state seen once has no score at all.

All are functions of arrays. ``running`` takes statistics of earlier iterations and returns those to
hand to the next one; it keeps nothing itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from stapo.algo.checks import require_config, require_length
from stapo.algo.config import OutlierConfig
from stapo.algo.groups import (
    BoolArray,
    DoubleArray,
    dense_codes,
    group_statistics,
    one_number_per_row,
    real_values,
    standardize,
    statistics_by_code,
)
from stapo.algo.registries import STEP_SCORES
from stapo.registry import trait, traits

MAD_SCALE = 1.4826
"""Median absolute deviation times this estimates the standard deviation of a normal distribution."""

FORGOTTEN = 0.01
"""A state whose weight has decayed below this many visits is dropped from the running statistics."""

StateEntropies = dict[str, tuple[float, float, float]]
"""State -> (weight in visits, mean entropy, summed squared deviation), those seen last at the end."""


class EntropyScores(NamedTuple):
    """Scores of one batch.

    Attributes:
        score_b: (B,) float64, 0 where there is none.
        scored_b: (B,) rows that have a score.
        size_b: (B,) int64 rows in the anchor group, 0 on rows that are not in use.
        states: running statistics after this batch; None but under ``metric=running``.
    """

    score_b: DoubleArray
    scored_b: BoolArray
    size_b: npt.NDArray[np.int64]
    states: StateEntropies | None = None


class ScoreRows(NamedTuple):
    """The rows of a batch (B of them) as a step score is given them; no array may be changed.

    Attributes:
        entropy_b: float64, mean token entropy in nats; 0 on rows that are not in use.
        anchor_b: integers, anchor group, unique across tasks.
        used_b: rows in use; the others may enter no statistic.
        size_b: rows in use of the row's anchor group, 0 on rows that are not in use.
        state_b: key of each row's state, equal across tasks and iterations; None where no score asks for it.
        states: what the score returned for the last iteration; empty at the first.
    """

    entropy_b: DoubleArray
    anchor_b: npt.NDArray[np.intp]
    used_b: BoolArray
    size_b: npt.NDArray[np.int64]
    state_b: Sequence[str] | None = None
    states: Mapping[str, Sequence[float]] = {}


class StepScore(Protocol):
    """How unusual each step is: what `outlier.metric` names.

    A pure function. Trait (`stapo.registry.traits`): ``needs_states`` has rows come with `state_b`, and the states that
    are returned given back at the next iteration.
    """

    def __call__(self, rows: ScoreRows, config: OutlierConfig, /) -> npt.ArrayLike | EntropyScores:
        """Return (B,) scores, to be held against the fences; or `EntropyScores` where not every row has one."""
        ...


def state_key(text: str) -> str:
    """Short key of a state under which `running` remembers it: 16 hexadecimal digits."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def entropy_scores(
    entropy_b: npt.ArrayLike,
    anchor_b: npt.ArrayLike,
    included_b: npt.ArrayLike | None,
    config: OutlierConfig,
    *,
    state_b: Sequence[str] | None = None,
    states: Mapping[str, Sequence[float]] | None = None,
) -> EntropyScores:
    """Score every step's entropy as `config.metric` says.

    Args:
        entropy_b: (B,) mean token entropies, nats.
        anchor_b: (B,) anchor ids, unique across tasks.
        included_b: (B,) rows to use, as booleans or weights; None for all.
        config: settings of this step.
        state_b: (B,) key of each row's state, equal across tasks and iterations; for ``running``.
        states: statistics that the last iteration returned; for ``running``, None at the first.

    Raises:
        ValueError: lengths differ, or ``running`` has no `state_b`.
        NonFiniteError: the entropy of a row in use is NaN or infinite.
        ConfigError: `config` is something else.
    """
    require_config(config, OutlierConfig)
    entropy, used = real_values("entropy_b", entropy_b, included_b)
    require_length(entropy.shape[0], anchor_b=anchor_b)
    code = dense_codes(np.asarray(anchor_b))
    size = group_statistics(entropy, code, weight_b=used, ddof=config.ddof).size_b * used
    with STEP_SCORES.calling(config.metric) as score:
        if state_b is None and trait(score, "needs_states", False):
            raise ValueError(f"state_b is None; outlier.metric '{config.metric}' needs the state of each row.")
        found = score(ScoreRows(entropy, code, used, size, state_b, states or {}), config)
    scores = found if isinstance(found, EntropyScores) else EntropyScores(found, used, size)
    return scores._replace(score_b=one_number_per_row(scores.score_b, f"step score '{config.metric}'", used))


def normalized(rows: ScoreRows, config: OutlierConfig) -> EntropyScores:
    """Eq. 2; see `normalized_entropy`."""
    return EntropyScores(*normalized_entropy(rows.entropy_b, rows.anchor_b, rows.used_b, config))


def shannon(rows: ScoreRows, config: OutlierConfig) -> EntropyScores:
    """The plain entropy of eq. 1."""
    return EntropyScores(rows.entropy_b, rows.used_b, rows.size_b)


def normalized_entropy(
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
        config: settings of this step.

    Returns:
        (B,) float64 scores, 0 where there is none; (B,) rows that have a score, without those of groups whose
        standard deviation is below `min_std`; (B,) rows in the anchor group.

    Raises:
        ValueError: lengths differ.
        NonFiniteError: the entropy of a row in use is NaN or infinite.
    """
    entropy, used = real_values("entropy_b", entropy_b, included_b)
    require_length(entropy.shape[0], anchor_b=anchor_b)
    stats = group_statistics(entropy, anchor_b, weight_b=used, ddof=config.ddof)
    size = stats.size_b * used
    z = standardize(entropy, stats, eps=config.eps, norm="std", std_floor=config.std_floor)
    score, scored = _small_groups(z, entropy, used, size < config.n_min, config)
    # Left out, not scored 0: scores of 0 would draw the quartiles together until every other row is an outlier.
    scored = scored & ((size < config.n_min) | (stats.std_b >= (config.min_std or 0.0)))
    return score * scored, scored, size


def _small_groups(
    score: DoubleArray, entropy: DoubleArray, used: BoolArray, small: BoolArray, config: OutlierConfig
) -> tuple[DoubleArray, BoolArray]:
    """Replace the scores of rows in groups that are too small, as `config.singleton` says."""
    small = used & small
    score = np.where(small, entropy if config.singleton == "raw" else 0.0, score)
    scored = used & ~small if config.singleton == "exclude" else used
    return score * scored, scored


def _in_deviations(distance: DoubleArray, scale: DoubleArray, config: OutlierConfig) -> DoubleArray:
    """Distance in units of the scale (a standard deviation), which counts as at least `min_scale`."""
    return distance / (np.maximum(scale, config.min_scale) + config.eps)


def leave_one_out(rows: ScoreRows, config: OutlierConfig) -> EntropyScores:
    """Distance from the mean of the group's other rows, in their standard deviations; without an upper bound."""
    entropy, code, used, size = rows.entropy_b, rows.anchor_b, rows.used_b, rows.size_b
    if entropy.size == 0:
        return EntropyScores(entropy, used, size)
    stats = statistics_by_code(entropy, code, used, 0)
    n = stats.size_b.astype(np.float64)
    deviation = (entropy - stats.mean_b) * used
    squares = np.bincount(code, weights=deviation**2)[code]
    # Taking x out of n values moves their mean by (x - mean) / (n - 1).
    others = np.maximum(squares - deviation**2 * n / np.maximum(n - 1, 1), 0.0)
    scale = np.sqrt(others / np.maximum(n - 1 - config.ddof, 1))
    score = _in_deviations(deviation * n / np.maximum(n - 1, 1), scale, config)
    # The standard deviation of the others needs one of them more than `ddof`.
    small = size < max(config.n_min, 2 + config.ddof)
    return EntropyScores(*_small_groups(score, entropy, used, small, config), size)


def median_mad(rows: ScoreRows, config: OutlierConfig) -> EntropyScores:
    """Distance from the group's median, in its median absolute deviations scaled to a normal standard deviation."""
    entropy, code, used, size = rows.entropy_b, rows.anchor_b, rows.used_b, rows.size_b
    distance = entropy - _group_median(entropy, code, used)
    scale = MAD_SCALE * _group_median(np.abs(distance), code, used)
    score = _in_deviations(distance, scale, config)
    return EntropyScores(*_small_groups(score, entropy, used, size < config.n_min, config), size)


def _group_median(value: DoubleArray, code: npt.NDArray[np.intp], used: BoolArray) -> DoubleArray:
    """Return (B,) the median over the group's rows in use, 0 where there is none."""
    rows = np.flatnonzero(used)
    if rows.size == 0:
        return np.zeros_like(value)
    order = rows[np.lexsort((value[rows], code[rows]))]
    count = np.bincount(code[rows], minlength=int(code.max()) + 1)
    first = np.cumsum(count) - count
    there = count > 0
    median = np.zeros(count.shape[0])
    low, high = first + (count - 1) // 2, first + count // 2
    median[there] = 0.5 * (value[order[low[there]]] + value[order[high[there]]])
    return median[code]


def shrunken(rows: ScoreRows, config: OutlierConfig) -> EntropyScores:
    """Distance from a mean between the group's and the batch's, in a standard deviation between theirs.

    A group of n rows weighs n / (n + k): an empirical-Bayes estimate whose prior is the batch. Groups
    of every size have a score, singletons among them.
    """
    entropy, code, used = rows.entropy_b, rows.anchor_b, rows.used_b
    if entropy.size == 0:
        return EntropyScores(entropy, used, rows.size_b)
    group = statistics_by_code(entropy, code, used, config.ddof)
    batch = statistics_by_code(entropy, np.zeros_like(code), used, config.ddof)
    weight = group.size_b / np.maximum(group.size_b + config.shrinkage, 1.0)
    mean = weight * group.mean_b + (1 - weight) * batch.mean_b
    variance = weight * group.std_b**2 + (1 - weight) * batch.std_b**2
    return EntropyScores(_in_deviations(entropy - mean, np.sqrt(variance), config) * used, used, rows.size_b)


@traits(needs_states=True)
def running(rows: ScoreRows, config: OutlierConfig) -> EntropyScores:
    """Score against mean and standard deviation of the state over this batch and, decayed, over earlier ones."""
    entropy, used, size, states, state_b = rows.entropy_b, rows.used_b, rows.size_b, rows.states, rows.state_b or ()
    require_length(entropy.shape[0], state_b=np.asarray(state_b, dtype=object))
    places = np.flatnonzero(used)
    kept = {
        key: (weight * config.running_decay, mean, squares * config.running_decay)
        for key, (weight, mean, squares) in states.items()
        if weight * config.running_decay >= FORGOTTEN
    }
    if places.size == 0:
        return EntropyScores(np.zeros_like(entropy), used, size, kept)
    number: dict[str, int] = {}
    code = np.array([number.setdefault(state_b[b], len(number)) for b in places.tolist()], dtype=np.intp)
    value = entropy[places]
    count = np.bincount(code).astype(np.float64)
    mean = np.bincount(code, weights=value) / count
    squares = np.bincount(code, weights=(value - mean[code]) ** 2)
    old = np.array([kept.pop(key, (0.0, 0.0, 0.0)) for key in number])
    weight = old[:, 0] + count
    step = mean - old[:, 1]
    # Pooling two samples: means weigh as their counts, and their distance adds to the squares.
    mean = old[:, 1] + step * count / weight
    squares = old[:, 2] + squares + step**2 * old[:, 0] * count / weight
    scale = np.sqrt(squares / np.maximum(weight - config.ddof, 1e-9)) * (weight > config.ddof)
    score, small = np.zeros_like(entropy), np.zeros_like(used)
    score[places] = _in_deviations(value - mean[code], scale[code], config)
    small[places] = weight[code] < config.n_min
    kept |= dict(zip(number, zip(weight.tolist(), mean.tolist(), squares.tolist(), strict=True), strict=True))
    newest = list(kept.items())[-config.running_states :]
    return EntropyScores(*_small_groups(score, entropy, used, small, config), size, dict(newest))
