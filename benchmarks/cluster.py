"""Seconds of an iteration of `stapo verl` on many GPUs, from shapes. The formulas are in docs/scaling.md.

Computing is that of `costs`, divided by the GPUs. What is added is what many GPUs add: shards of the weights travel for
every pass (FSDP2), rollout servers are renewed, and a rollout is not over before its longest episode is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from stapo.estimate.costs import FLAGGED, STREAMING, UTILIZATION, Device, Workload, forward_flops, kv_bytes_per_token
from stapo.estimate.shapes import ModelShape

LINKED = 0.7
"""Share of a link's peak that collective communication reaches."""
GRADIENT_BYTES = 4
"""Bytes of a gradient that travels: the plugin reduces in fp32."""
OPTIMIZER_BYTES = 28
"""Bytes that AdamW moves for a weight: fp32 weight, gradient and two moments are read, all but the gradient written."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Machines that are alike.

    Attributes:
        device: of which there are `gpus_per_node` in each of `nodes`.
        nodes: machines.
        gpus_per_node: GPUs of each.
        inside: bytes a second that a GPU receives from others of its machine, at the peak.
        between: bytes a second that a machine receives for each of its GPUs from others, at the peak.
        tensor_parallel: GPUs of a rollout server.
    """

    device: Device
    nodes: int
    gpus_per_node: int = 8
    inside: float = 450e9
    between: float = 50e9
    tensor_parallel: int = 1

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.nodes * self.gpus_per_node

    def spread(self, size: float) -> float:
        """Seconds until every GPU has all of `size` bytes whose shards are spread evenly; or has summed its shard.

        A machine gets what it does not hold over the network once, and hands it on inside.
        """
        between = size * (self.nodes - 1) / self.nodes / (self.gpus_per_node * self.between)
        inside = size * (self.gpus - 1) / self.gpus / self.inside
        return max(between, inside) / LINKED


def rollout_seconds(shape: ModelShape, w: Workload, cluster: Cluster, longest_steps: float) -> float:
    """Prompts, spread evenly, and one token after the other of the longest episode.

    Meanwhile a server holds as many episodes as are left on average, at least one.
    """
    speed = cluster.device.flops * UTILIZATION
    prefill = forward_flops(shape, w.prefilled, w.prompt, w.episodes * w.steps) / (cluster.gpus * speed)
    servers = cluster.gpus / cluster.tensor_parallel
    running = max(1.0, w.episodes / servers * w.steps / longest_steps)
    length = w.prompt + w.response
    moved = shape.parameters * w.bytes_per_weight + running * length * kv_bytes_per_token(shape, w.bytes_per_weight)
    computed = forward_flops(shape, running, length, running)
    token = max(moved / (cluster.device.bandwidth * STREAMING), computed / speed) / cluster.tensor_parallel
    return prefill + longest_steps * w.response * token


def iteration_seconds(shape: ModelShape, w: Workload, cluster: Cluster, longest_steps: float) -> dict[str, float]:
    """Seconds of an iteration by part; "iteration" is their sum.

    Args:
        shape: of the model.
        w: its work in an iteration.
        cluster: where.
        longest_steps: steps of the longest episode, which the rollout waits for.

    Returns:
        parts, each pass as long as the longer of its computing and its communication, which overlap.
    """
    device, gpus = cluster.device, cluster.gpus
    speed = device.flops * UTILIZATION
    rows, length = w.episodes * w.steps, w.prompt + w.response
    gather = cluster.spread(shape.parameters * w.bytes_per_weight)
    reduce = cluster.spread(shape.parameters * GRADIENT_BYTES)

    # A mini-batch is as slow as the GPU with most rows. Each of its micro-batches gathers the weights for forward and
    # for backward; gradients are reduced once.
    units = w.episodes * w.sequences if w.sequences else rows
    mini_batches = math.ceil(units / w.mini_batch)
    uneven = math.ceil(w.mini_batch / gpus) * gpus / w.mini_batch
    micros = math.ceil(max(1.0, w.read / mini_batches / gpus / w.micro_tokens))
    passes = math.ceil(max(1.0, w.read / gpus / w.micro_tokens))

    forward = forward_flops(shape, w.read, w.context, rows * w.response) / (gpus * speed)
    blind = forward_flops(shape, w.read_blind, length, FLAGGED * rows * w.response) / (gpus * speed)
    scored = max(forward, passes * gather)
    train = 3.0 + (1.0 if w.checkpointing else 0.0)
    stepped = OPTIMIZER_BYTES * shape.parameters / gpus / (device.bandwidth * STREAMING)
    trained = max(train * forward * uneven, mini_batches * (micros * 2 * gather + reduce)) + mini_batches * stepped
    # The blind prompts are further sequences of the same passes; the reference reads them in passes of its own.
    flagged = mini_batches * min(micros, math.ceil(FLAGGED * w.mini_batch))
    parts = {
        "rollout": rollout_seconds(shape, w, cluster, longest_steps),
        "weight transfer": gather + 2 * shape.parameters * w.bytes_per_weight / (device.bandwidth * STREAMING),
        "old log-probs": scored,
        "reference": scored if w.scored_by_reference and w.reference != "none" else 0.0,
        "update": w.epochs * trained,
        "blind passes": w.epochs * (train * blind + max(blind, flagged * gather)) if w.blind else 0.0,
    }
    parts["iteration"] = sum(parts.values())
    return parts
