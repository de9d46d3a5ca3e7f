"""Hidden states at the positions that predict each response token: the input of the chunked head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from stapo.policy.sequences import RowTokens


def head_of(model: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight (V, H) and bias (V,) of the language-model head; most models have no bias."""
    head = model.get_output_embeddings()
    return head.weight, getattr(head, "bias", None)


def hidden_states(
    model: Any, rows: Sequence[RowTokens], pad_id: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run the model body over `rows` and keep the positions that predict response tokens.

    Rows of one chain that stand next to each other are read once, by their last. Position ids count from 0 in each
    sequence, so a blind prompt gets its own.

    Returns:
        hidden_nh: (n, H), n = all response tokens of all rows, row by row;
        targets_n: the response token ids;
        row_n: index of the row each belongs to.

    Raises:
        ValueError: the rows of a chain do not extend each other.
    """
    device = next(model.parameters()).device
    sequences: list[list[int]] = []
    where: list[tuple[int, int]] = []
    targets: list[int] = []
    for b, row in enumerate(rows):
        read = row.read
        if b and row.chain is not None and row.chain == rows[b - 1].chain:
            if read[: len(sequences[-1])] != sequences[-1]:
                raise ValueError(f"row {b} is of chain {row.chain}, as the row before it, but does not extend it.")
            sequences[-1] = read
        else:
            sequences.append(read)
        first = len(row.prompt_ids) - 1
        where += [(len(sequences) - 1, first + k) for k in range(len(row.response_ids))]
        targets += row.response_ids
    ids_bl = torch.full((len(sequences), max(map(len, sequences))), pad_id, dtype=torch.long)
    for s, read in enumerate(sequences):
        ids_bl[s, : len(read)] = torch.as_tensor(read, dtype=torch.long)
    # No mask: padding is on the right, where a causal model never looks. Without one, attention takes a faster kernel.
    out = model.base_model(input_ids=ids_bl.to(device), use_cache=False)
    index_n2 = torch.as_tensor(where, dtype=torch.long, device=device)
    hidden_nh = out.last_hidden_state[index_n2[:, 0], index_n2[:, 1]]
    row_n = torch.repeat_interleave(torch.as_tensor([len(row.response_ids) for row in rows], device=device))
    return hidden_nh, torch.as_tensor(targets, dtype=torch.long, device=device), row_n
