"""What episodes cost whose prompts extend each other: the steps of one are read as a few sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How the prompt of an episode grows.

    Attributes:
        opening: tokens of the first prompt.
        turn: tokens that each step adds, its response and the next message.
        response: tokens of a response.
        limit: tokens of a prompt at most.
        halves: a prompt that is too long loses half of its turns at once, and no more than it has to otherwise.
    """

    opening: float
    turn: float
    response: float
    limit: float
    halves: bool


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What an episode reads, in tokens.

    Attributes:
        prompt: of a prompt, in the mean.
        rows: of a pass over its steps, each read alone.
        sequences: how many of them there are.
        sequence: of a sequence, in the mean.
        new: of a step's prompt that the rollout has not read at the step before, in the mean.
    """

    prompt: float
    rows: float
    sequences: float
    sequence: float
    new: float


def read_episode(growth: Growth, steps: float) -> Reading:
    """What an episode of so many steps reads."""
    prompts, ends, new, kept = list[float](), list[float](), 0.0, 0
    for step in range(max(1, round(steps))):
        begins = step == 0
        while kept and growth.opening + kept * growth.turn > growth.limit:
            kept = kept // 2 if growth.halves else kept - 1
            begins = True
        prompts.append(growth.opening + kept * growth.turn)
        new += prompts[-1] if begins else growth.turn - growth.response
        if not begins:
            ends.pop()
        ends.append(prompts[-1] + growth.response)
        kept += 1
    share = steps / len(prompts)  # the number of steps is a mean, and need not be whole
    return Reading(
        prompt=fmean(prompts),
        rows=share * (sum(prompts) + len(prompts) * growth.response),
        sequences=float(len(ends)),
        sequence=share * fmean(ends),
        new=new / len(prompts),
    )


def longest_of(lengths: Sequence[int], count: float) -> float:
    """Expected length of the longest of `count` draws from these; 0 where there are none."""
    ordered, n = sorted(lengths), len(lengths)
    return float(sum(length * (((i + 1) / n) ** count - (i / n) ** count) for i, length in enumerate(ordered)))
