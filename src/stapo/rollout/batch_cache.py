"""Keys and values of rows that decode together, in one place per layer, with room for what comes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

Layers = list[tuple[torch.Tensor, torch.Tensor]]


class BatchCache:
    """Keys and values (rows, heads, columns, size) of each layer; a column is a token of every row, or padding.

    Args:
        layers: of the model.
        rows: that decode together.
        room: columns at first; there are more when they are needed.
    """

    def __init__(self, layers: int, rows: int, room: int) -> None:
        self.rows = rows
        self.room = room
        self._wholes: list[list[torch.Tensor]] = [[] for _ in range(layers)]

    def window(self, rows: slice, first: int, filled: int) -> DynamicCache:
        """The cache of some rows from column `first` on, with `filled` columns that are there already."""
        cache = DynamicCache()
        cache.layers = [_Window(self, at, rows, first, filled) for at in range(len(self._wholes))]
        return cache

    def fill(self, row: int, kept: Layers, cut: int, end: int) -> None:
        """Put the first `cut` tokens of what is kept of an episode in front of column `end`, zeros in front of them."""
        for whole_of, parts in zip(self._wholes, kept, strict=True):
            for whole, part in zip(self._allocated(whole_of, parts, end), parts, strict=True):
                whole[row, :, : end - cut] = 0  # masked, but it has to be finite
                whole[row, :, end - cut : end] = part[:, :cut]

    def write(self, at: int, rows: slice, first: int, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Add the columns of new tokens to a layer; returns its keys and values."""
        wholes = self._allocated(self._wholes[at], parts, first + parts[0].shape[-2])
        for whole, part in zip(wholes, parts, strict=True):
            whole[rows, :, first : first + part.shape[-2]] = part
        return wholes

    def _allocated(self, wholes: list[torch.Tensor], parts: Sequence[torch.Tensor], end: int) -> list[torch.Tensor]:
        if end > self.room:
            self.room = end + end // 4
        for k, part in enumerate(parts):
            if k == len(wholes):
                wholes.append(part.new_empty(self.rows, part.shape[-3], self.room, part.shape[-1]))
            elif end > (old := wholes[k]).shape[2]:
                wholes[k] = torch.cat((old, old.new_empty(*old.shape[:2], self.room - old.shape[2], old.shape[3])), 2)
        return wholes

    def copy(self, source: Sequence[int], target: slice, end: int) -> None:
        """Let rows begin as others have; columns up to `end`."""
        for whole in (whole for wholes in self._wholes for whole in wholes):
            whole[target, :, :end] = whole[list(source), :, :end]

    def select(self, rows: Sequence[int]) -> None:
        """Keep some of the rows, in this order."""
        self.rows = len(rows)
        for wholes in self._wholes:
            for k, whole in enumerate(wholes):
                wholes[k] = whole[list(rows)]

    @property
    def token_bytes(self) -> int:
        """Bytes of a token of one row."""
        return sum(whole[0, :, 0].nbytes for wholes in self._wholes for whole in wholes)

    def of_row(self, row: int, columns: torch.Tensor) -> Layers:
        """A copy of the keys and values of a row at these columns."""
        return [
            (keys[row].index_select(1, columns), values[row].index_select(1, columns)) for keys, values in self._wholes
        ]


class _Window(DynamicLayer):
    """A layer of the cache of some rows."""

    def __init__(self, batch: BatchCache, at: int, rows: slice, first: int, filled: int) -> None:
        super().__init__()
        self._batch, self._at, self._rows = batch, at, rows
        self._first, self._filled, self._begun = first, filled, filled > 0
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Columns that are there."""
        return self._filled

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the keys and values of new tokens; returns those of all."""
        start = self._first + self._filled
        wholes = self._batch.write(self._at, self._rows, start, (key_states, value_states))
        if self._first and not self._begun:
            for whole in wholes:
                whole[self._rows, :, : self._first] = 0  # masked later, but it has to be finite
        self._begun = True
        self._filled += key_states.shape[-2]
        keys, values = (whole[self._rows, :, self._first : self._first + self._filled] for whole in wholes)
        return keys, values
