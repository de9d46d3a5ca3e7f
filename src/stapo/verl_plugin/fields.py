"""Names of what we add to verl's rows, and reading its ragged tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

STEP = "stapo_step"
"""Ragged, per response token: which of the row's steps it belongs to, from 0; -1 on what lies between two steps."""

BLIND_LENGTHS = "stapo_blind_lengths"
"""Ragged, per step of the row: tokens of the trajectory-blind prompt; 0 where the selective terms do not act on it."""

BLIND_IDS = "stapo_blind_ids"
"""Ragged: these prompts one behind the other; a single 0 where there are none (a ragged row cannot be empty)."""

TRAJECTORY = "stapo_trajectory"
"""(B,) index of the episode, -1 on padding."""

TRAJECTORY_STEPS = "stapo_trajectory_steps"
"""(B,) steps of the episode in the mini-batch, over all ranks; present where the loss needs it."""

SAMPLED = "rollout_log_probs"
"""verl's own column of the rollout server's log-probabilities; absent where they are not asked for."""

TOTALS = "stapo_totals"
"""`stapo.verl_plugin.objective.Totals` of the mini-batch."""

SCORES = "stapo_scores"
"""In the engine's output: scores of the flagged steps."""


def flat(column: Any) -> Tensor:
    """(B,) values of a column of numbers, however verl's transport has wrapped it."""
    values: Tensor = column.values() if column.is_nested else column
    return values.reshape(-1)


def objects(column: Any) -> list[Any]:
    """Entries of a column of mappings: the transport hands out stacks, arrays or plain lists."""
    found: list[Any] = column.tolist() if hasattr(column, "tolist") else list(column)
    return found


def lengths(ragged: Any) -> list[int]:
    """Length of each row of a ragged tensor."""
    found: list[int] = ragged.offsets().diff().tolist()
    return found


def whole_numbers(ragged: Any) -> list[list[int]]:
    """Rows of a ragged tensor of whole numbers, also where the transport has made it a plain one."""
    return [row.reshape(-1).tolist() for row in ragged.unbind()]


def padded(ragged: Tensor) -> Tensor:
    """(B, L) rows of a ragged tensor, 0 behind their ends."""
    dense: Tensor = torch.nested.to_padded_tensor(ragged, 0)
    return dense


def ragged_rows(rows: list[Tensor]) -> Tensor:
    """A ragged tensor of these rows."""
    nested: Tensor = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
    return nested
