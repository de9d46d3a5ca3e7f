"""The critic in training: values before the update, its share of an optimizer step, its part of a save."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from stapo.algo import CriticConfig, explained_variance, value_loss
from stapo.config.training import OptimConfig
from stapo.errors import NonFiniteError, SaveError
from stapo.policy import Policy, RowTokens, row_batches
from stapo.policy.critic import Critic, prompts_of
from stapo.training.batch import RowBatch
from stapo.training.checkpoint import read_tensors
from stapo.training.optimizer import build_optimizer, optimizer_tensors, restore_optimizer

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
