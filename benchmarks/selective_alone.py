"""What the selective terms alone do to a policy: R_TA raised on one fixed batch, success before and after.

    python benchmarks/selective_alone.py RUN [CHECKPOINT [TASKS [GROUP [EPISODES]]]]

The policy plays tasks of the training split; steps are flagged by eq. 2 and 3. Then, for each reading of the terms and
from the same weights, 20 optimizer steps follow the selective loss alone on these steps (alpha = gamma = 1, learning
rate 3e-4, advantages of 0). Printed are R_TA on the flagged steps, success on held-out tasks with its standard error,
and the share of invalid actions. The reference is the policy before.
"""

from __future__ import annotations

import argparse
import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stapo.algo import AlgorithmConfig, SelectiveConfig, get_algorithm
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data
from stapo.config.training import OptimConfig
from stapo.errors import StapoError
from stapo.policy import Policy, load_policy
from stapo.rollout.evaluate import EvalProtocol, evaluate, pick_tasks, summarize
from stapo.run import RunDirectory
from stapo.training.batch import RowBatch, build_batch
from stapo.training.loop import build_collector
from stapo.training.scoring import Scorer
from stapo.training.update import Updater

STEPS, RATE = 20, 3e-4
READINGS: dict[str, dict[str, Any]] = {
    "before": {"alpha": 0.0, "gamma": 0.0},
    "as written": {},
    "without the penalty": {"gamma": 0.0},
    "capped at 0.5": {"bound": "cap", "bound_at": 0.5},
    "reference + 0.2": {"bound": "target", "bound_at": 0.2},
    "Jensen-Shannon": {"bound": "js"},
    "reference's support": {"support": "reference"},
    "k3": {"kl_estimator": "k3"},
    "k2k1": {"kl_estimator": "k2k1"},
}


def main() -> None:
    """Play, train by each reading, evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("checkpoint", nargs="?", default="start")
    parser.add_argument("tasks", nargs="?", type=int, default=24, help="tasks of the training split")
    parser.add_argument("group", nargs="?", type=int, default=12, help="episodes of each")
    parser.add_argument("episodes", nargs="?", type=int, default=200, help="held-out episodes for each reading")
    args = parser.parse_args()
    run, tasks, group, episodes = RunDirectory.open(args.run), args.tasks, args.group, args.episodes
    config = from_data(RunConfig, run.config())
    start = load_policy(str(run.checkpoint(args.checkpoint)), config.model)
    collector = build_collector(config, start, clock=run.started)
    chosen = pick_tasks(collector.tasks_of(config.env.split), tasks)
    batch = build_batch(collector.collect(chosen, group, 1.0, (config.seed, 31)), get_algorithm("stapo"))
    collector.close()
    total_b = np.zeros_like(batch.advantages.total_b)
    batch = replace(batch, advantages=replace(batch.advantages, total_b=total_b))
    print(f"{len(batch)} steps, {int(batch.flag_b.sum())} flagged; {episodes} held-out episodes")
    print("| reading | R_TA | success | invalid |\n|---|---|---|---|")
    for name, changes in READINGS.items():
        policy = replace(start, model=copy.deepcopy(start.model))
        selective = SelectiveConfig(**{"alpha": 1.0, "gamma": 1.0, **changes})
        if selective.alpha:
            train(policy, start, batch, selective, config)
        played = collector_of(policy, config, run)
        print(f"| {name} | {awareness(policy, batch):.2f} | {played(episodes)} |", flush=True)


def algorithm_of(selective: SelectiveConfig) -> AlgorithmConfig:
    """STAPO without the term that holds the policy to the reference."""
    stapo = get_algorithm("stapo")
    return replace(stapo, selective=selective, loss=replace(stapo.loss, beta=0.0))


def train(policy: Policy, start: Policy, batch: RowBatch, selective: SelectiveConfig, config: RunConfig) -> None:
    """Follow the selective loss of the flagged steps."""
    optim = OptimConfig(mini_batch=10**9, micro_tokens=config.optim.micro_tokens, grad_clip=1.0)
    updater = Updater(policy, start.model, algorithm_of(selective), optim, 1.0)
    for step in range(STEPS):
        updater.update(batch, RATE, seed=(0, 2, step), measure_ratio=False)


def awareness(policy: Policy, batch: RowBatch) -> float:
    """Mean R_TA of the flagged steps."""
    scorer = Scorer(policy, None, algorithm_of(SelectiveConfig(gamma=0.0)), 1.0)
    return float(scorer.awareness(batch, np.flatnonzero(batch.flag_b).tolist(), 8192).mean())


def collector_of(policy: Policy, config: RunConfig, run: RunDirectory) -> Any:
    """A function that plays held-out episodes and says how it went."""

    def played(episodes: int) -> str:
        collector = build_collector(config, policy, clock=run.started)
        protocol = EvalProtocol(config.eval.split, episodes, 1.0, (0,))
        found = summarize(evaluate(collector, collector.tasks_of(config.eval.split), protocol))
        collector.close()
        return f"{found['success']:.3f} ± {found['success_standard_error']:.3f} | {1 - found['valid_actions']:.2f}"

    return played


if __name__ == "__main__":
    try:
        main()
    except StapoError as err:
        sys.exit(f"error: {err}")
