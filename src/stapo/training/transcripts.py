"""Trajectories as readable records, with every number that was computed for their steps.

A conversation is written once: a step whose prompt extends the last one's tells what is new in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stapo.agent import added_text
from stapo.algo import state_key
from stapo.config.run_config import RunConfig
from stapo.policy import RowTokens, find_chains
from stapo.rollout.types import Step, Trajectory
from stapo.run import RunDirectory
from stapo.run.rows import row_file_name
from stapo.run.step_columns import ANCHOR_DIGITS, BatchArrays, spans_of, summary_row
from stapo.training.batch import RowBatch
from stapo.training.transcript_details import Details

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
    "r_ta",
    "p_ti",
)


def told(trajectory: Trajectory) -> list[dict[str, Any]]:
    """What was seen, said and paid in each step.

    Steps of a conversation also have `continues`: whether `prompt` is only what was added to the last prompt and its
    response. Those that do not continue have its `first_message`; those that begin a new sequence `new_sequence`: what
    of the last step their prompt does not repeat, "prompt" or "response", and how many `forgotten_turns`.
    """
    return [_told(k, step) | _talked(trajectory, k) for k, step in enumerate(trajectory.steps)]


def _told(number: int, step: Step) -> dict[str, Any]:
    return {
        "step": number,
        "observation": step.observation,
        # What stapo export needs besides.
        **({} if step.blind_observation == step.observation else {"blind_observation": step.blind_observation}),
        "admissible": step.admissible,
        "ended": not step.truncated,
        "prompt": step.prompt,
        "blind_prompt": step.blind_prompt,
        "response": step.response,
        "action": step.action,
        "valid": step.valid,
        "problem": step.problem,
        "repeated": step.repeated,
        "effect": step.effect,
        "reward": step.reward,
        **({"rewards": step.rewards} if step.rewards else {}),
        **({"retriever_error": step.retriever_error} if step.retriever_error else {}),
        "anchor_key": state_key(step.anchor)[:ANCHOR_DIGITS],
    }


def _talked(trajectory: Trajectory, number: int) -> dict[str, Any]:
    step = trajectory.steps[number]
    if not step.first_message:
        return {}
    last = trajectory.steps[number - 1] if number else None
    added = None if last is None else added_text(step.prompt, last.prompt, last.response)
    if added is not None:
        talked: dict[str, Any] = {"continues": True, "prompt": added}
    else:
        talked = {"continues": False, "first_message": step.first_message}
    rows = [] if last is None else [RowTokens(s.prompt_ids, s.response_ids) for s in (last, step)]
    for missing in find_chains(rows, [0] * len(rows)).breaks:
        talked |= {"new_sequence": missing, "forgotten_turns": step.forgotten_turns}
    return talked


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


def kept_groups(batch: RowBatch, groups: int) -> set[int]:
    """The first `groups` task groups of a batch; of a batch of several environments, so many of each."""
    if batch.parts:
        return {group for part in batch.parts.values() for group in kept_groups(part, groups)}
    return set(list(dict.fromkeys(t.group for t in batch.trajectories))[:groups])


def kept_rows(batch: RowBatch, groups: int) -> set[int]:
    """The rows of those task groups."""
    kept = kept_groups(batch, groups)
    return {b for b, group in enumerate(batch.group_b.tolist()) if group in kept}


def trajectory_records(
    batch: RowBatch, iteration: int, groups: int, details: Details | None = None, first: int = 0
) -> list[dict[str, Any]]:
    """Records of all trajectories of the first `groups` task groups; one record is one line of a transcript file.

    Args:
        batch: of one iteration. Of several environments, so many groups of each are recorded, with the fences of their
            environment.
        iteration: its number, from 1.
        groups: task groups that are recorded.
        details: what is told beside the batch's own numbers.
        first: row of `details` that is the batch's first.
    """
    records: list[dict[str, Any]] = []
    if batch.parts:
        for label, part in batch.parts.items():
            found = trajectory_records(part, iteration, groups, details, first)
            records += [record | {"env": label} for record in found]
            first += len(part)
        return records
    o, adv = batch.outliers, batch.advantages
    fences = {"q1": o.q1, "q3": o.q3, "lower": o.lower, "upper": o.upper}
    first_row = np.cumsum([0, *(len(t.steps) for t in batch.trajectories)])
    kept = kept_groups(batch, groups)
    for j, t in enumerate(batch.trajectories):
        if t.group not in kept:
            continue
        steps = []
        for k, (s, seen) in enumerate(zip(t.steps, told(t), strict=True)):
            b = int(first_row[j]) + k
            steps.append(
                {
                    **seen,
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
                    **({} if details is None else details.of_step(s, first + b)),
                }
            )
        record = {**_of_trajectory(t, iteration), "fences": fences, "steps": steps}
        if details is not None:
            details.add_prompts(record, t)
        records.append(record)
    return records


def write_raw_transcript(run: RunDirectory, trajectories: Sequence[Trajectory], iteration: int) -> Path:
    """Write the transcript of rows that cannot be computed with, a reward that is not finite, say; returns its path.

    It has every trajectory, and null for each number that would have been computed.
    """
    records = []
    for t in trajectories:
        steps = [
            {**seen, **dict.fromkeys(_COMPUTED), "tokens": len(s.response_ids)}
            for s, seen in zip(t.steps, told(t), strict=True)
        ]
        fences = dict.fromkeys(("q1", "q3", "lower", "upper"))
        records.append({**_of_trajectory(t, iteration), "fences": fences, "steps": steps})
    return run.write_rows(row_file_name(iteration), records)


def write_transcript(
    run: RunDirectory, batch: RowBatch, iteration: int, groups: int, details: Details | None = None
) -> Path:
    """Write `transcripts/iteration-NNNNN.jsonl`, whole or not at all, and its row of `steps.jsonl`; returns its path.

    Args:
        run: where to write.
        batch: of one iteration.
        iteration: its number, from 1.
        groups: task groups that are recorded; of several environments, so many of each.
        details: what is told beside the batch's own numbers.
    """
    records = trajectory_records(batch, iteration, groups, details)
    path = run.write_rows(row_file_name(iteration), records)
    arrays = {label: _arrays(part) for label, part in (batch.parts or {"": batch}).items()}
    run.append("steps", summary_row(iteration, records, spans_of(path), arrays))
    return path


def _arrays(batch: RowBatch) -> BatchArrays:
    o = batch.outliers
    score_b = np.where(o.included_b, o.normalized_b, np.nan).astype(np.float32)
    return BatchArrays(batch.entropy_b.astype(np.float32), score_b, batch.anchor_b.astype(np.uint32))


def is_due(config: RunConfig, iteration: int) -> bool:
    """Whether an iteration (from 1) leaves a transcript."""
    log = config.log
    if not log.transcript_every or not log.transcript_groups:
        return False
    return iteration in (1, config.optim.iterations) or iteration % log.transcript_every == 0
