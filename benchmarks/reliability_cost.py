"""What reliability costs: saving the state of a run, and playing environments in worker processes.

    python benchmarks/reliability_cost.py [--preset tiny] [--iterations 4] [--turns 200]

Saving is measured on iterations of a preset, with the weights that it starts from; worker processes, on random play of
the preset's environment by the number of episodes that an iteration plays at once. Read the ratios: everything of a
line is measured in turn, in one process.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from transformers.utils import logging as transformers_logging

from stapo.config.presets import load_config
from stapo.config.run_config import RunConfig
from stapo.config.schema import to_data
from stapo.envs import make
from stapo.envs.pool import EnvPool, Started
from stapo.envs.worker_pool import build_pool
from stapo.run import RunDirectory
from stapo.training.loop import Trainer, set_threads
from stapo.training.preparation import prepare_policy


def cost_of_saves(config: RunConfig, iterations: int, folder: Path) -> None:
    """Print the time of a save beside that of the iteration before it, medians."""
    brief = replace(config, sft=replace(config.sft, steps=1, episodes=60))
    run = RunDirectory.create(folder / "run", to_data(brief), [])
    policy = prepare_policy(brief, run)
    trainer = Trainer(brief, policy, run)
    run.write_checkpoint("start", policy.save)
    spent: list[float] = []
    saved: list[float] = []
    for iteration in range(1, iterations + 1):
        started = time.perf_counter()
        trainer.iterate(iteration)
        between = time.perf_counter()
        trainer.save()
        spent.append(between - started)
        saved.append(time.perf_counter() - between)
    trainer.collector.close()
    # The first save has no earlier one to link the reference from, nor old ones to remove.
    iterate, save = statistics.median(spent[1:]), statistics.median(saved[1:])
    size = sum(p.stat().st_size for p in run.saves.complete()[0].rglob("*") if p.is_file())
    print(f"saves: {policy.parameter_count:,} weights, {size / 1e6:.1f} MB a save (reference linked, not copied)")
    print(f"  iteration {iterate:.2f} s, save {1000 * save:.0f} ms: {save / iterate:+.1%} per iteration, one save each")


def turns_per_second(pool: EnvPool, tasks: list[str], slots: int, turns: int) -> float:
    """Environment steps per second of `slots` episodes that act together, each turn a batch."""
    rng = random.Random(0)
    pool.grow(slots)
    offered: list[list[str]] = [[] for _ in range(slots)]

    def begin(which: list[int]) -> None:
        for slot, out in zip(which, pool.reset([(i, rng.choice(tasks)) for i in which]), strict=True):
            assert isinstance(out, Started), out
            offered[slot] = out.observation.admissible or ["look"]

    begin(list(range(slots)))
    started, steps = time.perf_counter(), 0
    for _ in range(turns):
        outs = pool.step([(i, rng.choice(offered[i])) for i in range(slots)])
        over = []
        for i, out in enumerate(outs):
            if getattr(out, "done", True):
                over.append(i)
            else:
                offered[i] = out.admissible or ["look"]  # type: ignore[union-attr]
        steps += slots
        if over:
            begin(over)
    return steps / (time.perf_counter() - started)


def cost_of_workers(config: RunConfig, turns: int) -> None:
    """Print environment steps per second in this process and in one and two workers."""
    env = make(config.env.name, **config.env.options)
    tasks = list(env.tasks_of(config.env.split))
    env.close()
    slots = config.rollout.groups * config.rollout.group_size
    base = None
    print(f"workers: {slots} episodes of {config.env.name} that act together, {turns} turns")
    for workers in (0, 1, 2):
        pool = build_pool(config.env.name, config.env.options, workers, config.rollout.env_deadline)
        turns_per_second(pool, tasks, slots, 3)  # starts the workers, reads the games
        rate = turns_per_second(pool, tasks, slots, turns)
        pool.close()
        base = base or rate
        where = "in this process" if workers == 0 else f"{workers} worker{'s' if workers > 1 else ''}"
        print(f"  {where:<16} {rate:>9,.0f} steps/s  {rate / base:5.2f} x   {1e6 / rate:6.1f} us a step")


def main() -> None:
    """Measure both and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--turns", type=int, default=60)
    args = parser.parse_args()
    config = load_config(args.preset)
    set_threads(1)
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        cost_of_saves(config, args.iterations, Path(folder))
    cost_of_workers(config, args.turns)


if __name__ == "__main__":
    main()
