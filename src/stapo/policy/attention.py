"""Attention of models whose query heads share keys and values, without a copy of these for every query head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

_NAME = "sdpa_shared_heads"


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
