"""Memory and time of a run from its shapes. Every formula is in docs/scaling.md; all are estimates."""

from __future__ import annotations

from dataclasses import dataclass

from stapo.estimate.devices import Device
from stapo.estimate.shapes import ModelShape

CHUNK = 64
"""Tokens that the chunked head scores at once."""
RESERVED = 1.5e9
"""Bytes that the driver, its kernels and fragmentation take."""
UTILISATION = 0.35
"""Share of the peak arithmetic that forward and backward reach."""
STREAMING = 0.6
"""Share of the peak bandwidth that generation reaches."""
LAYER_OVERHEAD_S = 0.001
"""Seconds that one layer of one decoding step takes at least, whatever the device: the launching of its kernels."""
FLAGGED = 0.01
"""Share of the rows that are flagged and read a second time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is asked of a model in an iteration.

    Attributes:
        episodes: groups times attempts.
        steps: of an episode, expected.
        prompt: tokens of a prompt, expected.
        response: tokens of a response, expected.
        longest_prompt: tokens of a prompt at most.
        longest_response: tokens of a response at most.
        iterations: of the run.
        epochs: passes over the rows.
        micro_tokens: padded tokens of a forward pass in the update.
        batch_tokens: prompt tokens generated together.
        bytes_per_weight: 2 for bf16, 4 for fp32.
        lora_rank: 0 trains all weights.
        reference: "device", "cpu" or "none"; with adapters they are switched off, and there is no copy.
        scored_by_reference: the reference scores every row (beta > 0).
        checkpointing: activations are computed again in backward.
        blind: flagged rows are read a second time under the blind prompt.
        critic: a critic of the same size is trained.
        vllm_share: of the device's memory that vLLM takes for itself; 0 generates with transformers.
    """

    episodes: int
    steps: float
    prompt: float
    response: float
    longest_prompt: int
    longest_response: int
    iterations: int
    epochs: int
    micro_tokens: int
    batch_tokens: int
    bytes_per_weight: int
    lora_rank: int
    reference: str
    scored_by_reference: bool
    checkpointing: bool
    blind: bool
    critic: bool
    vllm_share: float = 0.0


def layer_activations(shape: ModelShape, bytes_per_number: int) -> int:
    """Bytes that one layer keeps of one token until backward, attention scores never written out.

    H numbers five times (input, two normalised, output of attention, residual), queries three times, keys and values
    three times, the four inner ones of the feed-forward layer; and two fp32 copies for the norms.
    """
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return bytes_per_number * (5 * shape.hidden + 3 * q + 3 * kv + 4 * shape.inner) + 16 * shape.hidden


def activations(shape: ModelShape, w: Workload, checkpointing: bool) -> float:
    """Bytes that an update keeps of `micro_tokens` tokens; the longest row is never cut."""
    tokens = max(w.micro_tokens, w.longest_prompt + w.longest_response)
    layer = layer_activations(shape, w.bytes_per_weight)
    if checkpointing:
        return float(tokens * (shape.layers * w.bytes_per_weight * shape.hidden + layer))
    return float(tokens * shape.layers * layer)


def kv_bytes_per_token(shape: ModelShape, bytes_per_number: int) -> int:
    """Bytes of keys and values of one token in all layers."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * bytes_per_number


def memory(shape: ModelShape, w: Workload) -> dict[str, float]:
    """Bytes on the device by part; "peak" is what is there at the fullest moment, vLLM's share of it left out."""
    total, b = shape.parameters, w.bytes_per_weight
    trained = shape.adapter_parameters(w.lora_rank) if w.lora_rank else total
    adapters = 4 * trained if w.lora_rank else 0
    width = 4 if w.lora_rank else b
    rows = max(1, w.batch_tokens // w.longest_prompt)
    parts = {
        "weights": float(total * b + adapters),
        "gradients": float(trained * width),
        # Two moments, and the fp32 copy that small steps are added to where the weights are bf16.
        "optimizer": float(trained * (8 + (4 if width == 2 else 0))),
        "reference": float(total * b) if w.reference == "device" and not w.lora_rank else 0.0,
        "critic": float((total - shape.vocabulary * shape.hidden * (not shape.tied)) * 16) if w.critic else 0.0,
        "activations": activations(shape, w, w.checkpointing),
        # Logits, log-probabilities, probabilities and their gradient, under two prompts.
        "chunked head": float(CHUNK * shape.vocabulary * 4 * 4 * (2 if w.blind else 1)),
        "KV cache": float((w.batch_tokens + rows * w.longest_response) * kv_bytes_per_token(shape, b)),
        # fp32 logits, log-probabilities and probabilities, and their sum in fp64.
        "sampling": float(rows * shape.vocabulary * 20),
    }
    if w.vllm_share:
        parts |= {"KV cache": 0.0, "sampling": 0.0}
    fixed = sum(parts[k] for k in ("weights", "gradients", "optimizer", "reference", "critic"))
    update = parts["activations"] + parts["chunked head"]
    parts["peak"] = fixed + max(update, parts["KV cache"] + parts["sampling"]) + RESERVED
    return parts


def forward_flops(shape: ModelShape, tokens: float, context: float, scored: float) -> float:
    """Operations of a forward pass: two per weight of the layers, attention over half the context, the head."""
    layers = 2.0 * shape.layers * shape.layer_parameters * tokens
    attention = 2.0 * shape.layers * shape.heads * shape.head_dim * context * tokens
    return layers + attention + 2.0 * shape.vocabulary * shape.hidden * scored


def seconds(shape: ModelShape, w: Workload, device: Device) -> dict[str, float]:
    """Seconds of an iteration by part, evaluation and environment left out; "iteration" and "run" are sums."""
    rows, length = w.episodes * w.steps, w.prompt + w.response
    speed = device.flops * UTILISATION
    forward = forward_flops(shape, rows * length, length, rows * w.response) / speed
    prefill = forward_flops(shape, rows * w.prompt, w.prompt, rows) / speed
    together = float(w.episodes) if w.vllm_share else max(1.0, min(float(w.episodes), w.batch_tokens / w.prompt))
    read = shape.parameters * w.bytes_per_weight
    read_cache = together * length * kv_bytes_per_token(shape, w.bytes_per_weight)
    overhead = 0.0 if device.name == "cpu" or w.vllm_share else shape.layers * LAYER_OVERHEAD_S
    step = max(
        (read + read_cache) / (device.bandwidth * STREAMING),
        forward_flops(shape, together, length, together) / speed,
        overhead,
    )
    # Backward is two forwards; with adapters one, for it needs no gradients of the frozen weights.
    train = ((2.0 if w.lora_rank else 3.0) + (1.0 if w.checkpointing else 0.0)) * w.epochs
    parts = {
        "generation": prefill + rows / together * w.response * step,
        # The sampler records them as it draws; vLLM knows no entropies, which take a pass of the trainer.
        "old log-probs": forward if w.vllm_share else 0.0,
        "reference": forward * w.epochs if w.scored_by_reference and w.reference != "none" else 0.0,
        "update": train * forward,
        "blind passes": FLAGGED * (train + w.epochs) * forward if w.blind else 0.0,
        "critic": (train + 1.0) * forward if w.critic else 0.0,
    }
    parts["iteration"] = sum(parts.values())
    parts["run"] = parts["iteration"] * w.iterations
    return parts
