"""The critic, a transformer of its own with one number at the end of the prompt, and how it is trained and saved."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from stapo.algo import CriticConfig, explained_variance, value_loss
from stapo.config.training import OptimConfig
from stapo.errors import NonFiniteError, SaveError
from stapo.policy import Policy, RowTokens, head_of, hidden_states, row_batches
from stapo.training.batch import RowBatch
from stapo.training.checkpoint import read_tensors
from stapo.training.optimizer import build_optimizer, optimizer_tensors, restore_optimizer


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


_WEIGHTS, _OPTIMIZER = "weights.safetensors", "optimizer.safetensors"


class CriticLearner:
    """Holds a critic and its optimizer.

    Args:
        policy: its present weights are where the critic's start.
        config: of the critic.
        optim: betas, weight decay, gradient clip and micro-batches are the policy's.

    Attributes:
        model: the critic.
        optimizer: AdamW; its state belongs to a save.
    """

    def __init__(self, policy: Policy, config: CriticConfig, optim: OptimConfig) -> None:
        self.config = config
        self.optim = optim
        self.pad_id: int = policy.tokenizer.pad_token_id
        self.model = Critic.of(policy)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(
            self.parameters, config.learning_rate, (optim.beta1, optim.beta2), optim.weight_decay
        )

    @torch.no_grad()
    def values(self, rows: Sequence[RowTokens]) -> np.ndarray:
        """(B,) float64 values of the states before these rows' responses."""
        rows, values_b = prompts_of(rows), np.zeros(len(rows))
        for part in row_batches(rows, self.optim.micro_tokens):
            values_b[part] = self.model([rows[b] for b in part], self.pad_id).double().cpu().numpy()
        return values_b

    def set_rate(self, factor: float) -> None:
        """Set the learning rate of an iteration, as a part of its peak."""
        for group in self.optimizer.param_groups:
            group["lr"] = factor * self.config.learning_rate

    def backward(self, batch: RowBatch, rows: list[int], where: str) -> dict[str, Any]:
        """Put the gradient of a mini-batch, clipped, into the critic's weights.

        Args:
            batch: with values and their targets.
            rows: of the mini-batch.
            where: names the optimizer step in an error.

        Raises:
            NonFiniteError: the loss or the gradient is not finite.
        """
        value_b, target_b = _values(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss, clipped = 0.0, 0
        prompts = prompts_of([batch.full(b) for b in rows])
        for part in row_batches(prompts, self.optim.micro_tokens):
            chosen = [rows[i] for i in part]
            now_b = self.model([prompts[i] for i in part], self.pad_id)
            out = value_loss(
                now_b,
                torch.as_tensor(value_b[chosen], dtype=now_b.dtype, device=now_b.device),
                torch.as_tensor(target_b[chosen], dtype=now_b.dtype, device=now_b.device),
                self.config,
                len(rows),
            )
            if not torch.isfinite(out.loss):
                found = float(out.loss.detach())
                raise NonFiniteError(f"the value loss at {where} is {found}; this step was not taken.")
            out.loss.backward()
            loss += float(out.loss.detach())
            clipped += int(out.clipped)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.optim.grad_clip))
        if not math.isfinite(norm):
            raise NonFiniteError(f"the critic's gradient norm is {norm} at {where}; this step was not taken.")
        return {"value_loss": loss, "value_grad_norm": norm, "value_clipped": clipped / len(rows)}

    def summary(self, batch: RowBatch) -> dict[str, Any]:
        """What the critic said of the batch before it was trained on it, and what it should have said."""
        value_b, target_b = _values(batch)
        return {
            "mean_value": float(value_b.mean()),
            "mean_target": float(target_b.mean()),
            "explained_variance": explained_variance(value_b, target_b),
        }

    def write(self, folder: Path) -> None:
        """Write weights and optimizer into `folder`, which is made."""
        folder.mkdir()
        weights = {name: t.detach().cpu().contiguous() for name, t in self.model.state_dict().items()}
        save_file(weights, folder / _WEIGHTS)
        save_file(optimizer_tensors(self.optimizer, self.model), folder / _OPTIMIZER)

    def restore(self, folder: Path) -> None:
        """Read what `write` wrote.

        Raises:
            SaveError: it is missing, or belongs to another model.
        """
        try:
            self.model.load_state_dict(read_tensors(folder / _WEIGHTS))
        except RuntimeError as err:
            raise SaveError(f"'{folder / _WEIGHTS}' does not fit the model of this run: {err}") from err
        restore_optimizer(self.optimizer, self.model, read_tensors(folder / _OPTIMIZER))


def _values(batch: RowBatch) -> tuple[np.ndarray, np.ndarray]:
    """(B,) values before the update, and what they should have been."""
    if batch.value_b is None:
        raise ValueError("the batch has no values; expected one built with advantage.episode 'gae' and value_b.")
    return batch.value_b, batch.advantages.value_target_b
