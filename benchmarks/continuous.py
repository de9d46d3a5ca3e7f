"""What it gives that no episode waits for another's response (`rollout.vllm.continuous`).

    python benchmarks/continuous.py [--runs RUN ...] [--thoughts] [--episodes 128] [--steps 20]
    python benchmarks/continuous.py --engine [--model smollm2-135m] [--dtype bfloat16] [--turns 3] [--threads 1] ...

Lengths of responses come from the transcripts of runs, or, with --thoughts, from a log-normal distribution (median
100 tokens, sigma 0.5, at most 512). Without --engine they are played in arithmetic: a moment of generation gives each
running response a token, and costs as much whatever their number ("flat", a GPU that reads weights), or a share of it
for each ("shared": 1 + RESPONSES / 5, as vLLM on a CPU was measured). With --engine vLLM itself generates responses of
these lengths, turn by turn and without turns, on prompts that grow by 40 tokens a step; CPU seconds are those of this
process, and the two ways take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Episodes = list[list[int]]
"""Tokens of each response of each episode."""

COSTS: dict[str, Callable[[int], float]] = {"flat": lambda n: 1.0, "shared": lambda n: 1 + n / 5}
LONGEST = 512
SEEN = 40
"""Tokens that a step adds to a prompt beside its response."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", nargs="*", type=Path, default=[])
    parser.add_argument("--thoughts", action="store_true")
    parser.add_argument("--engine", action="store_true")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="bfloat16")
    for name, value in (("episodes", 128), ("steps", 20), ("turns", 3), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def recorded(run: Path) -> list[Episodes]:
    """Lengths of the transcripts of a run, by iteration."""
    files = sorted((run / "transcripts").glob("iteration-*.jsonl"))
    lines = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    return [[[step["tokens"] for step in episode["steps"]] for episode in each] for each in lines]


def thoughts(episodes: int, steps: int) -> Episodes:
    """Lengths of responses with thoughts; every third episode ends after half of the steps."""
    rng = random.Random(0)

    def length() -> int:
        return min(LONGEST, max(1, round(100 * rng.lognormvariate(0, 0.5))))

    return [[length() for _ in range(steps if i % 3 else steps // 2)] for i in range(episodes)]


def in_turns(episodes: Episodes, cost: Callable[[int], float]) -> tuple[float, float]:
    """Cost where each turn waits for its longest response, and its share with fewer than half of the turn left."""
    total = drained = 0.0
    for turn in range(max(map(len, episodes))):
        lengths = [episode[turn] for episode in episodes if turn < len(episode)]
        for at in range(max(lengths)):
            running = sum(length > at for length in lengths)
            total += cost(running)
            drained += cost(running) if 2 * running < len(lengths) else 0.0
    return total, drained / total


def without_turns(episodes: Episodes, cost: Callable[[int], float]) -> float:
    """Cost where each episode goes on by itself."""
    lengths = [sum(episode) for episode in episodes]
    return sum(cost(sum(length > at for length in lengths)) for at in range(max(lengths)))


def simulate(name: str, iterations: list[Episodes]) -> None:
    """Print what arithmetic says of some iterations."""
    found = []
    for cost in COSTS.values():
        turns = [in_turns(episodes, cost) for episodes in iterations]
        alone = [without_turns(episodes, cost) for episodes in iterations]
        ratios = [total / less for (total, _), less in zip(turns, alone, strict=True)]
        found.append((ratios, [share for _, share in turns]))
    responses = [length for episodes in iterations for episode in episodes for length in episode]
    said = ", ".join(
        f"{cost} {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        for cost, (ratios, _) in zip(COSTS, found, strict=True)
    )
    print(
        f"{name}: {len(iterations)} iterations, {len(iterations[0])} episodes, {statistics.mean(responses):.1f} tokens "
        f"a response; turns over none: {said}; share with fewer than half of a turn left: "
        f"{statistics.median(found[0][1]):.2f}"
    )


def prompt_of(rng: random.Random, before: list[int], vocabulary: int) -> list[int]:
    """A prompt that extends the last prompt and response."""
    return before + [rng.randrange(100, vocabulary) for _ in range(SEEN)]


def measure(policy: Any, episodes: Episodes, turns: int) -> None:
    """Generate responses of these lengths with vLLM in both ways, and print seconds."""
    from stapo.rollout.config import VllmConfig
    from stapo.rollout.vllm import VllmSampler

    lengths: dict[tuple[int, ...], int] = {}

    class Sampler(VllmSampler):
        """Responses have the lengths that are asked for."""

        def _params(self, row: Any, temperature: float, limits: Any) -> Any:
            params = super()._params(row, temperature, limits)
            params.max_tokens = params.min_tokens = lengths[row.stream]
            return params

    longest = max(sum(episode) + SEEN * (len(episode) + 4) for episode in episodes)
    sampler = Sampler(policy, longest, LONGEST, VllmConfig())
    vocabulary = policy.model.config.vocab_size

    def begin(turn: int) -> tuple[random.Random, list[list[int]]]:
        sampler.weights_will_move()  # drops the cache of prompts
        rng = random.Random(turn)
        first = [prompt_of(rng, prompt_of(rng, [], vocabulary), vocabulary) for _ in episodes]
        lengths.update({(turn, i, k): n for i, lens in enumerate(episodes) for k, n in enumerate(lens)})
        sampler.sample(first[:1], [(turn, 0, 0)], 1.0)  # copies the weights
        return rng, first

    def turn_by_turn(turn: int, rng: random.Random, prompts: list[list[int]]) -> int:
        tokens = 0
        for step in range(max(map(len, episodes))):
            going = [i for i, lens in enumerate(episodes) if step < len(lens)]
            samples = sampler.sample([prompts[i] for i in going], [(turn, i, step) for i in going], 1.0)
            for i, sample in zip(going, samples, strict=True):
                tokens += len(sample.ids)
                prompts[i] = prompt_of(rng, prompts[i] + sample.ids, vocabulary)
        return tokens

    def one_by_one(turn: int, rng: random.Random, prompts: list[list[int]]) -> int:
        tokens, steps = 0, [0] * len(episodes)
        for i, prompt in enumerate(prompts):
            sampler.put(i, prompt, (turn, i, 0), 1.0)
        going = len(episodes)
        while going:
            for i, sample in sampler.advance():
                tokens += len(sample.ids)
                steps[i] += 1
                prompts[i] = prompt_of(rng, prompts[i] + sample.ids, vocabulary)
                if steps[i] < len(episodes[i]):
                    sampler.put(i, prompts[i], (turn, i, steps[i]), 1.0)
                else:
                    going -= 1
        return tokens

    found: list[list[float]] = []
    for turn in range(turns):
        for way in (turn_by_turn, one_by_one):
            rng, prompts = begin(turn)
            wall, cpu = time.perf_counter(), time.process_time()
            tokens = way(turn, rng, prompts)
            found.append([time.perf_counter() - wall, time.process_time() - cpu])
            print(
                f"{way.__name__:12} {tokens:,} tokens, {found[-1][0]:.1f} s of the clock, {found[-1][1]:.1f} of CPU",
                flush=True,
            )
    for part, name in enumerate(("clock", "CPU")):
        ratios = [found[2 * turn][part] / found[2 * turn + 1][part] for turn in range(turns)]
        print(f"turns over none, {name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    sampler.close()


def main() -> int:
    """Simulate or measure, and print."""
    args = arguments()
    played = {run.name: recorded(run) for run in args.runs}
    if args.thoughts or not played:
        played["thoughts"] = [thoughts(args.episodes, args.steps)]
    if not args.engine:
        for name, iterations in played.items():
            simulate(name, iterations)
        return 0
    os.environ |= {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    import torch

    from stapo.policy import ModelConfig, load_policy

    torch.set_num_threads(args.threads)
    policy = load_policy(args.model, ModelConfig(dtype=args.dtype, device="cpu", path=args.model))
    for name, iterations in played.items():
        print(f"{name}: {len(iterations[0])} episodes, {args.model}, {args.dtype}")
        measure(policy, [lengths[: args.steps] for lengths in iterations[0][: args.episodes]], args.turns)
    return 0


if __name__ == "__main__":
    sys.exit(main())
