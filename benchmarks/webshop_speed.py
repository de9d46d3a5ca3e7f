"""How fast the shop is, and how much memory a large catalog takes.

    python benchmarks/webshop_speed.py [--products items_shuffle.json] [--generated 100000 1000000]

Each catalog is built in a process of its own, in a cache of its own, and opened in another one: the figures are not
those of SFT. Times are the process's own (CPU), so that neighbors do not count; resident memory is its peak,
mapped files included.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from statistics import median
from typing import Any

EPISODES = 300


def options(args: argparse.Namespace, count: int | None) -> dict[str, Any]:
    """Options of the environment for a row."""
    if count is None:
        return {"products": args.products} if args.products else {"catalog_products": 1_000}
    return {"catalog_products": count}


def build(found: dict[str, Any]) -> dict[str, float]:
    """Figures of the first start."""
    from stapo.envs import make

    started = time.process_time()
    make("webshop", **found)
    return {"build s": time.process_time() - started, "build peak GB": peak()}


def play(found: dict[str, Any]) -> dict[str, float]:
    """Figures of a later start, of searches and of episodes."""
    from stapo.envs import make

    started = time.process_time()
    env: Any = make("webshop", **found)
    opened = time.process_time() - started
    rng = random.Random(0)
    tasks = [env.tasks[rng.randrange(len(env.tasks))] for _ in range(EPISODES)]
    goals = [env.reset(task).goal for task in tasks]
    index, queries = env.catalog.index, []
    for goal in goals:
        begun = time.process_time()
        index.search(goal, 50)
        queries.append(time.process_time() - begun)
    steps, begun = 0, time.process_time()
    for task in tasks:
        seen = env.reset(task)
        # One search in eight steps, as agents do; the other steps click at random.
        for turn in range(env.max_steps):
            clicks = [c for c in seen.admissible if c.startswith("click") and c != "click[buy now]"]
            action = f"search[{env.goal.instruction}]" if turn % 8 == 0 else rng.choice(clicks)
            seen = env.step(action)
            steps += 1
            if seen.done:
                break
    return {
        "open s": opened,
        "steps/s": steps / (time.process_time() - begun),
        "search p50 ms": 1e3 * median(queries),
        "search p99 ms": 1e3 * sorted(queries)[int(0.99 * len(queries))],
        "goals": len(env.tasks),
        "peak GB": peak(),
    }


def peak() -> float:
    """Peak of the resident memory so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def main() -> None:
    """Print one row per catalog."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--products", help="items_shuffle*.json for the first row; by default a generated shop of 1,000"
    )
    parser.add_argument("--generated", type=int, nargs="*", default=[], help="further generated shops of these sizes")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        part, found = args.part
        print(json.dumps({"build": build, "play": play}[part](json.loads(found))))
        return
    for count in (None, *args.generated):
        cache = tempfile.mkdtemp(prefix="webshop-speed-")
        row: dict[str, Any] = {"products": count or "1,000"}
        try:
            for part in ("build", "play"):
                command = [sys.executable, __file__, "--part", part, json.dumps(options(args, count))]
                told = subprocess.run(
                    command, env={**os.environ, "STAPO_CACHE": cache}, check=True, capture_output=True, text=True
                )
                row |= json.loads(told.stdout)
            size = sum(os.path.getsize(os.path.join(top, f)) for top, _, files in os.walk(cache) for f in files)
        finally:
            shutil.rmtree(cache)
        row["disk GB"] = size / (1 << 30)
        print("  ".join(f"{k} {v:,.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


if __name__ == "__main__":
    main()
