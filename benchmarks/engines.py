"""vLLM beside our sampler on the same weights: tokens a second by number of sequences, gaps of log-probabilities.

    python benchmarks/engines.py [--model smollm2-135m] [--dtypes float32 bfloat16] [--sizes 1 16 64] [--prompt 256]
                                 [--new 32] [--turns 3] [--threads 1] [--engines vllm stapo] [--gaps]

Prompts are random tokens, no two alike, and no response ends early. The engines take turns, and each turn gives a ratio
of its own, so that other work on the machine falls on both. CPU seconds are those of this process.

With --gaps it plays episodes of `smollm2/alfworld-tiny` instead, commands decoded freely, and compares what the sampler
recorded with the trainer's own pass, as a training does; then with a pass that has a fault: another temperature, the
first tokens of the prompt missing, weights from before an optimizer step. The --episodes of a task end after --steps.

A --model that is a folder, such as a checkpoint of `stapo train tiny`, plays `tiny` instead.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

RATE = 3e-5
"""The learning rate of the preset."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--engines", nargs="+", default=["vllm", "stapo"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[1, 16, 64])
    for name, value in (("prompt", 256), ("new", 32), ("turns", 3), ("threads", 1), ("episodes", 4), ("steps", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--gaps", action="store_true")
    return parser.parse_args()


def samplers(policy: Any, args: argparse.Namespace) -> dict[str, Any]:
    """A sampler of each engine, on the same policy."""
    from stapo.rollout.config import VllmConfig
    from stapo.rollout.sampler import HFSampler
    from stapo.rollout.vllm import VllmSampler

    made: dict[str, Any] = {}
    for name in args.engines:
        if name == "vllm":
            made[name] = VllmSampler(policy, args.prompt, args.new, VllmConfig())
        else:
            made[name] = HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, args.new)
    return made


def speed(policy: Any, dtype: str, args: argparse.Namespace) -> None:
    """Tokens a second of each engine, in turns."""
    policy = replace(policy, eos_ids=[])
    rng = random.Random(0)
    made = samplers(policy, args)
    vocabulary = policy.model.config.vocab_size

    def prompts(size: int) -> list[list[int]]:
        return [[rng.randrange(100, vocabulary) for _ in range(args.prompt)] for _ in range(size)]

    for sampler in made.values():
        sampler.sample(prompts(2), [(0, 0), (0, 1)], 1.0)
    for size in args.sizes:
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
        for turn in range(args.turns):
            asked = prompts(size)
            for name, sampler in made.items():
                sampler.forget()
                wall, cpu = time.perf_counter(), time.process_time()
                samples = sampler.sample(asked, [(turn, i) for i in range(size)], 1.0)
                tokens = sum(len(sample.ids) for sample in samples)
                found[name].append((tokens / (time.perf_counter() - wall), tokens / (time.process_time() - cpu)))
        for name, rates in found.items():
            walls, cpus = zip(*rates, strict=True)
            print(
                f"{dtype:9} {size:4} sequences  {name:6} {statistics.median(walls):7.1f} tokens/s of the clock, "
                f"{statistics.median(cpus):7.1f} of the CPU",
                flush=True,
            )
        if {"vllm", "stapo"} <= set(found):
            ratios = [
                [ours[part] / theirs[part] for ours, theirs in zip(found["vllm"], found["stapo"], strict=True)]
                for part in (0, 1)
            ]
            shown = [f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in ratios]
            print(f"{dtype:9} {size:4} sequences  vllm over stapo: clock {shown[0]}, CPU {shown[1]}", flush=True)
    for sampler in made.values():
        getattr(sampler, "close", lambda: None)()


def gaps(config: Any, policy: Any, dtype: str, args: argparse.Namespace) -> None:
    """Gaps between what was recorded and what the trainer computes, right and wrong."""
    from stapo.rollout.sampler import OwnWeights
    from stapo.training.batch import rows_of
    from stapo.training.factories import env_factory
    from stapo.training.loop import build_collector
    from stapo.training.scoring import Scorer

    env = env_factory(config)()
    tasks = list(env.tasks_of(config.env.split))[:1]
    env.close()
    scorer = Scorer(policy, None, config.algorithm, 1.0)
    for name in args.engines:
        collector = build_collector(config, policy, "vllm" if name == "vllm" else "transformers")
        if isinstance(collector.sampler, OwnWeights):
            collector.sampler.weights_will_move()
        played = collector.collect(tasks, args.episodes, 1.0, (0, 1))
        collector.close()
        steps, rows = [s for t in played for s in t.steps], rows_of(played)[0]
        cut = [replace(row, prompt_ids=row.prompt_ids[8:]) for row in rows]
        found = {
            "as it should be": gap(steps, scorer, rows),
            "fault: temperature 1.1": gap(steps, replace(scorer, temperature=1.1), rows),
            "fault: temperature 0.7": gap(steps, replace(scorer, temperature=0.7), rows),
            "fault: the first 8 tokens of prompts missing": gap(steps, scorer, cut),
        }
        with moved(policy.model, RATE):
            found[f"fault: weights one step of {RATE:g} ahead"] = gap(steps, scorer, rows)
        for what, gap_n in found.items():
            print(
                f"{dtype:9} {name:6} {what:45} mean {gap_n.mean():.2g}, most {gap_n.max():.2g}, {gap_n.size:,} tokens",
                flush=True,
            )


def gap(steps: Sequence[Any], scorer: Any, rows: Sequence[Any]) -> np.ndarray:
    """Of each token, what the sampler recorded and what the trainer computes, apart."""
    scorer.rescore(steps, rows, 4096)
    sampled, own = (np.concatenate([getattr(s, name) for s in steps]) for name in ("logprobs", "old_logprobs"))
    found: np.ndarray = np.abs(own - sampled)
    return found


@contextmanager
def moved(model: Any, rate: float) -> Iterator[None]:
    """The model one step ahead, of the size of AdamW's first: the rate, up or down, in each weight."""
    import torch

    before = [weight.detach().clone() for weight in model.parameters()]
    with torch.no_grad():
        torch.manual_seed(0)
        for weight in model.parameters():
            weight += rate * torch.randn_like(weight).sign()
        yield
        for weight, was in zip(model.parameters(), before, strict=True):
            weight.copy_(was)


def main() -> int:
    """Measure and print."""
    args = arguments()
    os.environ |= {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    import torch

    from stapo.config.presets import load_config
    from stapo.policy import load_policy

    torch.set_num_threads(args.threads)
    built = Path(args.model).is_dir()
    source = "tiny" if built else "smollm2/alfworld-tiny"
    for dtype in args.dtypes:
        changes = {
            "agent": {"decode": "free"},
            "env": {"options": {"max_steps": args.steps}},
            "model": {"path": args.model, "dtype": dtype, "device": "cpu"},
        }
        config = load_config(source, base=changes)
        policy = load_policy(args.model, config.model)
        weights = sum(p.numel() for p in policy.model.parameters())
        print(
            f"{args.model}, {weights:,} weights, {dtype}, {args.threads} thread(s), torch {torch.__version__}",
            flush=True,
        )
        if args.gaps:
            gaps(config, policy, dtype, args)
        else:
            speed(policy, dtype, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
