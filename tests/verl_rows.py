"""Episodes as the rows that verl has of them when advantages are due."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stapo.algo import AlgorithmConfig, get_algorithm
from stapo.rollout import Trajectory
from stapo.verl_plugin.credit import assign_credit, columns
from stapo.verl_plugin.rows import VerlRow, sent_rows


def with_flags(longest: int, name: str, **loss: object) -> AlgorithmConfig:
    """A preset with some flagged steps, weights large enough to see their terms, and beta on.

    Args:
        longest: tokens of a response at most.
        name: of the preset.
        loss: settings of the loss.
    """
    given = get_algorithm(name)
    return replace(
        given,
        outlier=replace(given.outlier, lam=0.2) if given.selective_on else given.outlier,
        selective=replace(given.selective, alpha=0.3, gamma=0.2) if given.selective_on else given.selective,
        loss=replace(given.loss, beta=0.05, **loss),  # type: ignore[arg-type]
    ).resolved(longest)


def verl_rows(trajectories: Sequence[Trajectory], *, merge: bool = True) -> list[VerlRow]:
    """Rows in order; between two steps lie numbers that count nowhere."""
    rows = []
    for t in trajectories:
        for sent in sent_rows(t, 10 + t.group, merge=merge):
            entropies = [9.0] * len(sent.mask)
            payload = json.loads(json.dumps(sent.payload))
            for number, step in zip(sent.steps, payload["row_steps"], strict=True):
                entropies[step["start"] : step["end"]] = t.steps[number].entropies
            logprobs = [p if sampled else -9.0 for p, sampled in zip(sent.logprobs, sent.mask, strict=True)]
            tokens = sent.prompt_ids, sent.response_ids, sent.mask, logprobs, entropies
            rows.append(VerlRow(f"uid{t.group}", t.member, *tokens, payload))
    return rows


def padded(rows: list[VerlRow], count: int = 3) -> list[VerlRow]:
    """As verl pads: copies of the first row's payload under a new id, other tokens, no mask."""
    made_up = replace(
        rows[0], uid="pad0", prompt_ids=[0] * 127, response_ids=[0], mask=[0], logprobs=[0.0], entropies=[9.0]
    )
    return [*rows, *(replace(made_up, member=k, padding=True) for k in range(count))]


def shuffled(rows: list[VerlRow], seed: int = 0) -> tuple[list[VerlRow], np.ndarray]:
    order = np.random.default_rng(seed).permutation(len(rows))
    return [rows[i] for i in order], order


def verl_columns(rows: Sequence[VerlRow], algorithm: AlgorithmConfig, *, merge: bool) -> dict[str, list]:
    """What verl's batch holds of rows in an update, with our columns; values of each row."""
    credit = columns(assign_credit(rows, algorithm, merge=merge), [len(row.response_ids) for row in rows])
    return {
        "prompts": [row.prompt_ids for row in rows],
        "responses": [row.response_ids for row in rows],
        "response_mask": [row.mask for row in rows],
        "old_log_probs": [row.logprobs for row in rows],
        **{name: [row.tolist() for row in column.unbind()] for name, column in credit.items()},
    }
