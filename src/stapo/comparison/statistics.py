"""Mean, standard deviation and paired differences over seeds and tasks; arrays in, numbers out.

Two policies that were trained with the same seed play the same evaluation tasks. Their difference is taken task by
task, so that what makes a task hard for both drops out of it. It still varies for two reasons: another seed would have
trained other policies, and other tasks would have been won. The bootstrap here resamples both: first the seeds, then,
inside each drawn seed, the tasks (a task with all its episodes).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95
_CHUNK = 2_000_000  # drawn indices held at once


@dataclass(frozen=True)
class MeanStd:
    """A mean over seeds with its standard deviation.

    Attributes:
        mean: of the values.
        sd: sample standard deviation (n - 1); None for a single value.
        n: how many values.
    """

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Pairs:
    """Differences between two policies of one seed, summed by task.

    Attributes:
        sum_k: per task, the sum over its episodes of (first policy won) - (second policy won).
        episodes_k: per task, how many pairs of episodes that are; at least 1.
    """

    sum_k: Floats
    episodes_k: Floats

    @property
    def mean(self) -> float:
        """Difference of the two success rates."""
        return float(self.sum_k.sum() / self.episodes_k.sum())


@dataclass(frozen=True)
class Difference:
    """A paired difference over seeds.

    Attributes:
        mean: mean over seeds of the difference in success.
        sd: sample standard deviation over seeds; None for one seed.
        low, high: percentile interval of the hierarchical bootstrap.
        by_seed: difference of each seed.
        pairs: pairs of episodes in all.
    """

    mean: float
    sd: float | None
    low: float
    high: float
    by_seed: tuple[float, ...]
    pairs: int


def mean_std(values: Sequence[float]) -> MeanStd:
    """Mean and sample standard deviation of at least one value.

    Raises:
        ValueError: there is none.
    """
    if not values:
        raise ValueError("a mean needs at least one value")
    array = np.asarray(values, dtype=np.float64)
    return MeanStd(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None, len(array))


def pair(tasks: Sequence[Hashable], first: Sequence[float], second: Sequence[float]) -> Pairs:
    """Sum the differences of paired episodes by task.

    Args:
        tasks: task of each pair of episodes.
        first: outcome of the first policy in each.
        second: outcome of the second policy.

    Raises:
        ValueError: lengths differ, or there is no pair.
    """
    if not len(tasks) == len(first) == len(second) or not len(tasks):
        raise ValueError(f"found {len(tasks)} tasks, {len(first)} and {len(second)} outcomes; expected as many of each")
    number = {task: k for k, task in enumerate(dict.fromkeys(tasks))}
    index = np.array([number[task] for task in tasks])
    gap = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return Pairs(np.bincount(index, gap).astype(np.float64), np.bincount(index, np.ones(len(gap))).astype(np.float64))


def paired_difference(
    seeds: Sequence[Pairs], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Difference:
    """Mean difference over seeds, with a percentile interval from a hierarchical bootstrap.

    Each resample draws as many seeds as there are, with replacement, and in each drawn seed as many tasks as it has,
    with replacement; its value is the mean over the drawn seeds of the difference per episode. With one seed only the
    tasks vary, and the interval says nothing about other seeds. With two or three seeds it is too narrow where seeds
    differ much, as every bootstrap of so few is.

    Args:
        seeds: paired outcomes of each seed.
        resamples: how many.
        level: coverage that is aimed at.
        seed: of the draws; same arguments, same interval.

    Raises:
        ValueError: there is no seed.
    """
    by_seed = mean_std([pairs.mean for pairs in seeds])
    rng = np.random.default_rng([seed, len(seeds)])
    picked = rng.integers(0, len(seeds), (resamples, len(seeds)))
    total = np.zeros(resamples)
    for s, pairs in enumerate(seeds):
        times = (picked == s).sum(axis=1)
        owner = np.repeat(np.arange(resamples), times)
        total += np.bincount(owner, _resampled_means(pairs, len(owner), rng), resamples)
    low, high = np.quantile(total / len(seeds), [(1 - level) / 2, (1 + level) / 2])
    return Difference(
        by_seed.mean,
        by_seed.sd,
        float(low),
        float(high),
        tuple(pairs.mean for pairs in seeds),
        int(sum(pairs.episodes_k.sum() for pairs in seeds)),
    )


def _resampled_means(pairs: Pairs, count: int, rng: np.random.Generator) -> Floats:
    """Difference per episode in each of `count` draws of as many tasks as there are."""
    tasks = len(pairs.sum_k)
    means = np.empty(count)
    size = max(1, _CHUNK // tasks)
    for start in range(0, count, size):
        rows = min(size, count - start)
        drawn = rng.integers(0, tasks, (rows, tasks))
        means[start : start + rows] = pairs.sum_k[drawn].sum(axis=1) / pairs.episodes_k[drawn].sum(axis=1)
    return means
