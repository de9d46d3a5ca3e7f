"""Speed of the native Sokoban engine, with gym-sokoban beside it where it is installed (also a check of the rules).

One step is: take a random direction, read the observation. A level is made once, and a reset takes it from memory, so
the making of levels has a row of its own. gym-sokoban plays the same levels; its observation is the smallest image that
it draws, one pixel a cell. Times are the process's own (CPU).

    python benchmarks/sokoban_speed.py [--steps N] [--levels N] [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence

from stapo.envs.sokoban.board import DIRECTIONS
from stapo.envs.sokoban.env import SokobanEnv
from stapo.envs.sokoban.generator import Level
from stapo.envs.sokoban.levels import Sizes, distances, level_of, tasks_with

Trace = list[tuple[float, bool, str]]
_CODES = "#_O√XPS"


def ours(tasks: Sequence[str], steps: int) -> tuple[float, Trace]:
    """Seconds of random steps, and what each led to: reward, end, the rows of the room."""
    env, rng, trace = SokobanEnv(), random.Random(0), []
    taken, turn, started = 0, 0, time.process_time()
    while taken < steps:
        env.reset(tasks[turn % len(tasks)])
        turn, done = turn + 1, False
        while not done and taken < steps:
            result = env.step(rng.choice(DIRECTIONS))
            trace.append((result.reward, result.done, result.text))
            taken, done = taken + 1, result.done
    return time.process_time() - started, trace


def theirs(levels: list[Level], steps: int) -> tuple[float, Trace] | None:
    """The same of gym-sokoban; None where it is not installed."""
    try:
        import numpy as np
        from gym_sokoban.envs.sokoban_env import SokobanEnv as Original
    except ImportError:
        return None

    env = Original(dim_room=(6, 6), max_steps=15, num_boxes=1, reset=False)
    rooms = []
    for board, start in levels:
        signs = "".join(board.rows(start)).replace("S", "P")
        state = np.array([_CODES.index(sign) for sign in signs]).reshape(6, 6)
        fixed = np.array(
            [0 if wall else 2 if cell in board.targets else 1 for cell, wall in enumerate(board.walls)]
        ).reshape(6, 6)
        rooms.append((fixed, state, np.argwhere(state == 5)[0]))
    rng, trace = random.Random(0), []
    taken, turn, started = 0, 0, time.process_time()
    while taken < steps:
        fixed, state, player = rooms[turn % len(rooms)]
        env.room_fixed, env.room_state, env.player_position = fixed, state.copy(), player
        env.num_env_steps, env.boxes_on_target, env.reward_last = 0, 0, 0
        env.box_mapping = {}
        turn, done = turn + 1, False
        while not done and taken < steps:
            _, reward, done, _ = env.step(1 + DIRECTIONS.index(rng.choice(DIRECTIONS)), "tiny_rgb_array")
            trace.append((float(reward), bool(done), _text(env.room_state, env.room_fixed)))
            taken += 1
    return time.process_time() - started, trace


def _text(state: object, fixed: object) -> str:
    rows = zip(state.tolist(), fixed.tolist(), strict=True)  # type: ignore[attr-defined]
    return "\n".join(
        "".join(f" {'S' if now == 5 and under == 2 else _CODES[now]} \t" for now, under in zip(row, below, strict=True))
        for row, below in rows
    )


def agree(one: Trace, other: Trace) -> bool:
    """Whether two traces show the same rewards, ends and rooms."""
    return len(one) == len(other) and all(
        abs(a[0] - b[0]) < 1e-9 and a[1:] == b[1:] for a, b in zip(one, other, strict=True)
    )


def seconds_each(call: Callable[[Level], object], levels: list[Level]) -> float:
    """Mean seconds of a call per level."""
    started = time.process_time()
    for level in levels:
        call(level)
    return (time.process_time() - started) / len(levels)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--levels", type=int, default=1_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    sizes = Sizes(6, 1, 30, 10_000)
    tasks = tasks_with(sizes).tasks_of("train")[: args.levels]
    started = time.process_time()
    levels = [level_of(sizes, task) for task in tasks]
    found: dict[str, float | bool] = {
        "ms per level": 1e3 * (time.process_time() - started) / len(levels),
        "ms per level, all distances": 1e3 * seconds_each(lambda level: distances(level.board), levels),
    }
    spent, trace = ours(tasks, args.steps)
    found["steps/s"] = args.steps / spent
    other = theirs(levels, args.steps)
    if other is not None:
        found["steps/s of gym-sokoban"] = args.steps / other[0]
        found["same rewards, ends and rooms"] = agree(trace, other[1])
    if args.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:32}{value if isinstance(value, bool) else f'{value:,.2f}'}")


if __name__ == "__main__":
    main()
