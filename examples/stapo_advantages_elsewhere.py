"""Use STAPO's advantages and flags in another trainer: pure functions of arrays; nothing is trained here."""

from __future__ import annotations

from typing import Any

import numpy as np

import stapo

# One row per step, as any trainer has them: a task with two attempts of two steps each, and another task.
ROWS: list[dict[str, Any]] = [
    {"task": "a", "episode": 0, "step": 0, "state": "hall", "reward": 0.0, "entropies": [0.2, 0.4]},
    {"task": "a", "episode": 0, "step": 1, "state": "desk", "reward": 1.0, "entropies": [0.1]},
    {"task": "a", "episode": 1, "step": 0, "state": "hall", "reward": 0.0, "entropies": [2.0, 1.0, 3.0]},
    {"task": "a", "episode": 1, "step": 1, "state": "hall", "reward": 0.0, "entropies": [0.3]},
    {"task": "b", "episode": 2, "step": 0, "state": "shop", "reward": 0.0, "entropies": [0.5]},
    {"task": "b", "episode": 3, "step": 0, "state": "shop", "reward": 1.0, "entropies": [0.4]},
]


def annotate(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with `advantage`, `normalized_entropy` and `flagged`."""
    algorithm = stapo.algo.get_algorithm("stapo")
    tasks = sorted({row["task"] for row in rows})
    group_b = np.array([tasks.index(row["task"]) for row in rows])
    episode_b = np.array([row["episode"] for row in rows])
    step_b = np.array([row["step"] for row in rows])
    reward_b = np.array([row["reward"] for row in rows])
    entropy_b = np.array([np.mean(row["entropies"]) for row in rows])
    all_b, weight_b = np.ones(len(rows), dtype=bool), np.ones(len(rows))
    anchor_b = stapo.algo.anchor_groups(group_b, [row["state"] for row in rows], algorithm.advantage)
    advantages = stapo.algo.compute_advantages(
        reward_b, all_b, group_b, episode_b, step_b, anchor_b, weight_b, algorithm.advantage
    )
    outliers = stapo.algo.select_outliers(entropy_b, anchor_b, all_b, algorithm.outlier)
    return [
        {
            **row,
            "advantage": float(advantages.total_b[b]),
            "normalized_entropy": float(outliers.normalized_b[b]),
            "flagged": bool(outliers.mask_b[b]),
        }
        for b, row in enumerate(rows)
    ]


def main() -> list[dict[str, Any]]:
    """Print the rows."""
    rows = annotate(ROWS)
    for row in rows:
        print(f"task {row['task']} episode {row['episode']} step {row['step']}: advantage {row['advantage']:+.3f}")
    return rows


if __name__ == "__main__":
    main()
