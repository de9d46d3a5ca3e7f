"""A large run folder, to measure and try out what reads runs: 1,000 iterations with 100,000 recorded steps.

    python benchmarks/big_run.py OUT [--iterations 1000] [--groups 2] [--members 10] [--turns 5]

Texts are those of household episodes with real prompts and responses in the published format; what was said is drawn at
random from the commands on offer. Entropies, log-probabilities and divergences are random numbers of a likely size.
Everything computed from them, and every file, is written by the code of the training.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stapo.agent import AgentConfig
from stapo.algo import get_algorithm
from stapo.config.presets import load_config
from stapo.config.schema import to_data
from stapo.envs import make
from stapo.policy.tokenizer import train_tokenizer
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.episode import Episode
from stapo.rollout.sampler import Sample
from stapo.rollout.types import Step, Trajectory
from stapo.run import RunDirectory
from stapo.training.batch import RowBatch, build_batch
from stapo.training.metrics import rollout_metrics
from stapo.training.transcript_details import BlindNumbers, Details
from stapo.training.transcripts import write_transcript

AGENT = AgentConfig(prompt="standard", response="think_action", max_prompt_tokens=8000, max_response_tokens=512)
_THOUGHTS = ("I have not looked there yet.", "The goal asks for it, so I go on.", "Perhaps it is somewhere else.")


class _KnownTexts:
    """A tokenizer that turns the same ids into text once."""

    def __init__(self, tokenizer: Any) -> None:
        self._decode = lru_cache(maxsize=50_000)(lambda ids: tokenizer.decode(ids, skip_special_tokens=False))

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return self._decode(tuple(ids))


def play(
    env: Any, encoder: PromptEncoder, tasks: Sequence[str], members: int, turns: int, rng: np.random.Generator
) -> list[Trajectory]:
    """Episodes of each task that give commands at random, `turns` long or until the task is solved."""
    played = []
    for group, task in enumerate(tasks):
        for member in range(members):
            trajectory = Trajectory(task, env.task_type(task), "", group, member)
            episode = Episode(
                encoder, AGENT, trajectory, blind_mask="goal_history", anchor="observation_and_admissible",
                reward_scale=10.0,
            )  # fmt: skip
            episode.begin(env.reset(task))
            while not episode.done and len(trajectory.steps) < turns:
                if episode.prompt() is None:
                    break
                action = str(rng.choice(episode.admissible or ["look"]))
                text = f"<think>{rng.choice(_THOUGHTS)} Now: {action}.</think>\n<action>{action}</action>"
                ids = encoder.encode_response(text)
                done = episode.answer(Sample(ids, [0.0] * len(ids), [0.0] * len(ids), True))
                assert isinstance(done, str), done
                episode.observe(env.step(done))
            played.append(trajectory)
    return played


def with_numbers(played: Sequence[Trajectory], rng: np.random.Generator, skill: float) -> list[Trajectory]:
    """The same episodes with numbers of their own; a share `skill` of them is won at their last step."""
    made = []
    for trajectory in played:
        won = bool(rng.random() < skill)
        steps = [_with_numbers(step, rng) for step in trajectory.steps]
        if steps and won:
            steps[-1].reward = 10.0
        made.append(replace(trajectory, steps=steps, won=won))
    return made


def _with_numbers(step: Step, rng: np.random.Generator) -> Step:
    step, count = copy(step), len(step.response_ids)
    scale = rng.lognormal(-1.0, 1.0)
    step.entropies = (scale * rng.random(count)).tolist()
    step.logprobs = (-scale * rng.random(count)).tolist()
    step.valid = bool(rng.random() < 0.95)
    step.problem = "" if step.valid else "no_action"
    return step


def blind_numbers(batch: RowBatch, rng: np.random.Generator) -> BlindNumbers:
    """Likely numbers of blind passes at the flagged rows."""
    found = BlindNumbers(range(len(batch)))
    for b in np.flatnonzero(batch.flag_b).tolist():
        kl = torch.from_numpy(rng.gamma(1.0, 0.3, len(batch.steps[b].response_ids))).half()
        found.kl[b], found.r_ta[b], found.p_ti[b] = kl, float(kl.float().mean()), float(rng.gamma(1.0, 0.01))
    return found


def write_big_run(path: Path, iterations: int, groups: int, members: int, turns: int, played: int = 12) -> int:
    """Write the run; returns its number of steps.

    Args:
        path: a new folder.
        iterations: of the run; each has a transcript.
        groups: task groups of an iteration.
        members: episodes of a group.
        turns: steps of an episode.
        played: iterations that are played; the others have their texts with numbers of their own.
    """
    config = load_config("tiny")
    config = replace(config, optim=replace(config.optim, iterations=iterations))
    rng, env = np.random.default_rng(0), make("alfworld", scenes="standard", games_per_type=20, max_steps=50)
    tasks = list(env.tasks_of("train"))
    first = env.reset(tasks[0])
    tokenizer = train_tokenizer([first.text, *(first.admissible or ())], 600, "words")
    encoder = PromptEncoder(tokenizer)
    pool = []
    for number in range(min(played, iterations)):
        chosen = [tasks[(number * groups + k) % len(tasks)] for k in range(groups)]
        pool.append(play(env, encoder, chosen, members, turns, rng))
    env.close()
    run = RunDirectory.create(path, to_data(config), ["stapo", "train", "tiny"])
    texts, decode, steps = _KnownTexts(tokenizer), lru_cache(maxsize=50_000)(lambda ids: encoder.decode(ids)), 0
    for iteration in range(1, iterations + 1):
        skill = 0.1 + 0.8 * iteration / iterations
        batch = build_batch(with_numbers(pool[iteration % len(pool)], rng, skill), get_algorithm("stapo"))
        metrics = rollout_metrics(batch)
        run.append("metrics", {"iteration": iteration, **metrics, "seconds": {"total": 1.0}})
        details = Details(blind_numbers(batch, rng), texts, lambda ids: decode(tuple(ids)), True)
        write_transcript(run, batch, iteration, groups, details)
        steps += len(batch)
    run.finish("done", iterations=iterations)
    return steps


def main() -> None:
    """Write a run and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    began = time.perf_counter()
    steps = write_big_run(args.out, args.iterations, args.groups, args.members, args.turns)
    size = sum(p.stat().st_size for p in args.out.rglob("*") if p.is_file())
    summary = (args.out / "steps.jsonl").stat().st_size
    print(f"{args.iterations:,} iterations, {steps:,} steps, {time.perf_counter() - began:.0f} s")
    print(f"{size / 1e6:,.0f} MB, {size / steps:,.0f} bytes a step; steps.jsonl {summary / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
