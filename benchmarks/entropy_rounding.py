"""How far the entropy of a step moves with the rows that are read beside it, by dtype.

    python benchmarks/entropy_rounding.py [MODEL [BATCHES]]

A response and its prompt are fixed, so its entropy H (eq. 1) is one number. What differs is rounding: sums depend on
the shapes that a batch is padded to. Printed are, for each dtype, the largest standard deviation of H over batches
among rows, and the largest distance from a mean, in nats. `stapo.algo.config.ROUNDING` has to be above the former in
bfloat16, and `outlier.eps` above it in float32. Without MODEL a model of 0.2 M weights is built.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch

from stapo.algo import get_algorithm, step_entropy
from stapo.errors import StapoError
from stapo.policy import ModelConfig, RowTokens, load_policy
from stapo.policy.model import build_policy
from stapo.training.scoring import Scorer

ROWS = 24


def rows_of(vocabulary: int) -> list[RowTokens]:
    """Rows of different lengths: prompts of 20 to 400 tokens, responses of 4 to 60."""
    rng = np.random.default_rng(0)
    return [
        RowTokens(
            rng.integers(3, vocabulary, rng.integers(20, 400)).tolist(), rng.integers(3, vocabulary, size).tolist()
        )
        for size in rng.integers(4, 60, ROWS)
    ]


def measure(path: str | None, dtype: str, batches: int) -> tuple[float, float]:
    """Largest standard deviation and largest distance from the mean over rows."""
    config = ModelConfig(path=path, dtype=dtype, device="cpu", hidden_size=64, layers=2, heads=2, intermediate_size=256)
    policy = load_policy(path, config) if path else build_policy(config, [f"look {i}" for i in range(400)], 512, 0)
    scorer = Scorer(policy, None, get_algorithm("gigpo"), 1.0)
    rows, rng = rows_of(policy.model.config.vocab_size), np.random.default_rng(1)
    found: list[list[float]] = [[] for _ in rows]
    policy.model.eval()
    for _ in range(batches):
        part = rng.permutation(ROWS)[: rng.integers(1, ROWS)].tolist()
        with torch.no_grad():
            scored = scorer.score(policy.model, [rows[i] for i in part])
        assert scored.entropy_bl is not None
        for i, value in zip(
            part, step_entropy(scored.entropy_bl.numpy(), scored.mask_bl.numpy())[0].tolist(), strict=True
        ):
            found[i].append(value)
    spread = [np.array(values) for values in found if len(values) > 2]
    return max(v.std(ddof=1) for v in spread), max(abs(v - v.mean()).max() for v in spread)


def main() -> None:
    """Print a line for each dtype."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="folder of a model; without it a small one is built")
    parser.add_argument("batches", nargs="?", type=int, default=40)
    args = parser.parse_args()
    for dtype in ("float32", "bfloat16"):
        std, most = measure(args.model, dtype, args.batches)
        print(f"{dtype}: standard deviation up to {std:.2g} nats, distance from the mean up to {most:.2g}")


if __name__ == "__main__":
    try:
        main()
    except StapoError as err:
        sys.exit(f"error: {err}")
