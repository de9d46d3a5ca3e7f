"""Evaluations within a run: what is to be played, which policy is the best by it, and whether the run may end.

The best policy is chosen from the rows of evals.jsonl alone. A save holds where these rows end and their hashes, so a
resumed run chooses as it would have chosen undisturbed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stapo.config.run_config import RunConfig
from stapo.config.training import EvalConfig
from stapo.errors import ConfigError
from stapo.rollout.evaluate import EvalProtocol, pick_tasks
from stapo.rollout.shares import best_of
from stapo.texts import counted

Row = Mapping[str, Any]


def protocols(config: RunConfig, *, final: bool) -> dict[str, EvalProtocol]:
    """What an evaluation plays, by mode: the sets of `eval.sets`, or else sampled and greedy play."""
    plan, seeds = config.eval, (config.seed,)
    if plan.sets:
        return {
            name: EvalProtocol(s.split or plan.split, s.episodes, s.temperature, seeds, tasks=s.tasks, limits=s.limits)
            for name, s in plan.sets.items()
        }
    episodes = plan.episodes if final else plan.quick_episodes
    modes = [plan.temperature] + ([0.0] if plan.greedy and plan.temperature > 0 else [])
    return {"greedy" if t == 0 else "sampled": EvalProtocol(plan.split, episodes, t, seeds) for t in modes}


def evaluated_tasks(
    config: RunConfig, tasks_of: Callable[[str], Sequence[str]], scores: Callable[[], bool]
) -> dict[str, list[str]]:
    """The tasks of each split that is evaluated, after a look at whether `eval.keep_best` can be had of them.

    Args:
        config: of the run, as it is for one environment.
        tasks_of: the tasks of a split.
        scores: whether evaluations have a `task_score`; asked only where it matters. Those of several environments have
            none in common.

    Raises:
        ConfigError: a split without a task, fewer attempts at each task than pass@k needs, or no `task_score`.
    """
    asked = {p.split: f"eval.sets.{mode}.split" for mode, p in protocols(config, final=True).items()}
    found = {split: list(tasks_of(split)) for split in asked}
    for split, setting in asked.items():
        if not found[split]:
            setting = setting if config.eval.sets.get(setting.split(".")[2]) else "eval.split"
            raise ConfigError(
                f"split '{split}' of environment '{config.env.name}' holds no task; choose another with {setting}."
            )
    name, metric = config.eval.chosen
    if metric.startswith("pass@"):
        played, k = protocols(config, final=True)[name], int(metric.removeprefix("pass@"))
        tasks = min(played.tasks or math.inf, len(found[played.split]))
        attempts = (played.episodes or tasks) // tasks
        if played.temperature == 0 or attempts < max(2, k):
            raise ConfigError(
                f"eval.keep_best is '{config.eval.keep_best}', and the set '{name}' plays each of "
                f"{counted(int(tasks), 'task')} {attempts:.0f} times at temperature {played.temperature:g}; expected "
                f"eval.sets.{name}.episodes of {max(2, k) * tasks:.0f} or more and a temperature above 0, or one of "
                + ", ".join(_known(config, found, scores=scores()))
                + "."
            )
    if metric == "task_score" and not scores():
        raise ConfigError(
            f"eval.keep_best is '{config.eval.keep_best}', which the evaluations of this run do not measure; "
            f"expected one of {', '.join(_known(config, found, scores=False))}."
        )
    return found


def _known(config: RunConfig, tasks: Mapping[str, Sequence[str]], *, scores: bool) -> list[str]:
    known = []
    for name, played in protocols(config, final=True).items():
        count = len(pick_tasks(tasks[played.split], min(played.tasks, len(tasks[played.split]))))
        attempts = (played.episodes or count) // count if played.temperature > 0 else 1
        known += [f"{name}.success"] + [f"{name}.task_score"] * scores + [f"{name}.pass@{attempts}"] * (attempts > 1)
    return known


@dataclass(frozen=True)
class Choice:
    """The best policy so far.

    Attributes:
        iteration: when it was evaluated.
        value: its number of `eval.keep_best`.
        evaluations: evaluations that it is the best of.
        since: evaluations after it.
        optimism: how much too good the best of so many equally good policies looks, at most.
        reported: its success and standard error on the sets that took no part in the choice, by name.
    """

    iteration: int
    value: float
    evaluations: int
    since: int
    optimism: float
    reported: dict[str, tuple[float, float]]

    def said(self, keep_best: str) -> str:
        """A sentence for a reader."""
        text = f"Best by {keep_best}: iteration {self.iteration}, {self.value:.3f}"
        if self.evaluations > 1:
            text += (
                f", of {self.evaluations} evaluations; the best of so many equally good policies looks better than it "
                f"is, by up to {self.optimism:.3f}"
            )
        others = [f"{name} {value:.3f} ± {error:.3f}" for name, (value, error) in self.reported.items()]
        return text + (f". On what took no part in the choice: {', '.join(others)}." if others else ".")


def value_of(row: Row, metric: str) -> tuple[float | None, float]:
    """A number of an evaluation, None where it was not measured, and an upper bound of its standard error."""
    if metric.startswith("pass@"):
        # Tasks are the coins: attempts at one task are not independent.
        value, count = (row.get("pass_at") or {}).get(metric.removeprefix("pass@"), [None])[0], row.get("tasks", 1)
    else:
        value, count = row.get(metric), row["episodes"]
    return value, 0.0 if value is None else math.sqrt(max(0.0, value * (1 - value)) / max(1, count))


def choose(rows: Sequence[Row], config: EvalConfig) -> Choice | None:
    """The best policy by rows of evals.jsonl, of equal ones the earliest; None without `eval.keep_best` or rows.

    Raises:
        ConfigError: its number was not measured.
    """
    name, metric = config.chosen
    of_set = [row for row in rows if row["mode"] == name]
    values = [value_of(row, metric) for row in of_set]
    if not values:
        return None
    if any(value is None for value, _ in values):
        has = [m for m in ("success", "task_score") if of_set[0].get(m) is not None]
        has += [f"pass@{k}" for k in of_set[0].get("pass_at", {})]
        raise ConfigError(
            f"eval.keep_best is '{config.keep_best}', which this environment does not measure; expected one of "
            f"{', '.join(f'{name}.{m}' for m in has)}."
        )
    # The start and the end of a run without iterations are one policy.
    measured = {row["iteration"]: (value or 0.0, error) for row, (value, error) in zip(of_set, values, strict=True)}
    best = max(measured, key=lambda i: (measured[i][0], -i))
    value, error = measured[best]
    others = {r["mode"]: r for r in rows if r["iteration"] == best and r["mode"] != name}
    return Choice(
        best,
        value,
        len(measured),
        sum(i > best for i in measured),
        best_of(len(measured)) * error,
        {mode: (row["success"], row["success_standard_error"] or 0.0) for mode, row in others.items()},
    )


def early_end(choice: Choice | None, config: EvalConfig) -> str:
    """Why a run may end before its last iteration; "" where it may not."""
    if choice is None:
        return ""
    if config.stop_at is not None and choice.value >= config.stop_at:
        return f"The run ended early: {config.keep_best} reached {choice.value:.3f} (eval.stop_at: {config.stop_at:g})."
    if config.patience and choice.since >= config.patience:
        return (
            f"The run ended early: {config.keep_best} had no new best in {counted(choice.since, 'evaluation')} "
            f"(eval.patience: {config.patience})."
        )
    return ""
