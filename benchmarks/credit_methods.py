"""What methods of credit say of the same steps: advantages of a diagnosis' episodes, against the environment's judge.

    stapo diagnose RUN --out DIR
    python benchmarks/credit_methods.py DIR/final/steps.jsonl [--discount 0.95]

Columns, for the total advantage of each method:
  AUC          chance that a step that the judge calls bad has a lower advantage than another step
  in failed    the same among the steps of failed episodes
  in groups    the same with the mean of the anchor group taken off, in groups of two and more
  credited     share of steps with a step advantage
  apart        share of the failed steps of anchor groups with several of them that have not all the same advantage
  failed mass  share of the sum of absolute advantages that failed episodes have
  like gigpo   correlation with GiGPO's advantage
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from outlier_rules import area
from stapo.algo import ALGORITHM_FAMILIES, compute_advantages, get_algorithm, group_statistics

COLUMNS = ("AUC", "in failed", "in groups", "credited", "apart", "failed mass", "like gigpo")
METHODS = ("grpo", "gigpo", "hgpo", *(preset.name for preset in ALGORITHM_FAMILIES["credit assignment"]))


def advantages(steps: list[dict], name: str, discount: float) -> tuple[np.ndarray, np.ndarray]:
    """Total and step advantages of the rows of a diagnosis, with reward 10 for success."""
    traj = [f"{row['group']} {row['member']}" for row in steps]
    number = np.array([row["step"] for row in steps])
    last = {j: max(number[b] for b in range(len(steps)) if traj[b] == j) for j in set(traj)}
    reward = [10.0 * (row["won"] and row["step"] == last[j]) for row, j in zip(steps, traj, strict=True)]
    config = replace(get_algorithm(name).advantage, discount=discount)
    found = compute_advantages(
        reward, [row["valid"] for row in steps], [row["group"] for row in steps], np.array(traj), number,
        [row["anchor_group"] for row in steps], None, config, success_b=[row["won"] for row in steps],
    )  # fmt: skip
    return found.total_b.astype(np.float64), found.step_b


def measure(total: np.ndarray, step: np.ndarray, gigpo: np.ndarray, steps: list[dict]) -> list[float]:
    """One row of the table."""
    judged = np.array([row["faults"] is not None for row in steps])
    bad = np.array([bool(row["faults"]) for row in steps])
    failed = np.array([not row["won"] for row in steps])
    group = np.array([row["anchor_group"] for row in steps])
    shared = group_statistics(total, group)
    lost = group_statistics(total, group, weight_b=failed)
    compared = failed & (lost.size_b > 1)

    def auc(score: np.ndarray, of: np.ndarray) -> float:
        return area(-score[of], bad[of]) if bad[of].any() and not bad[of].all() else float("nan")

    return [
        auc(total, judged),
        auc(total, judged & failed),
        auc(total - shared.mean_b, judged & (shared.size_b > 1)),
        float((step != 0).mean()),
        float((lost.std_b[compared] > 1e-6).mean()) if compared.any() else float("nan"),
        float(np.abs(total[failed]).sum() / max(np.abs(total).sum(), 1e-9)),
        float(np.corrcoef(total, gigpo)[0, 1]),
    ]


def main() -> None:
    """Print one line per method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", type=Path, help="steps.jsonl of a diagnosis")
    parser.add_argument("--discount", type=float, default=0.95)
    args = parser.parse_args()
    steps = [json.loads(line) for line in args.steps.read_text().splitlines()]
    episodes = {(row["group"], row["member"]): row["won"] for row in steps}
    bad = np.mean([bool(row["faults"]) for row in steps])
    print(
        f"{len(steps)} steps of {len(episodes)} episodes, {np.mean(list(episodes.values())):.2f} solved, {bad:.2f} of "
        f"the steps bad\n{'':10}" + "".join(f"{c:>12}" for c in COLUMNS)
    )
    gigpo, _ = advantages(steps, "gigpo", args.discount)
    for name in METHODS:
        row = measure(*advantages(steps, name, args.discount), gigpo, steps)
        print(f"{name:10}" + "".join(f"{value:12.3f}" for value in row))


if __name__ == "__main__":
    main()
