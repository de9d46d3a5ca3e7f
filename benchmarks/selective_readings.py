"""Which steps the readings of eq. 2 and 3 flag on one set of episodes, and whether these steps are bad.

    python benchmarks/selective_readings.py RUN [CHECKPOINT [TASKS [GROUP [FAULTS]]]]

Nothing is trained. The policy of a checkpoint plays tasks of the training split, and the environment's judge says which
steps were bad: those with any fault, or with one of FAULTS (such as revisit,repeated,invalid). Printed are the area
under the ROC curve of bad steps for the entropy H over all steps, and inside anchor groups (the chance that a bad step
has more entropy than a good one of its own group), whether eq. 2 can work on this task (inside groups high entropy
finds bad steps: the interval of the area is above .6), the area of H minus the mean of its group, the divergence of
full and blind prompt on bad and on good steps, and for each reading the share of steps flagged, how many on either
side, and how much more often flagged steps are bad than others, and how much lower their step advantage is. Intervals:
95 %, bootstrap over tasks.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stapo.algo import OutlierConfig, get_algorithm, select_outliers
from stapo.algo.groups import group_statistics
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data
from stapo.diagnosis.judging import judge_steps
from stapo.diagnosis.ranking import (
    Estimate,
    auc_inside_replicates,
    auc_replicates,
    estimate,
    mean_replicates,
    resamples,
)
from stapo.diagnosis.scoring import attribute
from stapo.errors import StapoError
from stapo.policy import load_policy
from stapo.rollout.evaluate import pick_tasks
from stapo.run import RunDirectory
from stapo.training.batch import build_batch
from stapo.training.factories import env_factory
from stapo.training.loop import build_collector

READINGS: dict[str, dict[str, Any]] = {
    "eq. 2 and 3": {},
    "min_std .01": {"min_std": 0.01},
    "min_std .05": {"min_std": 0.05},
    "min_std .05, high side": {"min_std": 0.05, "sides": "high"},
    "singletons at 0": {"singleton": "zero"},
    "singletons left out": {"singleton": "exclude"},
    "both, min_std .05": {"singleton": "exclude", "min_std": 0.05},
    "plain entropy": {"metric": "shannon"},
    "leave-one-out": {"metric": "leave-one-out"},
    "median-mad": {"metric": "median-mad"},
}

CONDITION = 0.6


def main() -> None:
    """Play, judge and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("checkpoint", nargs="?", default="start")
    parser.add_argument("tasks", nargs="?", type=int, default=48, help="tasks of the training split")
    parser.add_argument("group", nargs="?", type=int, default=8, help="episodes of each")
    parser.add_argument("faults", nargs="?", help="faults that count as bad, with commas; all without it")
    args = parser.parse_args()
    run, tasks, group = RunDirectory.open(args.run), args.tasks, args.group
    config = from_data(RunConfig, run.config())
    config = replace(config, algorithm=get_algorithm("stapo"))
    policy = load_policy(str(run.checkpoint(args.checkpoint)), config.model)
    collector = build_collector(config, policy, clock=run.started)
    collector.masks = ("goal", "history")
    chosen = pick_tasks(collector.tasks_of(config.env.split), tasks)
    played = collector.collect(chosen, group, config.rollout.temperature, (config.seed, 31))
    collector.close()
    batch = build_batch(played, config.algorithm)
    faults = [found for each in judge_steps(env_factory(config), played).faults for found in each]
    wanted = None if args.faults is None else set(args.faults.split(","))
    bad = np.array([bool(found if wanted is None else wanted & (found or frozenset())) for found in faults])
    known = np.isfinite(batch.entropy_b) & np.array([found is not None for found in faults])
    kl_b = attribute(policy, batch.steps, config.rollout.temperature, config.optim.micro_tokens).kl_b
    stats = group_statistics(np.where(known, batch.entropy_b, 0.0), batch.anchor_b, weight_b=known)
    compared = known & (stats.size_b > 1)
    drawn = resamples(tasks, 1000, 0)

    def area(score_b: np.ndarray, rows: np.ndarray) -> Estimate:
        return estimate(*auc_replicates(score_b[rows], bad[rows], batch.group_b[rows], drawn))

    def difference(value_b: np.ndarray, rows: np.ndarray) -> str:
        if not (rows & known).any():
            return "-"
        (one, ones), (two, twos) = (
            mean_replicates(value_b, r, batch.group_b, drawn) for r in (rows & known, known & ~rows)
        )
        return _with(estimate(one - two, ones - twos))

    rows = [each[known] for each in (batch.entropy_b, bad, batch.anchor_b, batch.group_b)]
    inside = estimate(*auc_inside_replicates(*rows, drawn))
    centered = area(batch.entropy_b - stats.mean_b, compared)
    close = (stats.std_b[compared] < 0.01).mean()
    print(
        f"{len(played)} episodes of {tasks} tasks, {len(batch)} steps, success {np.mean([t.won for t in played]):.3f}"
    )
    print(f"tokens a response: {np.mean([len(s.response_ids) for s in batch.steps]):.1f}")
    print(f"bad steps: {bad[known].mean():.3f}")
    print(f"area of bad steps: H {_with(area(batch.entropy_b, known))}, inside groups {_with(inside)}")
    print(f"condition, inside groups above {CONDITION}: {'met' if inside.low > CONDITION else 'not met'}")
    print(f"area of H minus the mean of its group: {_with(centered)}")
    print(f"KL full to blind: bad {np.nanmean(kl_b[bad & known]):.3f}, good {np.nanmean(kl_b[~bad & known]):.3f}")
    print(f"std(H) of a row's group: median {np.median(stats.std_b[compared]):.3f}; below .01: {close:.2f}")
    print("| reading | flagged | high : low | bad, minus others | A_S, minus others |\n|---|---|---|---|---|")
    for name, changes in READINGS.items():
        out = select_outliers(batch.entropy_b, batch.anchor_b, known, replace(OutlierConfig(), **changes))
        found = (difference(np.asarray(v, np.float64), out.mask_b) for v in (bad, batch.advantages.step_b))
        sides = f"{int(out.high_b.sum())} : {int(out.low_b.sum())}"
        print(f"| {name} | {out.flagged / max(1, known.sum()):.1%} | {sides} | {' | '.join(found)} |")


def _with(found: Estimate) -> str:
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


if __name__ == "__main__":
    try:
        main()
    except StapoError as err:
        sys.exit(f"error: {err}")
