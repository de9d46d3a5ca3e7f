"""Memory and time of a run from its shapes, on a device. Every formula is in docs/scaling.md; all are estimates."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from stapo.errors import unknown_name
from stapo.estimate.shapes import ModelShape
from stapo.memory_model import ModelSize, kv_bytes, lasting_need

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Device:
    """One device.

    Attributes:
        name: as it is asked for.
        memory: bytes.
        flops: dense bf16 operations a second at its peak (of a CPU: fp32, two cores).
        bandwidth: bytes a second from its memory.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float


DEVICES = {
    d.name: d
    for d in (
        Device("h200", 141e9, 989e12, 4.8e12),
        Device("h100", 80e9, 989e12, 3.35e12),
        Device("a100-80", 80e9, 312e12, 2.0e12),
        Device("a100-40", 40e9, 312e12, 1.555e12),
        Device("l40s", 48e9, 362e12, 0.864e12),
        Device("rtx4090", 24e9, 165e12, 1.008e12),
        Device("cpu", 16e9, 0.1e12, 0.02e12),
    )
}
"""Peak numbers of the data sheets; "cpu" is a laptop with 16 GB."""


def find_device(name: str) -> Device:
    """The device of this name.

    Raises:
        UnknownNameError: no such device.
    """
    if name.lower() not in DEVICES:
        raise unknown_name("GPU", name, DEVICES)
    return DEVICES[name.lower()]


CHUNK = 64
"""Tokens that the chunked head scores at once, at least."""
CHUNK_LOGITS = 10_000_000
"""Logits that it computes at once, where the vocabulary is so small that these are more."""
RESERVED = 1.5e9
"""Bytes that the driver, its kernels and fragmentation take."""
UTILIZATION = 0.35
"""Share of the peak arithmetic that forward and backward reach."""
STREAMING = 0.6
"""Share of the peak bandwidth that generation reaches."""
LAYER_OVERHEAD_S = 0.001
"""Seconds that one layer of one decoding step takes at least, whatever the device: the launching of its kernels."""
FLAGGED = 0.01
"""Share of the rows that are flagged and read a second time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The work of a model in an iteration.

    Attributes:
        episodes: groups times attempts.
        steps: of an episode, expected.
        prompt: tokens of a prompt, expected.
        response: tokens of a response, expected.
        longest_prompt: tokens of a prompt at most.
        longest_response: tokens of a response at most.
        iterations: of the run.
        epochs: passes over the rows.
        mini_batch: rows of an optimizer step.
        micro_tokens: padded tokens of a forward pass in the update.
        batch_tokens: prompt tokens read together.
        bytes_per_weight: 2 for bf16, 4 for fp32.
        lora_rank: 0 trains all weights.
        reference: "device", "cpu" or "none"; with adapters they are switched off, and there is no copy.
        scored_by_reference: the reference scores every row (beta > 0).
        checkpointing: activations are computed again in backward.
        blind: flagged rows are read a second time under the blind prompt.
        critic: a critic of the same size is trained.
        all_trained: all weights are trained at some time, adapters or not (in SFT).
        vllm_share: of the device's memory that vLLM takes for itself; 0 generates with transformers.
        corrected: a correction asks for the trainer's own old log-probabilities.
        sft_tokens: of the largest batch of SFT, which is one forward pass; 0 without SFT.
        step_seconds: of the environment, for a step.
        kept_bytes: of keys and values that may be kept between turns; 0 where prompts do not grow by appending.
        sequences: that the steps of an episode are read as; 0 where each is read alone.
        sequence: tokens of a sequence, expected.
        new: tokens of a prompt that the rollout has not read at the step before; 0 where it reads all.
        blind_prompt: tokens of a blind prompt, expected; 0 where it is as long as a prompt.
        decode_tokens: prompt tokens of the episodes that generate together; 0 for `batch_tokens`.
        decoded: tokens of the longest response of those that are answered together; 0 where all are as long.
    """

    episodes: int
    steps: float
    prompt: float
    response: float
    longest_prompt: int
    longest_response: int
    iterations: int
    epochs: int
    mini_batch: int
    micro_tokens: int
    batch_tokens: int
    bytes_per_weight: int
    lora_rank: int
    reference: str
    scored_by_reference: bool
    checkpointing: bool
    blind: bool
    critic: bool
    all_trained: bool = False
    vllm_share: float = 0.0
    corrected: bool = False
    sft_tokens: int = 0
    step_seconds: float = 0.0
    kept_bytes: float = 0.0
    sequences: float = 0.0
    sequence: float = 0.0
    new: float = 0.0
    blind_prompt: float = 0.0
    decode_tokens: int = 0
    decoded: float = 0.0

    @property
    def together(self) -> float:
        """Episodes that generate together, expected."""
        return max(1.0, min(float(self.episodes), (self.decode_tokens or self.batch_tokens) / self.prompt))

    @property
    def context(self) -> float:
        """Tokens of what is read in one piece by a pass over an episode: a sequence or a row."""
        return self.sequence if self.sequences else self.prompt + self.response

    @property
    def read(self) -> float:
        """Tokens of a pass over the episodes."""
        return self.episodes * (self.sequences if self.sequences else self.steps) * self.context

    @property
    def read_blind(self) -> float:
        """Tokens of a pass over the flagged rows under their blind prompts."""
        return FLAGGED * self.episodes * self.steps * ((self.blind_prompt or self.prompt) + self.response)

    @property
    def prefilled(self) -> float:
        """Tokens of prompts that the rollout reads."""
        return self.episodes * self.steps * (self.new or self.prompt)


def layer_activations(shape: ModelShape, bytes_per_number: int, lora_rank: int = 0) -> int:
    """Bytes that one layer keeps of one token until backward, attention scores never written out.

    H numbers four times (the result of each norm, before and after its weight), all query heads four times (queries;
    keys and values, repeated for every head that shares them; the output), the four inner ones of the feed-forward
    layer, and an fp32 copy of the input of each norm. Norms of heads keep an input and a result of queries and keys.
    With adapters, frozen weights keep no inputs; each adapter keeps its own, in fp32, which has to be a copy where the
    model is bfloat16, and `rank` numbers.
    """
    b, q, kv = bytes_per_number, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    of_heads = (q + kv) * (4 if lora_rank else 4 + b) if shape.head_norms else 0
    kept = 8 * shape.hidden + b * (4 * q + 3 * shape.inner) + of_heads
    if not lora_rank:
        return kept + b * (4 * shape.hidden + shape.inner)
    inputs = 5 * shape.hidden + q + shape.inner if b == 2 else 2 * shape.hidden + shape.inner
    return kept + 4 * inputs + 7 * 4 * lora_rank


def longest_row(w: Workload) -> int:
    """Tokens of the longest row."""
    return w.longest_prompt + w.longest_response


def rows_of_pass(w: Workload) -> int:
    """Rows of a pass of the update, all of the longest; the longest is never cut."""
    return max(1, w.micro_tokens // longest_row(w))


def flagged_of_pass(w: Workload) -> int:
    """Flagged rows of a pass, which have it to themselves."""
    return min(rows_of_pass(w), math.ceil(FLAGGED * w.mini_batch)) if w.blind else 0


def tokens_of_pass(w: Workload) -> int:
    """Tokens whose activations exist together; of flagged rows they do under both prompts."""
    return max(w.micro_tokens, longest_row(w), 2 * flagged_of_pass(w) * longest_row(w), w.sft_tokens)


def activations(shape: ModelShape, w: Workload, checkpointing: bool) -> float:
    """Bytes that an update keeps of the tokens of a pass."""
    layer = layer_activations(shape, w.bytes_per_weight, w.lora_rank)
    if checkpointing:
        kept = tokens_of_pass(w) * shape.layers * w.bytes_per_weight * shape.hidden
        # One layer is computed again at a time, under one of the prompts.
        return float(kept + max(w.micro_tokens, longest_row(w), w.sft_tokens) * layer)
    return float(tokens_of_pass(w) * shape.layers * layer)


def chunked_head(shape: ModelShape, w: Workload) -> float:
    """Bytes that the head takes beside its result: a chunk of logits, and gradients of its weight."""
    steps = math.ceil(w.steps / w.sequences) if w.sequences else 1
    scored = rows_of_pass(w) * min(steps * w.longest_response, longest_row(w))
    chunk = max(CHUNK, CHUNK_LOGITS // shape.vocabulary)
    flagged = flagged_of_pass(w) * w.longest_response
    # Logits, log-probabilities, probabilities and their gradient, in fp32; of flagged rows under two prompts.
    logits = max(min(scored, chunk), 2 * min(flagged, chunk)) * shape.vocabulary * 4 * 4
    # That of a chunk, and the sum over chunks, before it is added to that of the passes before.
    weights = shape.vocabulary * shape.hidden * (1 if scored <= chunk else 2)
    return float(logits + (weights * w.bytes_per_weight if not w.lora_rank or w.all_trained else 0))


def optimizer_step(shape: ModelShape, w: Workload, trained: int) -> float:
    """Bytes that an optimizer step takes for a moment: the root of the second moments, in fp32."""
    if w.bytes_per_weight == 2 and (not w.lora_rank or w.all_trained):
        # Weight by weight, so it is the largest that counts.
        return 4.0 * shape.hidden * max(shape.vocabulary, shape.inner)
    # torch's AdamW takes all weights together on a GPU.
    return 4.0 * trained


def kv_bytes_per_token(shape: ModelShape, bytes_per_number: int) -> int:
    """Bytes of keys and values of one token in all layers."""
    return kv_bytes(shape.layers, shape.kv_heads, shape.head_dim, bytes_per_number)


def memory(shape: ModelShape, w: Workload) -> dict[str, float]:
    """Bytes on the device by part; "peak" is what is there at the fullest moment, vLLM's share of it left out."""
    b = w.bytes_per_weight
    adapters = shape.adapter_parameters(w.lora_rank) if w.lora_rank else 0
    trained = adapters if adapters and not w.all_trained else shape.parameters
    untied_head = 0 if shape.tied else shape.vocabulary * shape.hidden
    need = lasting_need(
        ModelSize(shape.parameters, adapters, untied_head),
        b,
        reference=w.reference != "none",
        reference_on_cpu=w.reference == "cpu",
        critic=w.critic,
        all_trained=w.all_trained,
    )
    # Evaluations play so many episodes, or what `eval.batch` says.
    rows = max(1, min(max(w.episodes, 128), (w.decode_tokens or w.batch_tokens) // w.longest_prompt))
    parts = {
        "weights": float(need.weights),
        "gradients": float(need.gradients),
        "optimizer": float(need.optimizer),
        "reference": float(need.reference_on_device),
        "critic": float(need.critic),
        "activations": activations(shape, w, w.checkpointing),
        "chunked head": chunked_head(shape, w),
        # Apart from the others in the first optimizer step, so that their size can be logged.
        "selective gradients": float(trained * (4 if trained == adapters else b)) if w.blind else 0.0,
        "optimizer step": optimizer_step(shape, w, trained),
        "KV cache": float(rows * longest_row(w) * kv_bytes_per_token(shape, b)),
        # Input, residual and three inner ones of one layer.
        "prefill": float(min(w.batch_tokens, rows * w.longest_prompt) * b * (2 * shape.hidden + 3 * shape.inner)),
        # fp32 logits, log-probabilities and probabilities; these and their running sum in fp64.
        "sampling": float(rows * shape.vocabulary * 28),
    }
    if w.kept_bytes and not w.vllm_share:
        parts["kept keys"] = min(w.kept_bytes, float(w.episodes * longest_row(w) * kv_bytes_per_token(shape, b)))
    if w.vllm_share:
        parts |= {"KV cache": 0.0, "prefill": 0.0, "sampling": 0.0}
    update = parts["activations"] + parts["chunked head"] + parts["selective gradients"]
    generation = parts["KV cache"] + parts.get("kept keys", 0.0) + max(parts["prefill"], parts["sampling"])
    parts["peak"] = need.on_device + max(update, parts["optimizer step"], generation) + RESERVED
    return parts


def within_budget(shape: ModelShape, w: Workload) -> Workload:
    """The workload where no more keys are kept than there is room for; the other episodes read their prompts whole."""
    if not w.new or w.vllm_share:
        return w
    needed = w.episodes * (w.context if w.sequences else w.prompt) * kv_bytes_per_token(shape, w.bytes_per_weight)
    share = min(1.0, w.kept_bytes / needed)
    return replace(w, new=share * w.new + (1 - share) * w.prompt)


def forward_flops(shape: ModelShape, tokens: float, context: float, scored: float) -> float:
    """Operations of a forward pass: two per weight of the layers, attention over half the context, the head."""
    layers = 2.0 * shape.layers * shape.layer_parameters * tokens
    attention = 2.0 * shape.layers * shape.heads * shape.head_dim * context * tokens
    return layers + attention + 2.0 * shape.vocabulary * shape.hidden * scored


def seconds(shape: ModelShape, w: Workload, device: Device) -> dict[str, float]:
    """Seconds of an iteration by part, evaluation left out; "iteration" and "run" are sums."""
    rows, length = w.episodes * w.steps, w.prompt + w.response
    speed = device.flops * UTILIZATION
    forward = forward_flops(shape, w.read, w.context, rows * w.response) / speed
    blind = forward_flops(shape, w.read_blind, length, FLAGGED * rows * w.response) / speed
    prefill = forward_flops(shape, w.prefilled, w.prompt, rows) / speed
    together = float(w.episodes) if w.vllm_share else w.together
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
        "generation": prefill + rows / together * (w.decoded or w.response) * step,
        "environment": rows * w.step_seconds,
        # The sampler records them as it draws; vLLM knows no entropies, which take a pass of the trainer.
        "old log-probs": forward if w.vllm_share or w.corrected else 0.0,
        "reference": forward * w.epochs if w.scored_by_reference and w.reference != "none" else 0.0,
        "update": train * forward,
        "blind passes": (train + w.epochs) * blind if w.blind else 0.0,
        "critic": (train + 1.0) * forward if w.critic else 0.0,
    }
    parts["iteration"] = sum(parts.values())
    parts["run"] = parts["iteration"] * w.iterations
    return parts
