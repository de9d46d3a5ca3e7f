"""AdamW for weights of any dtype: what is added up over many steps is kept in float32; its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from stapo.config.run_config import RunConfig
from stapo.errors import SaveError


class MasterAdamW(torch.optim.Optimizer):
    """AdamW (arXiv 1711.05101) on float32 copies of half-precision weights.

    bfloat16 has 8 significant bits: a weight of 0.02 does not change at all when 1e-6 is added to it, which is a step
    of the paper's learning rate. The copies and both moments are part of `state`, and so of a save; the weights are the
    copies, rounded.

    Args:
        parameters: weights of any floating type.
        lr: learning rate.
        betas: decay of the moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled.
    """

    def __init__(
        self,
        parameters: Iterable[torch.Tensor],
        lr: float,
        betas: tuple[float, float],
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient."""
        assert closure is None, "this optimizer takes one gradient per step"
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group)

    def _move(self, weight: torch.Tensor, group: Mapping[str, Any]) -> None:
        state, (beta1, beta2), rate = self.state[weight], group["betas"], group["lr"]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["master"] = weight.detach().float()
            state["exp_avg"] = torch.zeros_like(state["master"])
            state["exp_avg_sq"] = torch.zeros_like(state["master"])
        gradient, master = weight.grad.float(), state["master"]  # type: ignore[union-attr]
        state["step"] += 1
        count = float(state["step"])
        master.mul_(1 - rate * group["weight_decay"])
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        # One array of the weight's size at a time: for an embedding of 150 thousand tokens it takes a gigabyte or two.
        del gradient
        divisor = state["exp_avg_sq"].sqrt().div_(math.sqrt(1 - beta2**count)).add_(group["eps"])
        master.addcdiv_(state["exp_avg"], divisor, value=-rate / (1 - beta1**count))
        weight.copy_(master)


def build_optimizer(
    parameters: Iterable[torch.Tensor], lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW of torch for float32 weights, `MasterAdamW` where any of them has another type."""
    weights = list(parameters)
    if all(w.dtype == torch.float32 for w in weights):
        return torch.optim.AdamW(weights, lr=lr, betas=betas, weight_decay=weight_decay)
    return MasterAdamW(weights, lr, betas, weight_decay=weight_decay)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The optimizer's state as named tensors: `moment/weight`."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"{key}/{names[id(parameter)]}": value.detach().cpu().contiguous()
        for parameter, entries in optimizer.state.items()
        for key, value in entries.items()
        if isinstance(value, torch.Tensor)
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Put the state that `optimizer_tensors` gave back.

    Raises:
        SaveError: it belongs to other weights.
    """
    by_name: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        moment, _, name = key.partition("/")
        by_name.setdefault(name, {})[moment] = value
    parameters = dict(model.named_parameters())
    for name, entries in by_name.items():
        wrong = [m for m, v in entries.items() if v.ndim and name in parameters and v.shape != parameters[name].shape]
        if name not in parameters or wrong:
            raise SaveError(f"the saved optimizer state of weight '{name}' does not fit the model beside it.")
    optimizer.state.clear()
    for name, entries in by_name.items():
        weight = parameters[name]
        # Not load_state_dict: it would round the state to the type of the weights. Counts of steps stay on the CPU.
        optimizer.state[weight] = {m: v.to(weight.device) if v.ndim else v for m, v in entries.items()}


def learning_rate_factor(config: RunConfig, iteration: int) -> float:
    """Factor on the peak learning rate at `iteration` (from 1)."""
    optim = config.optim
    if iteration <= optim.warmup_iterations:
        return iteration / (optim.warmup_iterations + 1)
    span = max(1, optim.iterations - optim.warmup_iterations)
    progress = (iteration - 1 - optim.warmup_iterations) / span
    if optim.schedule == "linear":
        decay = 1 - progress
    elif optim.schedule == "cosine":
        decay = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        return 1.0
    return optim.final_fraction + (1 - optim.final_fraction) * decay
