"""Speed and memory of the native ALFWorld engine, with TextWorld beside it where it is installed.

One step is: take a random offered command, read the observation, list the commands, check the goal.

    python benchmarks/env_speed.py [--games PATH] [--steps N] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import time
from pathlib import Path

from stapo.envs.alfworld.env import AlfworldEnv
from stapo.envs.alfworld.sources import open_source
from stapo.errors import ConfigError

SPLIT = "valid_unseen"
GAMES = 134
ROOT = Path(__file__).resolve().parent.parent


def recorded_games() -> Path | None:
    """The recorded games of the chosen split, or None where the shared data is absent."""
    shared = Path(os.environ.get("STAPO_SHARED", ROOT.parent / "shared"))
    path = shared / "data" / "alfworld" / f"games_{SPLIT}.jsonl.xz"
    return path if path.exists() else None


def resident_mb() -> float:
    """Resident memory of this process in MB."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1e6 if sys.platform == "darwin" else 1e3)
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def walk(env: AlfworldEnv, tasks: list[str], steps: int, seed: int) -> float:
    """Seconds that `steps` random steps take, resets included."""
    rng = random.Random(seed)
    turn, taken = 0, 0
    started = time.perf_counter()
    while taken < steps:
        offered = env.reset(tasks[turn % len(tasks)]).admissible or []
        turn += 1
        done = False
        while not done and taken < steps:
            result = env.step(rng.choice(offered))
            offered, done = result.admissible or [], result.done
            taken += 1
    return time.perf_counter() - started


def textworld_rate(games: Path | None, tasks: list[str], steps: int) -> float | None:
    """Steps per second of TextWorld after loading one game; None if it is not installed."""
    from textworld_referee import Original, random_actions

    try:
        original = Original()
    except ConfigError:
        return None
    game = open_source(games).load(tasks[0])
    actions = random_actions(game, steps=steps, seed=0)
    original.start(game)
    started = time.perf_counter()
    for action in actions:
        original.step(action)
    return steps / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", type=Path, default=recorded_games(), help="default: recorded")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()

    imported = resident_mb()
    started = time.perf_counter()
    envs = [AlfworldEnv(games=options.games)]
    opened = time.perf_counter() - started
    tasks = list(envs[0].tasks)[:GAMES]
    envs += [AlfworldEnv(games=options.games) for _ in tasks[1:]]
    started = time.perf_counter()
    for env, task in zip(envs, tasks, strict=True):
        env.reset(task)
    first_reset = (time.perf_counter() - started) / len(tasks)
    memory = resident_mb()
    seconds = min(walk(envs[0], tasks, options.steps, seed) for seed in range(3))
    started = time.perf_counter()
    for env in envs:
        env.expert_plan()
    plan = (time.perf_counter() - started) / len(envs)
    report = {
        "games": f"{len(tasks)} of {options.games.name if options.games else 'the generator'}",
        "steps_per_second": round(options.steps / seconds),
        "open_source_ms": round(opened * 1e3, 1),
        "first_reset_ms": round(first_reset * 1e3, 2),
        "expert_plan_ms": round(plan * 1e3, 3),
        "memory_mb_imports": round(imported, 1),
        "memory_mb_games_open": round(memory, 1),
    }
    theirs = textworld_rate(options.games, tasks, 100)
    if theirs is not None:
        report["textworld_steps_per_second"] = round(theirs, 1)
        report["ratio"] = round(options.steps / seconds / theirs)
    if options.json:
        print(json.dumps(report))
        return
    for key, value in report.items():
        print(f"{key:28} {value}")
    if theirs is None:
        print("textworld                    not installed (pip install 'stapo[alfworld]')")


if __name__ == "__main__":
    main()
