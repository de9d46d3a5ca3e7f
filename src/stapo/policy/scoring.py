"""Hidden states at the positions that predict each response token: the input of the chunked head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stapo.policy.allowed import Allowed


@dataclass(frozen=True, slots=True)
class RowTokens:
    """Prompt and response of one row, as token ids.

    Attributes:
        prompt_ids: the prompt.
        response_ids: the response.
        allowed: the tokens that each position of the response might have taken; None for the whole vocabulary.
    """

    prompt_ids: Sequence[int]
    response_ids: Sequence[int]
    allowed: Sequence[Allowed] | None = None

    @property
    def length(self) -> int:
        """Tokens of the forward pass: the last response token is predicted, never read."""
        return len(self.prompt_ids) + len(self.response_ids) - 1


def head_of(model: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight (V, H) and bias (V,) of the language-model head; most models have no bias."""
    head = model.get_output_embeddings()
    return head.weight, getattr(head, "bias", None)


def hidden_states(
    model: Any, rows: Sequence[RowTokens], pad_id: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run the model body over `rows` and keep the positions that predict response tokens.

    Position ids count from 0 in each row, so a blind prompt gets its own.

    Returns:
        hidden_nh: (n, H), n = all response tokens of all rows, row by row;
        targets_n: the response token ids;
        row_n: index of the row each belongs to.
    """
    device = next(model.parameters()).device
    width = max(row.length for row in rows)
    ids_bl = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask_bl = torch.zeros_like(ids_bl)
    where: list[tuple[int, int]] = []
    targets: list[int] = []
    for b, row in enumerate(rows):
        read = [*row.prompt_ids, *row.response_ids[:-1]]
        ids_bl[b, : len(read)] = torch.as_tensor(read, dtype=torch.long)
        mask_bl[b, : len(read)] = 1
        first = len(row.prompt_ids) - 1
        where += [(b, first + k) for k in range(len(row.response_ids))]
        targets += row.response_ids
    out = model.base_model(input_ids=ids_bl.to(device), attention_mask=mask_bl.to(device), use_cache=False)
    index_n2 = torch.as_tensor(where, dtype=torch.long, device=device)
    hidden_nh = out.last_hidden_state[index_n2[:, 0], index_n2[:, 1]]
    return hidden_nh, torch.as_tensor(targets, dtype=torch.long, device=device), index_n2[:, 0]


def micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut row indices into micro-batches of at most `budget` padded tokens, shortest rows first.

    A row longer than the budget gets a micro-batch of its own. The loss carries its divisors along, so the cut does
    not change any number.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    batches: list[list[int]] = []
    for i in order:
        if batches and (len(batches[-1]) + 1) * lengths[i] <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
