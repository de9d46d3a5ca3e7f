"""What a rollout of growing prompts costs with keys and values kept between turns, and with every prompt read anew.

Eight episodes of one group play 20 turns of a conversation with 40 new tokens each, 8 of them sampled and 32 an
observation, after a first prompt of 100 tokens. Tokens are random, environments cost nothing, and no response ends
early, so that both ways do the same. Two models with random weights: SmolLM2-135M's shape (30 layers, 9 heads that
share 3 of keys) and a small built one (3 layers of width 128).

    python benchmarks/kept_keys.py [--episodes 8] [--turns 20] [--new 40] [--sampled 8] [--threads 2] [--repeats 1]

Both ways are measured in turn, in one process. Exit status 1: their samples differ, or keeping is not faster.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stapo.rollout.sampler import HFSampler, Sample

FIRST = 100
SHAPES = {
    "135M weights, 30 layers": {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3,
    },
    "small, 3 layers": {
        "vocab_size": 2048, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 4,
    },
}  # fmt: skip


def model(shape: dict[str, int]) -> LlamaForCausalLM:
    """A Llama with random weights."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=True, max_position_embeddings=8192)).eval()


def play(sampler: HFSampler, vocabulary: int, args: argparse.Namespace) -> list[Sample]:
    """All turns of all episodes; the observations are the same ones each time."""
    rng = random.Random(0)
    prompts = [[rng.randrange(2, vocabulary) for _ in range(FIRST)]] * args.episodes
    said: list[Sample] = []
    for turn in range(args.turns):
        answers = sampler.sample(prompts, [(0, 0, m, turn) for m in range(args.episodes)], 1.0)
        seen = [[rng.randrange(2, vocabulary) for _ in range(args.new - args.sampled)] for _ in prompts]
        prompts = [[*p, *a.ids, *o] for p, a, o in zip(prompts, answers, seen, strict=True)]
        said += answers
    sampler.forget()
    return said


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("episodes", 8), ("turns", 20), ("new", 40), ("sampled", 8), ("threads", 2), ("repeats", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    good = True
    print(f"{'':26}{'wall s':>9}{'CPU s':>9}{'tokens read':>13}{'reused':>9}{'new tokens/s':>14}")
    for name, shape in SHAPES.items():
        policy = model(shape)
        walls: dict[str, list[float]] = {"every prompt read anew": [], "keys kept": []}
        said: dict[str, list[Sample]] = {}
        for _ in range(args.repeats):
            for way, found in walls.items():
                sampler = HFSampler(policy, [], 0, args.sampled, 16_384, (way == "keys kept") << 31, growing=True)
                wall, cpu = time.perf_counter(), time.process_time()
                said[way] = play(sampler, shape["vocab_size"], args)
                found.append(time.perf_counter() - wall)
                counts, new = sampler.counts, args.episodes * args.turns * args.new
                print(
                    f"{way:26}{found[-1]:9.2f}{time.process_time() - cpu:9.2f}{counts.prefilled:13,}"
                    f"{counts.reused:9,}{new / found[-1]:14,.0f}"
                )
        anew, kept = said.values()
        same = [s.ids for s in anew] == [s.ids for s in kept]
        gap = max(
            abs(a - b) for s, t in zip(anew, kept, strict=True) for a, b in zip(s.logprobs, t.logprobs, strict=True)
        )
        before, after = (statistics.median(found) for found in walls.values())
        print(f"{name}: {before / after:.1f}x, samples {'the same' if same else 'DIFFERENT'}, log-prob gap {gap:.1e}\n")
        good = good and same and after < before
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
