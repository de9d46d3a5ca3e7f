"""SFT from a file: write what a demonstrator, or a teacher, does into a file, then learn from the file alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import stapo


def main(out: str = "runs/sft-from-file", **overrides: Any) -> stapo.Run:
    """Record, learn, evaluate."""
    config = stapo.load_config("tiny", **{"optim.iterations": 0, **overrides})
    file = Path(f"{out}-demonstrations.jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        # A teacher behind a server: stapo.evaluate(stapo.Endpoint(...), config=config, split="train", record=file)
        print(f"{stapo.export(config, file, demonstrations=True):,} demonstrations in {file}")
    run = stapo.train(stapo.load_config(config, sft={"data": str(file)}), out)
    print(f"success after SFT from the file: {stapo.evaluate(run, episodes=4, seeds=[0]).success:.2f}")
    return run


if __name__ == "__main__":
    main()
