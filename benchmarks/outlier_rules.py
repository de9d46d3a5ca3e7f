"""Which rule finds steps of neglect, where it is known which they are: simulated step entropies.

    python benchmarks/outlier_rules.py [--seeds 10] [--share 0.03] [--raise 0.3] [--pool 48] [--json FILE]

Tasks have states with their own usual entropies, and N attempts at a task visit them about as often as those of small
agents do on generated ALFWorld games, 11 steps each. A share of the steps is neglect: its entropy is raised. Usual
entropies drift, and of the tasks in the pool 32 are played per iteration: with 48 each comes back soon, with thousands
never.

Columns, over the later half of the iterations, mean and standard deviation over seeds:
  AUC        chance that a step of neglect scores above another step
  top        share of neglect among as many top scores as there are steps of neglect
  flagged    share of rows beyond the fences; precision and recall of these flags; F1 of the two
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from stapo.algo import OutlierConfig, select_outliers

RULES = ("normalized", "shannon", "leave-one-out", "median-mad", "shrunken", "running")
ATTEMPTS = (4, 5, 8, 16)
STEPS, STATES, TASKS, ITERATIONS = 11, 30, 32, 12
MEASURES = ("AUC", "top", "flagged", "precision", "recall", "F1")


class SimulatedTasks:
    """Tasks whose states have a usual entropy each, and a popularity."""

    def __init__(self, rng: np.random.Generator, pool: int) -> None:
        self.rng = rng
        # What small agents show: two thirds of the states leave a choice, the others hardly any.
        certain = rng.random((pool, STATES)) < 0.35
        self.usual = np.where(certain, rng.lognormal(-3.3, 0.6, (pool, STATES)), rng.normal(0.5, 0.12, (pool, STATES)))
        self.usual = np.maximum(self.usual, 0.005)
        popularity = (1.0 + np.arange(STATES)) ** -0.8
        self.popularity = popularity / popularity.sum()

    def rollout(self, attempts: int, share: float, rise: float) -> tuple[np.ndarray, ...]:
        """One iteration: entropies, anchor ids, state names, and which steps are neglect."""
        self.usual *= self.rng.lognormal(-0.02, 0.05, self.usual.shape)
        tasks = np.repeat(self.rng.permutation(len(self.usual))[:TASKS], attempts * STEPS)
        state = self.rng.choice(STATES, size=len(tasks), p=self.popularity)
        state[::STEPS] = 0  # all attempts begin in the same state
        entropy = self.usual[tasks, state] * self.rng.lognormal(0.0, 0.15, len(tasks))
        neglect = self.rng.random(len(tasks)) < share
        entropy = entropy + neglect * rise * self.rng.uniform(0.5, 1.5, len(tasks))
        return entropy, tasks * STATES + state, tasks * STATES + state, neglect


def area(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half."""
    _, code, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[code]
    p, n = int(positive.sum()), int((~positive).sum())
    return float((rank[positive].sum() - p * (p + 1) / 2) / (p * n))


def measure(score: np.ndarray, flagged: np.ndarray, neglect: np.ndarray) -> dict[str, float]:
    """All columns for one iteration."""
    hits = int((flagged & neglect).sum())
    precision, recall = hits / max(1, int(flagged.sum())), hits / int(neglect.sum())
    top = np.argsort(-score, kind="stable")[: int(neglect.sum())]
    return {
        "AUC": area(score, neglect),
        "top": float(neglect[top].mean()),
        "flagged": float(flagged.mean()),
        "precision": precision,
        "recall": recall,
        "F1": 2 * precision * recall / max(precision + recall, 1e-9),
    }


def simulate(attempts: int, seed: int, share: float, rise: float, pool: int) -> dict[str, dict[str, float]]:
    """Rule -> mean of each measure over the later half of the iterations of one seed."""
    world = SimulatedTasks(np.random.default_rng([seed, attempts]), pool)
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    states = None
    for iteration in range(ITERATIONS):
        entropy, anchor, state, neglect = world.rollout(attempts, share, rise)
        for rule in RULES:
            out = select_outliers(
                entropy, anchor, None, OutlierConfig(metric=rule, sides="high"),
                state_b=[str(s) for s in state], states=states if rule == "running" else None,
            )  # fmt: skip
            states = out.states or states
            if iteration >= ITERATIONS // 2:
                found[rule].append(measure(out.normalized_b, out.mask_b, neglect))
    return {rule: {m: float(np.mean([row[m] for row in rows])) for m in MEASURES} for rule, rows in found.items()}


def main() -> None:
    """Print a table per number of attempts, and the best rule of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.03, help="share of steps that are neglect")
    parser.add_argument("--raise", type=float, default=0.3, dest="rise", help="mean rise of their entropy, nats")
    parser.add_argument("--pool", type=int, default=48, help="tasks that there are, at least 32")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    args = parser.parse_args()
    report: dict[int, dict[str, dict[str, tuple[float, float]]]] = {}
    print(
        f"{args.share:.1%} of the steps raised by {args.rise:g} nats on average; {args.pool} tasks; {args.seeds} seeds"
    )
    for attempts in ATTEMPTS:
        runs = [simulate(attempts, seed, args.share, args.rise, args.pool) for seed in range(args.seeds)]
        table = {
            rule: {
                m: (float(np.mean([r[rule][m] for r in runs])), float(np.std([r[rule][m] for r in runs])))
                for m in MEASURES
            }
            for rule in RULES
        }
        report[attempts] = table
        print(f"\nN = {attempts}\n{'':16}" + "".join(f"{m:>15}" for m in MEASURES))
        for rule, row in table.items():
            print(f"  {rule:14}" + "".join(f"{mean:8.3f} ± {spread:.3f}" for mean, spread in row.values()))
        best = {m: max(RULES, key=lambda rule, m=m: table[rule][m][0]) for m in ("AUC", "top", "F1")}
        print("  best: " + ", ".join(f"{rule} by {m}" for m, rule in best.items()))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
