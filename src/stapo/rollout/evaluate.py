"""Playing a split with a fixed policy, by a stated protocol."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from stapo.agent import AgentConfig
from stapo.rollout.collect import Collector
from stapo.rollout.config import NO_LIMITS, SamplingLimits
from stapo.rollout.kept_keys import KeepsKeys
from stapo.rollout.shares import Share, doubled, pass_share
from stapo.rollout.types import NOT_THE_POLICYS, StopReason, Trajectory, marker_counts, mean_task_score
from stapo.texts import counted

_FEWEST = 8  # episodes played together, even where they do not find room


@dataclass(frozen=True, slots=True)
class EvalProtocol:
    """How an evaluation is done.

    Attributes:
        split: name of the split.
        episodes: episodes per seed; the sorted tasks of the split are cycled, or evenly thinned when there are more
            tasks than episodes. 0 plays each task once.
        temperature: sampling temperature, 0 is greedy.
        seeds: each seed plays the same tasks with its own sampling streams.
        attempts: episodes of each task and seed; `episodes` counts one of them.
        tasks: tasks that are played, evenly spaced in the split; 0 takes all.
        limits: which tokens may be drawn.
    """

    split: str
    episodes: int
    temperature: float
    seeds: tuple[int, ...]
    attempts: int = 1
    tasks: int = 0
    limits: SamplingLimits = NO_LIMITS

    def describe(self, tasks: int) -> str:
        """One line that a reader needs to compare the numbers."""
        episodes = self.episodes or (min(tasks, self.tasks) if self.tasks else tasks)
        played = min(tasks, episodes, self.tasks or tasks)
        mode = "greedy" if self.temperature == 0 else f"sampled at temperature {self.temperature:g}{self.limits}"
        each = f", {self.attempts} of each," if self.attempts > 1 else ""
        seeds = f"{counted(len(self.seeds), 'seed')} ({', '.join(map(str, self.seeds))})"
        return (
            f"{counted(episodes * self.attempts, 'episode')} on {played} of the {counted(tasks, 'task')} of split "
            f"'{self.split}'{each} per seed, {seeds}, {mode}"
        )


def pick_tasks(tasks: Sequence[str], episodes: int) -> list[str]:
    """Choose which tasks are played: all of them in turn, or evenly spaced ones when there are more than needed."""
    if episodes <= 0:
        return list(tasks)
    if episodes >= len(tasks):
        return [tasks[i % len(tasks)] for i in range(episodes)]
    return [tasks[(i * len(tasks)) // episodes] for i in range(episodes)]


def evaluate(
    collector: Collector,
    tasks: Sequence[str],
    protocol: EvalProtocol,
    *,
    batch: int = 128,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Trajectory]]:
    """Play the protocol; returns the trajectories of each seed.

    Args:
        collector: environments and policy.
        tasks: sorted task ids of the split.
        protocol: what is played.
        batch: episodes played together, at most: fewer where their keys and values would not be kept between turns.
        progress: called with (finished, all) episodes.
    """
    chosen = pick_tasks(pick_tasks(tasks, min(protocol.tasks, len(tasks))), protocol.episodes)
    each, results = protocol.attempts, []
    of_a_seed, at_once = len(chosen) * each, max(1, _together(collector, batch) // each)
    total = of_a_seed * len(protocol.seeds)
    for number, seed in enumerate(protocol.seeds):
        tell = None if progress is None else lambda done, before=number * of_a_seed: progress(before + done, total)
        stream, limits = (seed, 7), protocol.limits
        results.append(play_in_parts(collector, chosen, each, protocol.temperature, stream, at_once, tell, limits))
    return results


def play_in_parts(
    collector: Collector,
    tasks: Sequence[str],
    each: int,
    temperature: float,
    stream: tuple[int, ...],
    at_once: int,
    tell: Callable[[int], None] | None = None,
    limits: SamplingLimits = NO_LIMITS,
) -> list[Trajectory]:
    """Play `each` episodes of every task, those of `at_once` tasks together.

    Args:
        collector: environments and policy.
        tasks: task ids, one per group.
        each: episodes per task.
        temperature: of the sampling.
        stream: name of the random stream; see `Collector.collect`.
        at_once: tasks that are played together.
        tell: called with the finished episodes.
        limits: which tokens may be drawn.
    """
    played: list[Trajectory] = []
    for start in range(0, len(tasks), at_once):
        played += collector.collect(
            tasks[start : start + at_once],
            each,
            temperature,
            stream,
            None if tell is None else lambda done, _all, before=start * each: tell(before + done),  # type: ignore[misc]
            first_group=start,
            **({"limits": limits} if limits else {}),
        )
    return played


def _together(collector: Collector, batch: int) -> int:
    """Episodes that are played together."""
    if not isinstance(collector.sampler, KeepsKeys):
        return batch
    agent = collector.agent
    room = collector.sampler.room(agent.max_prompt_tokens + agent.max_response_tokens)
    return batch if room is None else min(batch, max(_FEWEST, room))


def summarize(played: Sequence[Sequence[Trajectory]]) -> dict[str, Any]:
    """Success by task type and other rates: mean and std over seeds, and the binomial standard error.

    Episodes that failed by an error count as lost; "errors" says how many there were.
    """
    types = sorted({t.task_type for trajectories in played for t in trajectories})
    per_seed = [_rates(trajectories) for trajectories in played]
    count = sum(len(trajectories) for trajectories in played)
    mean = fmean(r["success"] for r in per_seed)
    summary: dict[str, Any] = {
        "episodes": count,
        "success": mean,
        "success_std_over_seeds": stdev(r["success"] for r in per_seed) if len(per_seed) > 1 else None,
        "success_standard_error": math.sqrt(mean * (1 - mean) / count) if count else None,
        "success_by_seed": [r["success"] for r in per_seed],
        "errors": sum(t.failure is not None for trajectories in played for t in trajectories),
        **marker_counts([step for trajectories in played for t in trajectories for step in t.steps]),
    }
    for key in (
        "task_score",
        "episode_length",
        "valid_actions",
        "repeated_actions",
        "ineffective_actions",
        "step_limit",
    ):
        values = [r[key] for r in per_seed if r[key] is not None]
        summary[key] = fmean(values) if values else None
    summary["by_type"] = {}
    for task_type in types:
        rates = [
            fmean(t.won for t in trajectories if t.task_type == task_type)
            for trajectories in played
            if any(t.task_type == task_type for t in trajectories)
        ]
        summary["by_type"][task_type] = {
            "episodes": sum(t.task_type == task_type for trajectories in played for t in trajectories),
            "success": fmean(rates),
            "success_std_over_seeds": stdev(rates) if len(rates) > 1 else None,
            "task_score": mean_task_score([t for ts in played for t in ts if t.task_type == task_type]),
        }
    # The mean that papers on several data sets report: each set counts the same, whatever its size.
    summary["mean_of_types"] = fmean(part["success"] for part in summary["by_type"].values()) if types else None
    return summary


def tasks_in(played: Sequence[Sequence[Trajectory]]) -> int:
    """How many tasks were played."""
    return len({_task(t) for trajectories in played for t in trajectories})


def _task(t: Trajectory) -> tuple[str, str]:
    """A task's own name: two environments of a run may have tasks of one id, and no type in common."""
    return t.task_type, t.task_id


def pass_shares(played: Sequence[Sequence[Trajectory]], attempts: int) -> dict[int, Share]:
    """Mean pass@k over tasks for k = 1, 2, 4 and so on up to `attempts`; episodes of all seeds count together.

    Args:
        played: trajectories of each seed, from `evaluate`.
        attempts: that each task had, at least.
    """
    every = [t for trajectories in played for t in trajectories]
    made, won = Counter(map(_task, every)), Counter(_task(t) for t in every if t.won)
    return {k: pass_share(k, [(made[task], won[task]) for task in made]) for k in doubled(attempts)}


def passed(played: Sequence[Sequence[Trajectory]], temperature: float) -> dict[str, Any]:
    """`pass_at`: pass@k with the ends of its interval, by k; {} where tasks were tried once, or greedily."""
    tries = Counter(_task(t) for trajectories in played for t in trajectories)
    least = min(tries.values(), default=0)
    if least < 2 or temperature == 0:
        return {}
    return {"pass_at": {str(k): [s.value, s.low, s.high] for k, s in pass_shares(played, least).items()}}


def stop_reasons(played: Sequence[Sequence[Trajectory]]) -> dict[str, int]:
    """Episodes by why they ended, in the order of `StopReason`; reasons that did not occur are left out."""
    found = Counter(t.stop_reason for trajectories in played for t in trajectories)
    return {reason.value: found[reason] for reason in StopReason if found[reason]}


def nothing_played(played: Sequence[Sequence[Trajectory]], agent: AgentConfig) -> str:
    """Why an evaluation says nothing about the policy and what to change; "" where any episode was the policy's own.

    Args:
        played: trajectories of each seed, from `evaluate`.
        agent: the settings they were played with.
    """
    every = [t for trajectories in played for t in trajectories]
    if not every or any(t.stop_reason not in NOT_THE_POLICYS for t in every):
        return ""
    said = [f"no episode says anything about the policy: all {len(every)} were ended by something else."]
    lengths = [t.too_long for t in every if t.stop_reason is StopReason.PROMPT_TOO_LONG]
    if lengths:
        said.append(
            f"In {len(lengths)} the prompt did not fit (prompt_too_long): without any history it takes up to "
            f"{max(lengths)} tokens, and agent.max_prompt_tokens is {agent.max_prompt_tokens}. Give "
            f"--agent.max_prompt_tokens {_round_up(max(lengths))} or more."
        )
    failures = [t.failure for t in every if t.failure is not None]
    if failures:
        by = Counter(failure.boundary.value for failure in failures)
        last = failures[-1]
        said.append(
            f"{len(failures)} failed (error; by boundary: {', '.join(f'{name} {n}' for name, n in by.most_common())}). "
            f"The last one, task '{last.task_id}': {last.error} Repair that and evaluate again."
        )
    return " ".join(said)


def _round_up(tokens: int) -> int:
    return -(-tokens * 5 // 4 // 256) * 256


def episode_rows(played: Sequence[Sequence[Trajectory]], protocol: EvalProtocol) -> Iterator[dict[str, Any]]:
    """One row per episode, by which two policies can be compared task by task."""
    for seed, trajectories in zip(protocol.seeds, played, strict=True):
        for number, t in enumerate(trajectories):
            yield {
                "seed": seed,
                "episode": number,
                "task_id": t.task_id,
                "task_type": t.task_type,
                "won": t.won,
                "score": t.score,
                "steps": len(t.steps),
                "stop_reason": t.stop_reason.value,
            }


def _rates(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    steps = [s for t in trajectories for s in t.steps]
    known = [s.effect for s in steps if s.effect is not None]
    return {
        "success": fmean(t.won for t in trajectories),
        "task_score": mean_task_score(trajectories),
        "episode_length": fmean(len(t.steps) for t in trajectories),
        "valid_actions": fmean(s.valid for s in steps) if steps else None,
        "repeated_actions": fmean(s.repeated for s in steps) if steps else None,
        "ineffective_actions": fmean(not e for e in known) if known else None,
        "step_limit": fmean(t.stop_reason is StopReason.STEP_LIMIT for t in trajectories),
    }
