"""Expert iteration: every round starts SFT anew, from one start, on all that was won in any round so far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import stapo


def main(
    out: str = "runs/expert-iteration",
    rounds: int = 3,
    tasks: int = 128,
    k: int = 8,
    steps: int = 1000,
    **overrides: Any,
) -> stapo.Run:
    """Train the start, then round after round; returns the last run."""
    folder = Path(out)
    begin = stapo.load_config("tiny", **{"optim.iterations": 0, **overrides})
    start = run = stapo.train(begin, folder / "start")
    files: list[Path] = []
    for number in range(1, rounds + 1):
        files.append(folder / f"won-{number}.jsonl")
        if not files[-1].exists():
            stapo.evaluate(run, split="train", episodes=tasks, k=k, seeds=[number], record=files[-1], won=True)
        # Files of records can be put behind each other; each keeps its header.
        together = folder / f"all-{number}.jsonl"
        together.write_text("".join(file.read_text(encoding="utf-8") for file in files), encoding="utf-8")
        learn = {"data": str(together), "steps": steps, "curriculum": 0.0, "learning_rate": 1e-3}
        model = {"path": str(start.path / "checkpoints" / "final")}
        run = stapo.train(stapo.load_config(begin, model=model, sft=learn), folder / f"round-{number}")
        print(
            f"round {number}: success {next(r for r in reversed(run.evals) if r['mode'] == 'sampled')['success']:.3f}"
        )
    return run


if __name__ == "__main__":
    main()
