"""Shares with 95 % intervals, pass@k, and how good the best of many looks: counts in, numbers out.

Tasks are what varies: attempts at one task resemble each other, so an interval that counts episodes as independent is
too narrow. Every interval here is Wilson's (JASA 22, 1927) of as many coin flips as would make the share vary as it
does from task to task (Korn and Graubard, Survey Methodology 24, 1998). Where a task is won or lost as a whole, as in
pass@k of k attempts, tasks are the flips, and the interval is Wilson's plain one. Where each task has a share of its
own, as in pass@k of more attempts, the flips are more: between the number of tasks and that of separate sets of k
attempts, as the variance over tasks says. The interval stays in 0 to 1, and has a width where all or none were won.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist, fmean, variance

LEVEL = 0.95
INTERVAL = (
    f"{100 * LEVEL:g} %, Wilson, of as many coin flips as would vary as the shares of tasks do: at least one per task, "
    "at most one per k attempts"
)
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Share:
    """A share with its 95 % interval.

    Attributes:
        value: from 0 to 1.
        low, high: ends of the interval.
    """

    value: float
    low: float
    high: float


def wilson(share: float, count: float) -> Share:
    """Wilson's score interval of a share of `count` independent flips.

    Raises:
        ValueError: no share from 0 to 1, or nothing was flipped.
    """
    if not 0 <= share <= 1 or not count > 0:
        raise ValueError(f"a share of {share} of {count}; expected a share from 0 to 1, and a count above 0")
    weight = _Z * _Z / count
    center = (share + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
    # At 0 and 1 rounding would leave the share outside.
    return Share(share, min(share, max(0.0, center - half)), max(share, min(1.0, center + half)))


def pass_at(k: int, attempts: int, won: int) -> float:
    """Chance that one of k attempts at a task is won: the unbiased estimate of Chen et al. (arXiv 2107.03374).

    Raises:
        ValueError: fewer than k attempts, or more won than made.
    """
    if not 1 <= k <= attempts or not 0 <= won <= attempts:
        raise ValueError(f"pass@{k} of {won} won of {attempts} attempts; expected 1 <= k <= attempts, won <= attempts")
    return 1 - math.comb(attempts - won, k) / math.comb(attempts, k)


def pass_share(k: int, tasks: Iterable[tuple[int, int]]) -> Share:
    """Mean of pass@k over tasks, with an interval for other tasks and other attempts.

    Args:
        k: attempts.
        tasks: of each, how many attempts were made, at least k, and how many were won.

    Raises:
        ValueError: no task, or one with fewer attempts.
    """
    tasks = list(tasks)
    values = [pass_at(k, attempts, won) for attempts, won in tasks]
    if not values:
        raise ValueError("a share needs at least one task")
    value = min(1.0, fmean(values))
    flips = float(len(values))
    if 0 < value < 1 and len(values) > 1:
        most, variation = sum(attempts // k for attempts, _ in tasks), variance(values)
        flips = max(flips, min(most, flips * value * (1 - value) / variation if variation else math.inf))
    return wilson(value, flips)


def best_of(count: int) -> float:
    """Mean of the largest of `count` independent standard normal numbers; 0 for one, 1.74 for 15.

    That many standard errors the best of equally good policies looks better than it is, where each was measured on
    draws of its own; by less where they were measured on the same tasks.

    Raises:
        ValueError: fewer than one.
    """
    if count < 1:
        raise ValueError(f"the best of {count}; expected at least 1")
    step, normal = 0.01, NormalDist()
    # The integral of 1 - F(x)^n above 0 and of -F(x)^n below, by the trapezoidal rule.
    return (
        0.0
        if count == 1
        else step * sum((0.5 * ((i > 0) + (i >= 0))) - normal.cdf(step * i) ** count for i in range(-1000, 1001))
    )


def doubled(k: int) -> list[int]:
    """1, 2, 4 and so on below k, and k."""
    return [*(2**i for i in range((k - 1).bit_length())), k]
