"""Time of the per-iteration arithmetic on one core, at 10,240 rows (128 tasks x 8 x 10 steps).

    python benchmarks/algo_speed.py [--repeats 7]

The limits are promises: 30 ms for exact grouping, advantages and flags together, 50 ms for the advantages of any
method of credit, 0.5 s for grouping by similarity. Exit status 1 says that one is broken.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from stapo.algo import (
    ALGORITHM_FAMILIES,
    LossDenominators,
    base_loss,
    compute_advantages,
    exact_groups,
    flagged_scores,
    get_algorithm,
    select_outliers,
    similarity_groups,
    step_entropy,
)

TASKS, GROUP, STEPS, DISTINCT, CHARACTERS = 128, 8, 10, 40, 380
ROWS = TASKS * GROUP * STEPS


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Median processor time of `call` in milliseconds; other jobs may share the machine."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(1e3 * (time.process_time() - start))
    return statistics.median(times)


def texts(rng: random.Random, group_b: np.ndarray, changed: float | None) -> list[str]:
    """Observations: unrelated ones, or (with `changed`) variants of one page per task."""
    letters = "abcdefghijklmnopqrstuvwxyz    "
    pages: dict[int, list[str]] = {}
    for task in range(TASKS):
        page = rng.choices(letters, k=CHARACTERS)
        made = []
        for _ in range(DISTINCT):
            if changed is None:
                made.append("".join(rng.choices(letters, k=CHARACTERS)))
            else:
                other = (rng.choice(letters) if rng.random() < changed else c for c in page)
                made.append("".join(other))
        pages[task] = made
    return [rng.choice(pages[int(task)]) for task in group_b]


def main() -> None:
    """Print one line per part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    rng, pyrng = np.random.default_rng(0), random.Random(0)
    config = get_algorithm("stapo")
    group = np.repeat(np.arange(TASKS), GROUP * STEPS)
    traj = np.repeat(np.arange(TASKS * GROUP), STEPS)
    step = np.tile(np.arange(STEPS), TASKS * GROUP)
    reward, valid = (rng.random(ROWS) < 0.05) * 10.0, rng.random(ROWS) < 0.9
    weight, entropy = np.ones(ROWS), rng.gamma(2, 0.3, ROWS)
    far, near = texts(pyrng, group, None), texts(pyrng, group, 0.12)
    anchor = exact_groups(group, far)
    tokens, mask = rng.random((ROWS, 64)).astype(np.float32), np.ones((ROWS, 64), np.int8)

    def advantages() -> object:
        return compute_advantages(reward, valid, group, traj, step, anchor, weight, config.advantage)

    def outliers() -> object:
        return select_outliers(entropy, anchor, weight, config.outlier)

    def everything() -> None:
        exact_groups(group, far)
        advantages()
        outliers()

    timings = {
        f"exact grouping, {CHARACTERS}-character keys": lambda: exact_groups(group, far),
        "returns and both advantages": advantages,
        "outlier mask": outliers,
        "the three together": everything,
        "step entropy over 64 tokens": lambda: step_entropy(tokens, mask),
        "similarity grouping, unrelated texts": lambda: similarity_groups(group, far, 0.9),
        "similarity grouping, near the threshold": lambda: similarity_groups(group, near, 0.9),
    }
    for algorithm in (get_algorithm("hgpo"), *ALGORITHM_FAMILIES["credit assignment"]):
        timings[f"advantages of {algorithm.name}"] = partial(
            compute_advantages, reward, valid, group, traj, step, anchor, weight, algorithm.advantage
        )
    limits = {"the three together": 30.0} | {k: 50.0 for k in timings if k.startswith("advantages of")}
    limits |= {k: 500.0 for k in timings if "similarity" in k}
    broken = []
    print(f"{ROWS} rows, median CPU time of {repeats}")
    for name, call in timings.items():
        spent = milliseconds(call, repeats)
        limit = limits.get(name)
        print(f"  {name:<40} {spent:8.2f} ms" + (f"  (limit {limit:g})" if limit else ""))
        if limit and spent > limit:
            broken.append(name)

    rows, length, hidden, vocabulary = 256, 16, 64, 128
    logp = torch.randn(rows, length).requires_grad_()
    ones = torch.ones(rows, length)
    divisors = LossDenominators.of(ones)

    def update() -> None:
        base_loss(
            logp,
            logp.detach(),
            torch.randn(rows),
            ones,
            config.loss,
            divisors,
            ref_logp_bl=logp.detach(),
        ).loss.backward()

    p, q, w = (torch.randn(n, hidden).requires_grad_() for n in (320, 320, vocabulary))
    targets = torch.randint(vocabulary, (320,))

    def head() -> None:
        flagged_scores(p, q, w, targets, hidden_r_nh=q.detach()).kl_pq_n.sum().backward()

    print(f"  base loss and backward, {rows} x {length:<17} {milliseconds(update, 20):8.2f} ms")
    print(f"  flagged head and backward, 320 x {vocabulary:<11} {milliseconds(head, 20):8.2f} ms")
    if broken:
        sys.exit(f"over the limit: {', '.join(broken)}")


if __name__ == "__main__":
    main()
