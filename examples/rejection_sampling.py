"""Rejection sampling beside RL, from one start: play, keep what was won, learn from it, and again.

Each round goes on from the policy of the last one and learns from what that policy has won. The RL run plays as many
episodes in as many iterations. Printed are success on held-out tasks and seconds of both.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import stapo


def main(
    out: str = "runs/rejection-sampling",
    rounds: int = 3,
    tasks: int = 128,
    k: int = 8,
    steps: int = 200,
    **overrides: Any,
) -> stapo.Run:
    """Train the start, then both ways; returns the last run of rejection sampling."""
    folder = Path(out)
    begin = stapo.load_config("tiny", **overrides)
    start = stapo.train(stapo.load_config(begin, optim={"iterations": 0}), folder / "start")
    report(start, "start", time.perf_counter())

    began, run = time.perf_counter(), start
    for number in range(1, rounds + 1):
        won = folder / f"won-{number}.jsonl"
        if not won.exists():
            stapo.evaluate(run, split="train", episodes=tasks, k=k, seeds=[number], record=won, won=True)
        learn = {"data": str(won), "steps": steps, "curriculum": 0.0, "learning_rate": 5e-4}
        model = {"path": str(run.path / "checkpoints" / "final")}
        config = stapo.load_config(begin, model=model, sft=learn, optim={"iterations": 0}, eval={"at_start": False})
        run = stapo.train(config, folder / f"round-{number}")
        report(run, f"round {number}", began)

    began = time.perf_counter()
    model = {"path": str(start.path / "checkpoints" / "final")}
    config = stapo.load_config(
        begin,
        model=model,
        sft={"steps": 0},
        rollout={"groups": tasks, "group_size": k},
        # Three iterations are too few to warm up or to decay.
        optim={"iterations": rounds, "warmup_iterations": 0, "schedule": "constant"},
        eval={"at_start": False},
    )
    report(stapo.train(config, folder / "rl"), f"RL, {rounds} iterations", began)
    return run


def report(run: stapo.Run, name: str, began: float) -> None:
    """Print how good a policy is; its evaluation at the end has the same tasks for all."""
    row = next(r for r in reversed(run.evals) if r["mode"] == "sampled")
    seconds = time.perf_counter() - began
    print(f"{name}: success {row['success']:.3f} ± {row['success_standard_error']:.3f}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
