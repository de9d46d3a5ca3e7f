"""Trajectories as readable records, with every number that was computed for their steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stapo.run import RunDirectory
from stapo.train.batch import RowBatch


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
                    "step": k,
                    "observation": s.observation,
                    "prompt": s.prompt,
                    "blind_prompt": s.blind_prompt,
                    "response": s.response,
                    "action": s.action,
                    "valid": s.valid,
                    "problem": s.problem,
                    "repeated": s.repeated,
                    "effect": s.effect,
                    "reward": s.reward,
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
        records.append(
            {
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
                "fences": fences,
                "steps": steps,
            }
        )
    return records


def write_transcript(run: RunDirectory, batch: RowBatch, iteration: int, groups: int) -> Path:
    """Write `transcripts/iteration-NNNNN.jsonl`, whole or not at all; returns its path."""
    return run.write_rows(f"transcripts/iteration-{iteration:05d}", trajectory_records(batch, iteration, groups))
