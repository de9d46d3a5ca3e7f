"""Trajectories as readable records, with every number that was computed for their steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stapo.rollout.types import Step, Trajectory
from stapo.run import RunDirectory
from stapo.training.batch import RowBatch

_COMPUTED = (
    "return",
    "advantage",
    "episode_advantage",
    "step_advantage",
    "entropy",
    "normalized_entropy",
    "outlier",
    "acted_on",
    "anchor_group",
    "anchor_size",
    "tokens",
    "logprob",
)


def _told(number: int, step: Step) -> dict[str, Any]:
    """What was seen, said and paid in a step."""
    return {
        "step": number,
        "observation": step.observation,
        "prompt": step.prompt,
        "blind_prompt": step.blind_prompt,
        "response": step.response,
        "action": step.action,
        "valid": step.valid,
        "problem": step.problem,
        "repeated": step.repeated,
        "effect": step.effect,
        "reward": step.reward,
    }


def _of_trajectory(t: Trajectory, iteration: int) -> dict[str, Any]:
    return {
        "iteration": iteration,
        "task_id": t.task_id,
        "task_type": t.task_type,
        "goal": t.goal,
        "group": t.group,
        "member": t.member,
        "won": t.won,
        "score": t.score,
        "task_score": t.task_score,
        "stop_reason": t.stop_reason.value,
    }


def trajectory_records(batch: RowBatch, iteration: int, groups: int) -> list[dict[str, Any]]:
    """Records of all trajectories of the first `groups` task groups; one record is one line of a transcript file."""
    records: list[dict[str, Any]] = []
    o, adv = batch.outliers, batch.advantages
    fences = {"q1": o.q1, "q3": o.q3, "lower": o.lower, "upper": o.upper}
    first_row = np.cumsum([0, *(len(t.steps) for t in batch.trajectories)])
    kept = set(list(dict.fromkeys(t.group for t in batch.trajectories))[:groups])
    for j, t in enumerate(batch.trajectories):
        if t.group not in kept:
            continue
        steps = []
        for k, s in enumerate(t.steps):
            b = int(first_row[j]) + k
            steps.append(
                {
                    **_told(k, s),
                    "return": adv.return_b[b],
                    "advantage": adv.total_b[b],
                    "episode_advantage": adv.episode_b[b],
                    "step_advantage": adv.step_b[b],
                    "entropy": batch.entropy_b[b],
                    "normalized_entropy": o.normalized_b[b] if o.included_b[b] else None,
                    "outlier": "high" if o.high_b[b] else "low" if o.low_b[b] else None,
                    "acted_on": bool(batch.flag_b[b]),
                    "anchor_group": int(batch.anchor_b[b]),
                    "anchor_size": int(o.anchor_size_b[b]),
                    "tokens": len(s.response_ids),
                    "logprob": sum(s.logprobs),
                }
            )
        records.append({**_of_trajectory(t, iteration), "fences": fences, "steps": steps})
    return records


def write_raw_transcript(run: RunDirectory, trajectories: Sequence[Trajectory], iteration: int) -> Path:
    """Write the transcript of rows that cannot be computed with, a reward that is not finite, say; returns its path.

    It has every trajectory, and null for each number that would have been computed.
    """
    records = []
    for t in trajectories:
        steps = [
            {**_told(k, s), **dict.fromkeys(_COMPUTED), "tokens": len(s.response_ids)} for k, s in enumerate(t.steps)
        ]
        fences = dict.fromkeys(("q1", "q3", "lower", "upper"))
        records.append({**_of_trajectory(t, iteration), "fences": fences, "steps": steps})
    return run.write_rows(f"transcripts/iteration-{iteration:05d}", records)


def write_transcript(run: RunDirectory, batch: RowBatch, iteration: int, groups: int) -> Path:
    """Write `transcripts/iteration-NNNNN.jsonl`, whole or not at all; returns its path."""
    return run.write_rows(f"transcripts/iteration-{iteration:05d}", trajectory_records(batch, iteration, groups))
