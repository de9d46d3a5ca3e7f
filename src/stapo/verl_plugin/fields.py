"""Names of what we add to verl's rows, and reading its ragged tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FLAG = "stapo_flag"
"""(B,) 1 on rows that the selective terms act on."""

BLIND_IDS = "stapo_blind_ids"
"""Ragged: the trajectory-blind prompt of flagged rows, a single 0 elsewhere (a ragged row cannot be empty)."""

TRAJECTORY = "stapo_trajectory"
"""(B,) index of the episode, -1 on padding."""

TRAJECTORY_ROWS = "stapo_trajectory_rows"
"""(B,) rows of the episode in the mini-batch, over all ranks; present where the loss needs it."""

TOTALS = "stapo_totals"
"""`stapo.verl_plugin.objective.Totals` of the mini-batch."""

SCORES = "stapo_scores"
"""In the engine's output: scores of the flagged rows."""


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


def padded(ragged: Tensor) -> Tensor:
    """(B, L) rows of a ragged tensor, 0 behind their ends."""
    dense: Tensor = torch.nested.to_padded_tensor(ragged, 0)
    return dense


def ragged_rows(rows: list[Tensor]) -> Tensor:
    """A ragged tensor of these rows."""
    nested: Tensor = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
    return nested
