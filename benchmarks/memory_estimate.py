"""The memory estimate of `stapo train --dry-run --gpu` against what two real updates take on a CPU.

Every variant runs in a process of its own: it builds a small model of the Qwen2.5 family with random weights, takes
two optimizer steps on synthetic rows by the trainer's own code, and reports how far the resident memory of the process
rose above where it stood before the model was built: at the end (what stays: weights, gradients, optimizer, reference,
critic) and at the fullest moment (activations, head and everything passing on top). "generation" samples instead.

    python benchmarks/memory_estimate.py [--only VARIANT ...] [--layers 8] [--hidden 384]

A CPU's allocator stands in for a GPU's. glibc is told to give every larger array pages of its own and to hand them back
when it is freed, so that resident memory is what torch holds, without the fragmentation and the cached blocks of a
GPU's allocator; those, the driver and its kernels are the fixed 1.5 GB of the estimate, which is left out here. On
a GPU attention may take other kernels, and AdamW of fp32 weights moves all of them together. Exit status 1: a predicted
peak is off by more than the 20 % that docs/scaling.md promises.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from stapo.algo import get_algorithm
from stapo.config.training import OptimConfig
from stapo.estimate.costs import RESERVED, Workload, memory
from stapo.estimate.shapes import ModelShape
from stapo.policy import LoraConfig, Policy, copy_of
from stapo.policy.model import checkpoint_layers
from stapo.rollout.sampler import HFSampler
from stapo.rollout.types import Step, Trajectory
from stapo.training.batch import RowBatch, build_batch
from stapo.training.critic import CriticLearner
from stapo.training.update import Updater

LIMIT = 0.2
GROUP, PROMPT, RESPONSE = 4, 64, 64
MEBI = 2**20


@dataclass(frozen=True)
class Variant:
    """What is trained, and how; "flagged" is STAPO with one flagged row."""

    dtype: str = "bfloat16"
    checkpointing: bool = False
    rank: int = 0
    reference: bool = False
    critic: bool = False
    flagged: bool = False
    generation: bool = False


VARIANTS = {
    "fp32": Variant(dtype="float32"),
    "bf16": Variant(),
    "bf16, checkpointing": Variant(checkpointing=True),
    "bf16, adapters": Variant(rank=16),
    "bf16, reference": Variant(checkpointing=True, reference=True),
    "bf16, critic": Variant(checkpointing=True, critic=True),
    "stapo": Variant(reference=True, flagged=True),
    "stapo, checkpointing": Variant(checkpointing=True, reference=True, flagged=True),
    "generation": Variant(generation=True),
}


def predicted(variant: Variant, shape: ModelShape, work: Workload) -> dict[str, float]:
    """Bytes by part, what stays, and the peak, without the fixed reserve of a GPU."""
    parts = memory(shape, work)
    if variant.generation:
        kept = {name: parts[name] for name in ("weights", "KV cache", "prefill", "sampling")}
        stays = kept["weights"]
        return {**kept, "stays": stays, "peak": stays + kept["KV cache"] + max(kept["prefill"], kept["sampling"])}
    stays = sum(parts[name] for name in ("weights", "gradients", "optimizer", "reference", "critic"))
    kept = {name: v for name, v in parts.items() if name not in ("KV cache", "prefill", "sampling", "peak")}
    return {**kept, "stays": stays, "peak": parts["peak"] - RESERVED}


def build(shape: ModelShape, variant: Variant) -> Policy:
    """The policy that is trained, with random weights."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied, max_position_embeddings=4096,
        pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.set_default_dtype(getattr(torch, variant.dtype))
    network = Qwen2ForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    if variant.checkpointing:
        checkpoint_layers(network)
    policy = Policy(network, SimpleNamespace(pad_token_id=0), [])
    policy.attach(LoraConfig(rank=variant.rank), 0)
    return policy


def rows_of(shape: ModelShape, rows: int) -> list[Trajectory]:
    """One-step episodes in groups, of random tokens; in each group half succeed, so that every row has a gradient."""
    rng = np.random.default_rng(0)
    texts = {"prompt": "a", "blind_prompt": "b", "response": "", "action": "", "problem": "", "observation": ""}
    played = []
    for row in range(rows):
        group, member = divmod(row, GROUP)
        prompt, blind = rng.integers(2, shape.vocabulary, (2, PROMPT)).tolist()
        drawn = {
            "response_ids": rng.integers(2, shape.vocabulary, RESPONSE).tolist(),
            "logprobs": [-float(np.log(shape.vocabulary))] * RESPONSE,
            "entropies": [1.0] * RESPONSE,
        }
        step = Step(
            **drawn, **texts, prompt_ids=prompt, blind_ids=blind, valid=True, anchor="s", reward=float(member % 2)
        )
        played.append(Trajectory(f"task {group}", "none", "", group, member, [step], won=bool(member % 2)))
    return played


def resident(which: str) -> int:
    """Bytes of this process: "VmRSS" now, "VmHWM" at most so far."""
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(which))
    return int(line.split()[1]) * 1024


def settled() -> int:
    """Resident bytes after everything that can be given back was."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident("VmRSS")


def work_once(variant: Variant, shape: ModelShape, work: Workload, rows: int) -> Any:
    """Build and run one variant; returns what has to stay in memory while it is measured."""
    policy = build(shape, variant)
    if variant.generation:
        prompts = [[5 + row] * work.longest_prompt for row in range(work.batch_tokens // work.longest_prompt)]
        sampler = HFSampler(policy.model, [], 0, work.longest_response, work.batch_tokens)
        sampler.sample(prompts, [(0, n) for n in range(len(prompts))], 1.0)
        return policy
    algorithm = get_algorithm("ppo" if variant.critic else "stapo" if variant.flagged else "gigpo")
    if not variant.reference:
        algorithm = replace(algorithm, loss=replace(algorithm.loss, beta=0.0))
    reference = copy_of(policy, on_cpu=False).requires_grad_(False).eval() if variant.reference else None
    optim = OptimConfig(mini_batch=rows, micro_tokens=work.micro_tokens)
    critic = CriticLearner(policy, algorithm.critic, optim) if variant.critic else None
    updater = Updater(policy, reference, algorithm, optim, 1.0, critic)
    played = rows_of(shape, rows)
    for number in range(2):
        batch: RowBatch = build_batch(played, algorithm, value_b=np.zeros(rows) if variant.critic else None)
        batch.flag_b[:] = False
        if variant.flagged:
            batch.flag_b[0] = True
        updater.update(batch, 1e-6, seed=(0, 2, number))
    return updater, reference, critic


def measure(name: str, shape: ModelShape, work: Workload, rows: int) -> dict[str, float]:
    """Bytes that stay and bytes at the peak, above the process before there was a model."""
    torch.set_num_threads(1)
    variant = VARIANTS[name]
    tiny = replace(shape, hidden=32, inner=32, layers=1, heads=2, kv_heads=1, head_dim=16, vocabulary=64)
    # Loads every library that the variant needs, so that none of them is counted.
    work_once(variant, tiny, replace(work, micro_tokens=1), 4)
    before = settled()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    kept = work_once(variant, shape, work, rows)
    peak = resident("VmHWM")
    stays = settled()
    del kept
    return {"peak": peak - before, "stays": stays - before, "cpu_s": resource.getrusage(resource.RUSAGE_SELF).ru_utime}


def setting(variant: Variant, args: argparse.Namespace) -> tuple[ModelShape, Workload]:
    """Shape and workload of a variant."""
    heads = args.hidden // 64
    shape = ModelShape(
        hidden=args.hidden, inner=4 * args.hidden, layers=args.layers, heads=heads, kv_heads=max(1, heads // 6),
        head_dim=64, vocabulary=args.vocabulary, tied=True, bias=True,
    )  # fmt: skip
    work = Workload(
        episodes=args.rows, steps=1, prompt=PROMPT, response=RESPONSE, longest_prompt=PROMPT,
        longest_response=RESPONSE, iterations=1, epochs=1, mini_batch=args.rows, micro_tokens=args.micro_tokens,
        batch_tokens=PROMPT * (32 if variant.generation else 1),
        bytes_per_weight=2 if variant.dtype == "bfloat16" else 4, lora_rank=variant.rank,
        reference="device" if variant.reference else "none",
        scored_by_reference=variant.reference, checkpointing=variant.checkpointing, blind=variant.flagged,
        critic=variant.critic,
    )  # fmt: skip
    return shape, work


def main() -> int:
    """Print a line per variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=64_000)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--micro-tokens", type=int, default=512)
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, *setting(VARIANTS[args.one], args), args.rows)))
        return 0
    sizes = [f"--{key}={getattr(args, key.replace('-', '_'))}" for key in
             ("hidden", "layers", "vocabulary", "rows", "micro-tokens")]  # fmt: skip
    # A fixed threshold: larger arrays are mapped, and unmapped when freed. Left alone, glibc raises it as it goes.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    shape, _ = setting(VARIANTS["fp32"], args)
    print(f"{shape.parameters:,} weights, {args.rows} rows of {PROMPT} + {RESPONSE} tokens, {args.micro_tokens} tokens "
          f"a pass, torch {torch.__version__}; MiB")  # fmt: skip
    worst = 0.0
    for name in args.only:
        found = json.loads(
            subprocess.run(
                [sys.executable, __file__, "--one", name, *sizes], check=True, stdout=subprocess.PIPE, text=True,
                env=environment,
            ).stdout.splitlines()[-1]
        )  # fmt: skip
        told = predicted(VARIANTS[name], *setting(VARIANTS[name], args))
        ratio = told["peak"] / found["peak"]
        worst = max(worst, abs(ratio - 1))
        parts = ", ".join(f"{k} {v / MEBI:.0f}" for k, v in told.items() if v and k not in ("stays", "peak"))
        print(f"{name:26} stays: predicted {told['stays'] / MEBI:5.0f}, measured {found['stays'] / MEBI:5.0f} "
              f"({told['stays'] / found['stays']:.2f})   peak: {told['peak'] / MEBI:5.0f}, {found['peak'] / MEBI:5.0f} "
              f"({ratio:.2f})   {found['cpu_s']:.0f} CPU-s\n    {parts}", flush=True)  # fmt: skip
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
