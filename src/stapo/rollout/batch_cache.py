"""Keys and values of rows that decode together, in one place per layer, with room for what comes.

Models whose query heads share keys and values read them there, without a copy for every query head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

Layers = list[tuple[torch.Tensor, torch.Tensor]]

_NAME = "sdpa_shared_heads"


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


def shared_heads_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """`sdpa` attention; the query heads (B, H, Q, D) of one key head (B, G, L, D) become further queries of it."""
    rows, heads, tokens, _ = query.shape
    share = heads // key.shape[1]
    known = attention_mask is not None and attention_mask.shape[1] == 1
    if share == 1 or kwargs.get("position_bias") is not None or not (known or (attention_mask is None and tokens == 1)):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    mask = attention_mask
    if mask is not None:
        mask = mask.unsqueeze(2).expand(-1, -1, share, -1, -1).flatten(2, 3)
    out = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(rows, key.shape[1], share * tokens, -1),
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        scale=scaling,
    )
    return out.reshape(rows, heads, tokens, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, shared_heads_attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)


@contextmanager
def shared_heads(model: Any) -> Iterator[None]:
    """Let a model that uses `sdpa` attention read keys and values where they are; others stay as they are."""
    config = model.config.get_text_config(decoder=True)
    before = config._attn_implementation
    if before == "sdpa":
        config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before
