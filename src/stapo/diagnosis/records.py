"""One row per step for steps.jsonl, and the worst steps with what a reader needs to judge them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stapo.diagnosis.measure import Measured
from stapo.diagnosis.scoring import MASKS
from stapo.rollout import Trajectory
from stapo.training.transcripts import told

MOST_CASES = 12
_PER_TASK = 2
_MOST_SIBLINGS = 16


@dataclass(frozen=True)
class Case:
    """A bad step.

    Attributes:
        row: its row of steps.jsonl.
        goal: the task sentence.
        prompt: the full prompt.
        first_message: that the conversation in the prompt begins with; "" where the prompt is not a conversation.
        turns: of the conversation, what was shown and what was said; the step itself is the last.
        blind_prompt: the same without goal and history.
        response: what the policy answered.
        siblings: rows of the other steps in the same situation, those with the best step advantage first.
        left_out: how many of them are not shown.
    """

    row: dict[str, Any]
    goal: str
    prompt: str
    first_message: str
    turns: list[tuple[str, str]]
    blind_prompt: str
    response: str
    siblings: list[dict[str, Any]]
    left_out: int


def step_records(measured: Measured) -> list[dict[str, Any]]:
    """A row per step, in the order of the batch."""
    batch, o = measured.batch, measured.batch.outliers
    records = []
    for b, step in enumerate(batch.steps):
        trajectory, fault = batch.trajectories[batch.traj_b[b]], measured.faults[b]
        records.append(
            {
                "task_id": trajectory.task_id,
                "task_type": trajectory.task_type,
                "group": trajectory.group,
                "member": trajectory.member,
                "step": int(batch.step_b[b]),
                "action": step.action,
                "valid": step.valid,
                "effect": step.effect,
                "won": trajectory.won,
                "tokens": len(step.response_ids),
                "entropy": batch.entropy_b[b],
                "normalized_entropy": o.normalized_b[b] if o.included_b[b] else None,
                "outlier": "high" if o.high_b[b] else "low" if o.low_b[b] else None,
                "anchor_group": int(batch.anchor_b[b]),
                "anchor_size": int(o.anchor_size_b[b]),
                "kl": measured.attribution.kl_b[b],
                "attribution": {mask: measured.attribution.drop_b[mask][b] for mask in MASKS},
                "step_advantage": batch.advantages.step_b[b],
                "faults": None if fault is None else sorted(fault),
            }
        )
    return records


def worst_cases(measured: Measured, records: list[dict[str, Any]], most: int = MOST_CASES) -> list[Case]:
    """Bad steps to read: flagged ones first, then those with more faults, then those with the lowest divergence.

    At most two per task, so that one hopeless episode does not fill the page.
    """
    kl_b = np.nan_to_num(measured.attribution.kl_b, nan=np.inf)
    bad = [b for b, row in enumerate(records) if row["faults"]]
    bad.sort(key=lambda b: (records[b]["outlier"] is None, -len(records[b]["faults"]), kl_b[b], b))
    cases, taken = list[Case](), dict[str, int]()
    for b in bad:
        task = records[b]["task_id"]
        if taken.get(task, 0) < _PER_TASK and len(cases) < most:
            taken[task] = taken.get(task, 0) + 1
            cases.append(_case(measured, records, b))
    return cases


def _case(measured: Measured, records: list[dict[str, Any]], b: int) -> Case:
    batch, step = measured.batch, measured.batch.steps[b]
    others = [int(i) for i in np.flatnonzero(batch.anchor_b == batch.anchor_b[b]) if i != b]
    others.sort(key=lambda i: (-float(batch.advantages.step_b[i]), i))
    return Case(
        records[b],
        batch.trajectories[batch.traj_b[b]].goal,
        step.prompt,
        step.first_message,
        _turns(batch.trajectories[batch.traj_b[b]], int(batch.step_b[b])),
        step.blind_prompt,
        step.response,
        [records[i] for i in others[:_MOST_SIBLINGS]],
        max(0, len(others) - _MOST_SIBLINGS),
    )


def _turns(trajectory: Trajectory, step: int) -> list[tuple[str, str]]:
    """The turns that the prompt of a step shows; the first one holds all before the last break."""
    first = trajectory.steps[step].first_message
    turns = told(trajectory)[: step + 1] if first else []
    begins = max((k for k, turn in enumerate(turns) if not turn["continues"]), default=0)
    return [(turn["prompt"].removeprefix(f"{first}\n"), turn["response"]) for turn in turns[begins:]]
