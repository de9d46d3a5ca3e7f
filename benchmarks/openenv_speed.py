"""Speed of an environment behind `stapo serve-env`, played by OpenEnv's own generic client (openenv or openenv-core).

The server is started here, on a free port. All sessions play whole episodes at once, with commands drawn from those
that work. Given are steps per second of the clock, what a single step takes, and the CPU seconds of both processes,
which other work on the machine hardly changes; the server's include its start.

    python benchmarks/openenv_speed.py [NAME] [--sessions N] [--steps N] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import time

OPTIONS = {"alfworld": ["--env.scenes", "tiny"], "webshop": ["--env.size", "tiny"]}


async def play(address: str, seed: int, least: int, seconds: list[float]) -> int:
    """Play whole episodes in one session until there were so many steps; returns how many. Adds what each took."""
    from openenv.core import GenericEnvClient

    rng, steps = random.Random(seed), 0
    async with GenericEnvClient(base_url=address) as env:
        while steps < least:
            result = await env.reset(seed=rng.randrange(1 << 30))
            while not result.done:
                command = rng.choice(result.observation["admissible"] or ["look"])
                started = time.perf_counter()
                result = await env.step({"command": command})
                seconds.append(time.perf_counter() - started)
                steps += 1
    return steps


async def all_sessions(address: str, sessions: int, steps: int) -> tuple[list[float], float]:
    """Seconds of each step, and of everything."""
    seconds: list[float] = []
    started = time.perf_counter()
    await asyncio.gather(*(play(address, seed, steps // sessions, seconds) for seed in range(sessions)))
    return sorted(seconds), time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", default="alfworld", help="environment (default: alfworld, small scenes)")
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10_000, help="of all sessions together, at least")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()

    command = [sys.executable, "-m", "stapo", "serve-env", options.name, *OPTIONS.get(options.name, []), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = "http://" + server.stdout.readline().split("on ws://")[1].split()[0].removesuffix("/ws")
        before = time.process_time()
        seconds, clock = asyncio.run(all_sessions(address, options.sessions, options.steps))
        client = time.process_time() - before
    finally:
        server.terminate()
        server.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = {
        "environment": options.name,
        "sessions": options.sessions,
        "steps": len(seconds),
        "steps_per_second": round(len(seconds) / clock),
        "p50_ms": round(1e3 * seconds[len(seconds) // 2], 2),
        "p99_ms": round(1e3 * seconds[int(len(seconds) * 0.99)], 2),
        "cpu_s_client": round(client, 2),
        "cpu_s_server": round(used.ru_utime + used.ru_stime, 2),
        "load_average": round(os.getloadavg()[0], 1),
    }
    if options.json:
        print(json.dumps(report))
        return
    for key, value in report.items():
        print(f"{key:18} {value}")


if __name__ == "__main__":
    main()
