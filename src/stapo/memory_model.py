"""What stays in memory for a whole training, from numbers of weights alone: one arithmetic for check and estimate."""

from __future__ import annotations

from dataclasses import dataclass


def kv_bytes(layers: int, kv_heads: int, head_dim: int, itemsize: int) -> int:
    """Bytes of keys and values of one token in all layers."""
    return 2 * layers * kv_heads * head_dim * itemsize


@dataclass(frozen=True)
class ModelSize:
    """Numbers of weights.

    Attributes:
        all: of the model, a tied head counted once.
        adapters: of the adapters that a configuration puts into it.
        untied_head: of a head that is not the embedding, which a critic does without; 0 for a tied one.
    """

    all: int
    adapters: int
    untied_head: int = 0


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that stay for the whole training; activations come on top.

    Attributes:
        weights: of the policy, adapters included.
        gradients: of what is trained.
        optimizer: both moments, and float32 copies of half-precision weights.
        reference: a copy of the starting policy, where there is one.
        critic: weights, gradients and optimizer of a critic, where there is one.
        reference_on_cpu: the reference is not where the rest is.
    """

    weights: int
    gradients: int
    optimizer: int
    reference: int
    critic: int
    reference_on_cpu: bool

    @property
    def reference_on_device(self) -> int:
        """Bytes of the reference on the device of the policy."""
        return 0 if self.reference_on_cpu else self.reference

    @property
    def on_device(self) -> int:
        """Bytes on the device of the policy."""
        return self.weights + self.gradients + self.optimizer + self.critic + self.reference_on_device


def lasting_need(
    size: ModelSize, bytes_per_weight: int, *, reference: bool, reference_on_cpu: bool, critic: bool, all_trained: bool
) -> MemoryNeed:
    """What a training keeps.

    Args:
        size: of the model; with adapters of 0 weights, all weights are trained.
        bytes_per_weight: 2 for bfloat16, 4 for float32; adapters are float32 always.
        reference: the algorithm needs one; with adapters they are switched off, and there is no copy.
        reference_on_cpu: the copy is not where the rest is.
        critic: the algorithm needs one. It is trained as the policy is, but for SFT, which it has none of.
        all_trained: all weights are trained at some time, adapters or not (in SFT).
    """
    b, adapters = bytes_per_weight, size.adapters > 0
    of_adapters = (4 * size.adapters, 8 * size.adapters)
    # Two moments, and the fp32 copy that small steps are added to where the weights are bfloat16.
    state = 8 if b == 4 else 12
    gradients, optimizer = of_adapters if adapters and not all_trained else (size.all * b, size.all * state)
    body = size.all - size.untied_head
    of_critic = body * b + 16 * size.adapters if adapters else body * (2 * b + state)
    return MemoryNeed(
        weights=size.all * b + 4 * size.adapters,
        gradients=gradients,
        optimizer=optimizer,
        reference=size.all * b if reference and not adapters else 0,
        critic=of_critic if critic else 0,
        reference_on_cpu=reference_on_cpu,
    )
