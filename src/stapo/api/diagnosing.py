"""Measuring the steps of trained policies: `stapo.diagnose`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stapo.api.runs import Run, left_as_found
from stapo.api.settings import checked, with_changes, with_engine
from stapo.config.environment import environment_of
from stapo.diagnosis import (
    DiagnosisTarget,
    make_spec,
    require_checkpoint,
    require_same_world,
    require_writable,
)
from stapo.diagnosis import diagnose as measure_all
from stapo.errors import ConfigError
from stapo.training.callbacks import Callback, Callbacks
from stapo.training.factories import tasks_of_split

AnyRun = Run | str | os.PathLike[str]


@dataclass(frozen=True)
class Diagnosis:
    """What was found of one policy.

    Attributes:
        label: run, checkpoint and algorithm.
        path: folder with diagnosis.html, diagnosis.json and steps.jsonl.
        document: every number, as diagnosis.json has it.
    """

    label: str
    path: Path
    document: dict[str, Any]


@checked(tasks=1, group_size=1, seed=0)
def diagnose(
    run: AnyRun,
    against: AnyRun | Sequence[AnyRun] | None = None,
    *,
    checkpoints: Sequence[str] = ("final",),
    environment: str | None = None,
    engine: str = "transformers",
    split: str | None = None,
    tasks: int | None = None,
    group_size: int | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    env: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
) -> list[Diagnosis]:
    """Measure what a policy's steps are like: outliers, use of the trajectory, which steps were bad.

    Args:
        run: a `Run` or its folder; tasks, seed and settings of the measurement are its own.
        against: further runs in the same environment; differences are taken to `run`.
        checkpoints: of each run.
        environment: which one, where the runs have several.
        engine: what generates, `transformers` or `vllm`; everything is measured by the model itself.
        split: tasks to play; None is eval.split of the run.
        tasks: how many of them, evenly thinned; None is 32, or all where there are fewer.
        group_size: trajectories per task; None is rollout.group_size of the run.
        seed: of the sampling and of the intervals.
        out: where results go; None is RUN/diagnosis.
        env: options of the environment that are changed.
        callbacks: `on_stage` tells how far it is.

    Returns:
        one for each policy, the checkpoints of `run` first.

    Raises:
        StapoError: a run, checkpoint, split or folder cannot be used.
    """
    others = [against] if isinstance(against, Run | str | os.PathLike) else [*(against or ())]
    runs = [found if isinstance(found, Run) else Run(found) for found in (run, *others)]
    settings = [environment_of(found.config, environment) for found in runs]
    configs = [with_engine(with_changes(settings[0], env), engine), *settings[1:]]
    first, names = configs[0], tuple(dict.fromkeys(checkpoints))
    if not names:
        raise ConfigError("checkpoints is empty, expected at least one, such as 'final'.")
    for found, config in zip(runs[1:], settings[1:], strict=True):
        require_same_world(first, config, found.path)
    for found in runs:
        for name in names:
            require_checkpoint(found.directory, name)
    folder = runs[0].path / "diagnosis" if out is None else Path(out)
    targets = [
        DiagnosisTarget(found.directory, config, name, folder / f"{prefix}{name}")
        for found, config, prefix in zip(runs, configs, _prefixes([found.path for found in runs]), strict=True)
        for name in names
    ]
    for target in targets:
        require_writable(target.folder)
    split = split or first.eval.split
    spec = make_spec(first, tasks_of_split(first, split), split, tasks=tasks, group_size=group_size, seed=seed)
    with left_as_found():
        documents = measure_all(targets, spec, Callbacks(callbacks).stage)
    return [
        Diagnosis(target.label, target.folder, document) for target, document in zip(targets, documents, strict=True)
    ]


def _prefixes(runs: Sequence[Path]) -> list[str]:
    """What the folder of each run's diagnosis begins with: nothing for the first, a name of its own for the others."""
    prefixes, taken = [""], set[str]()
    for path in runs[1:]:
        name, number = path.resolve().name, 1
        while name in taken:
            number += 1
            name = f"{path.resolve().name}-{number}"
        taken.add(name)
        prefixes.append(f"{name}--")
    return prefixes
