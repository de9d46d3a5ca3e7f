"""Gradient checkpointing: the inputs of each layer are kept, and what is inside is computed again in backward.

Transformers' own switch works in training mode only, which would turn dropout on as well; an update scores in
evaluation mode, since its log-probabilities have to be those of the policy that sampled. So layers are wrapped here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from stapo.errors import ModelError


def checkpoint_layers(model: Any) -> None:
    """Make every layer of `model` forget its inner activations; where no gradient is wanted, nothing changes.

    Raises:
        ModelError: transformers marks no layers of this kind of model for it.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no layers that can be checkpointed. Set model.gradient_checkpointing to "
            "false; a smaller optim.micro_tokens saves memory, too."
        )
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
