"""A critic: a transformer of its own with one number at the end of the prompt."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from stapo.policy.model import Policy, head_of, hidden_states
from stapo.policy.sequences import RowTokens


def prompts_of(rows: Sequence[RowTokens]) -> list[RowTokens]:
    """Rows with a response of one token, which stands for one that is still to come and is never read."""
    return [replace(row, response_ids=(0,)) for row in rows]


class Critic(torch.nn.Module):
    """The body of a causal language model with a scalar head; the head is float32.

    The head starts at 0, and with it every value: at first, advantages are returns.

    Args:
        body: maps tokens to hidden states; taken over, not copied.
        hidden_size: of these states.
    """

    def __init__(self, body: Any, hidden_size: int) -> None:
        super().__init__()
        self.body = body
        self.head = torch.nn.Linear(hidden_size, 1, device=next(body.parameters()).device, dtype=torch.float32)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    @classmethod
    def of(cls, policy: Policy) -> Critic:
        """A critic whose body is a copy of the policy's; all of it is trained, or its adapters where it has any."""
        body = copy.deepcopy(policy.model.base_model)
        if policy.adapter is None:
            body.requires_grad_(True)
        body.zero_grad(set_to_none=True)
        critic = cls(body, head_of(policy.model)[0].shape[1])
        # As with the policy: dropout would make values noisy, and a run depend on how rows are cut into batches.
        return critic.eval()

    def forward(self, rows: Sequence[RowTokens], pad_id: int) -> torch.Tensor:
        """(B,) fp32 values of the states that prompts (none empty) describe.

        Args:
            rows: the prompts, as `prompts_of` returns them.
            pad_id: fills shorter ones.
        """
        # The position that would predict the first token of a response has read the prompt and nothing else.
        hidden_bh, _, _ = hidden_states(self.body, rows, pad_id)
        values_b: torch.Tensor = self.head(hidden_bh.float()).squeeze(-1)
        return values_b
