"""Which groups an iteration trains on: all that were played, or those whose attempts differ (dynamic sampling)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from stapo.algo import SamplingConfig
from stapo.rollout import Trajectory
from stapo.rollout.faults import Failure

Play = Callable[[int, int, int], tuple[list[Trajectory], list[Failure]]]
"""Plays (so many groups, the first of which has this number, in this round) of the next tasks; returns trajectories
that training may see, ordered by group, and the failures that ended an episode."""


@dataclass(frozen=True)
class Sampled:
    """The episodes of an iteration.

    Attributes:
        kept: those to train on, ordered by group and member.
        played: all that ended normally, those that are not trained on included.
        ended: failures that ended an episode.
        rounds: rounds of play.
        groups: groups that were played.
        kept_groups: groups that are trained on because their attempts differ; without dynamic sampling, all.
    """

    kept: list[Trajectory]
    played: list[Trajectory]
    ended: list[Failure]
    rounds: int
    groups: int
    kept_groups: int

    def summary(self) -> dict[str, int]:
        """What the metrics say of it."""
        return {
            "rounds": self.rounds,
            "kept_groups": self.kept_groups,
            "dropped_groups": self.groups - self.kept_groups,
        }


def together(played: Iterable[Sampled]) -> Sampled:
    """The episodes of several environments as one."""
    parts = list(played)
    return Sampled(
        [t for part in parts for t in part.kept],
        [t for part in parts for t in part.played],
        [failure for part in parts for failure in part.ended],
        max(part.rounds for part in parts),
        sum(part.groups for part in parts),
        sum(part.kept_groups for part in parts),
    )


def sample_groups(wanted: int, config: SamplingConfig, play: Play, each: bool = False) -> Sampled:
    """Play groups until `wanted` of them differ in their returns, or the rounds are used up (DAPO, arXiv 2503.14476).

    Each round plays as many groups as are still missing, so there is never one too many, and groups are numbered on
    from round to round: all their random streams have names of their own. Where no group at all differs, the first
    one that has steps is kept: its advantages are 0, and the iteration goes on.

    Args:
        wanted: groups to train on.
        config: whether and how often groups are replaced.
        play: plays groups of the next tasks.
        each: named rewards are compared one by one, because each teaches by itself; attempts of equal sums may differ.
    """
    trajectories, ended = play(wanted, 0, 1)
    if not config.dynamic:
        return Sampled(trajectories, trajectories, ended, 1, wanted, wanted)
    played, kept, groups, rounds = list(trajectories), differing_groups(trajectories, each), wanted, 1
    while len(kept) < wanted and rounds < config.max_rounds:
        missing = wanted - len(kept)
        rounds += 1
        trajectories, failures = play(missing, groups, rounds)
        groups += missing
        played += trajectories
        ended = ended + failures
        kept += differing_groups(trajectories, each)
    chosen = kept or [group for group in groups_of(played) if any(t.steps for t in group)][:1]
    return Sampled([t for group in chosen for t in group], played, ended, rounds, groups, len(kept))


def differing_groups(trajectories: Sequence[Trajectory], each: bool = False) -> list[list[Trajectory]]:
    """The groups whose attempts did not all return the same, or the same of each named reward.

    One with a return that is not finite is among them: it has to be seen, not to be dropped.
    """
    return [group for group in groups_of(trajectories) if differs(group, each)]


def groups_of(trajectories: Sequence[Trajectory]) -> list[list[Trajectory]]:
    """Trajectories, ordered by group, as one list for each group."""
    return [list(members) for _, members in groupby(trajectories, key=lambda t: t.group)]


def differs(group: Sequence[Trajectory], each: bool = False) -> bool:
    """Whether the attempts of a group did not all return the same finite number, or the same of each named reward."""
    names = {name for t in group for step in t.steps for name in step.rewards} if each else ()
    returns = [[t.score for t in group]]
    returns += [[sum(step.rewards.get(name, 0.0) for step in t.steps) for t in group] for name in sorted(names)]
    return not all(math.isfinite(value) and value == values[0] for values in returns for value in values)
