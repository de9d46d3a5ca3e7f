"""An iteration of `stapo verl` over nodes, by arithmetic: 1.5B and 7B; and the same arithmetic beside measured figures.

    python benchmarks/nodes.py [--nodes 1 2 4 8 16] [--gpu h100]

The measured figures are those of verl's documentation, "Fully Async Policy Trainer" (Qwen2.5-Math-7B, DAPO, FSDP2 and
vLLM colocated on H20, 512 prompts x 16 responses of at most 28,672 tokens). It does not say how long the responses are;
the time of the old log-probabilities on 32 GPUs gives their mean here, and everything else is then predicted.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from cluster import Cluster, iteration_seconds
from stapo.cli.dry_run import shape_of_run, workload
from stapo.cli.expected_episodes import half_of_limits
from stapo.config.presets import load_config
from stapo.estimate.costs import UTILIZATION, Device, Workload, find_device, forward_flops
from stapo.estimate.shapes import ModelShape, known_shapes

H20 = Device("h20", 96e9, 148e12, 4.0e12)
MEASURED = {
    32: {"rollout": 357.41, "old log-probs": 107.71, "update": 313.81},
    64: {"rollout": 150.72, "old log-probs": 70.26, "update": 133.41},
    128: {"rollout": 177.85, "old log-probs": 53.92, "update": 113.81},
}
"""Seconds by number of H20."""


def table(nodes: list[int], gpu: str) -> None:
    """The paper's ALFWorld settings, by nodes of 8 GPUs."""
    for size in ("1.5b", "7b"):
        config = load_config(f"paper/alfworld-{size}", base={"rollout": {"engine": "vllm"}})
        shape = shape_of_run(config)
        work = workload(config, half_of_limits(config))  # on any machine, with the games or without
        longest = 2 * work.steps
        print(f"paper/alfworld-{size}, {gpu}: {work.episodes} episodes of {work.steps:g} steps (longest {longest:g})")
        alone = 0.0
        for count in nodes:
            parts = iteration_seconds(shape, work, Cluster(device=find_device(gpu), nodes=count), longest)
            alone = alone or parts["iteration"] * count
            said = ", ".join(f"{name} {value:.3g}" for name, value in parts.items())
            share = alone / (parts["iteration"] * count)
            print(f"  {count} nodes, {8 * count} GPUs: {said}; efficiency {share:.2f}")


def published() -> Workload:
    """The workload of verl's figures, for responses as long as the old log-probabilities on 32 GPUs took."""
    shape = known_shapes()["qwen2.5-7b"]
    limit, episodes, speed = 28_672, 8192, 32 * H20.flops * UTILIZATION
    low, high = 1.0, float(limit)
    while high - low > 1:
        mean = (low + high) / 2
        taken = forward_flops(shape, episodes * (200 + mean), 200 + mean, episodes * mean) / speed
        low, high = (mean, high) if taken < MEASURED[32]["old log-probs"] else (low, mean)
    print(f"responses of {low:,.0f} tokens on average")
    return Workload(
        episodes=episodes, steps=1.0, prompt=200.0, response=low, longest_prompt=2048, longest_response=limit,
        iterations=1, epochs=1, mini_batch=512, micro_tokens=limit + 2048, batch_tokens=limit, bytes_per_weight=2,
        lora_rank=0, reference="none", scored_by_reference=False, checkpointing=True, blind=False, critic=False,
        vllm_share=0.5,
    )  # fmt: skip


def compare(shape: ModelShape, work: Workload) -> None:
    """Predicted seconds beside measured ones."""
    for gpus, measured in MEASURED.items():
        # The longest response has the limit's length: as many times the mean.
        longest = work.longest_response / work.response
        parts = iteration_seconds(shape, work, Cluster(device=H20, nodes=gpus // 8), longest)
        plain = iteration_seconds(shape, replace(work, checkpointing=False), Cluster(device=H20, nodes=gpus // 8), 1)
        said = [f"{name} {parts[name]:.0f} ({seconds:.0f})" for name, seconds in measured.items()]
        print(f"  {gpus} H20: {', '.join(said)}; update without checkpointing {plain['update']:.0f}")


def main() -> int:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--gpu", default="h100")
    args = parser.parse_args()
    table(args.nodes, args.gpu)
    print("verl's figures, predicted (measured):")
    compare(known_shapes()["qwen2.5-7b"], published())
    return 0


if __name__ == "__main__":
    sys.exit(main())
