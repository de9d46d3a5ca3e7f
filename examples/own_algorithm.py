"""Train by your own algorithm: a preset whose advantage of the episode is a function of yours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import stapo


@stapo.register_advantage_estimator("median")
def above_median(rows: stapo.algo.CreditRows, config: Any, critic: Any, /) -> np.ndarray:
    """(B,) the return of each episode less the median return of its task group: one lucky episode moves it little."""
    total_b = stapo.algo.episode_returns(rows.reward_b, rows.traj_b)
    advantage_b = np.zeros_like(total_b)
    for group in np.unique(rows.group_b[rows.real_b]):
        here_b = rows.real_b & (rows.group_b == group)
        _, first = np.unique(rows.traj_b[here_b], return_index=True)
        advantage_b[here_b] = total_b[here_b] - np.median(total_b[here_b][first])
    return advantage_b


def main(out: str = "runs/own-algorithm", **overrides: Any) -> stapo.Run:
    """Register the algorithm and train by it."""
    grpo = stapo.algo.get_algorithm("grpo")
    stapo.register_algorithm(
        replace(
            grpo,
            name="grpo-median",
            description="GRPO with the median as baseline.",
            advantage=replace(grpo.advantage, episode="median", advantage_norm="none"),
        )
    )
    run = stapo.train(stapo.load_config("tiny", algorithm="grpo-median", **overrides), out)
    print(run, [round(row["success"], 2) for row in run.metrics])
    return run


if __name__ == "__main__":
    main()
