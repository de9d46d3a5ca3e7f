"""Training variants with several seeds from the same starts, and comparing them: `stapo.compare`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from stapo.api.runs import RUNS
from stapo.api.settings import Source, checked, load_config
from stapo.comparison.cells import Work, in_one_dtype, run_all, work_of, write_settings
from stapo.comparison.jobs import Ended, Job, Jobs
from stapo.comparison.page import write_page
from stapo.comparison.plan import (
    FILE_NAME,
    Plan,
    Variant,
    extended,
    label_of,
    plan_of,
    read_plan,
    require_place,
    write_plan,
)
from stapo.comparison.results import FILE_NAME as RESULTS
from stapo.comparison.results import write_results
from stapo.config.run_config import RunConfig
from stapo.config.schema import differing, from_data, to_data
from stapo.documents import lookup, parse_json, shown
from stapo.errors import ConfigError, StapoError, unknown_name, writing
from stapo.run.lock import RunLock, is_locked
from stapo.training.callbacks import Callback, Callbacks
from stapo.training.preflight import open_world

SEEDS = (0, 1, 2)
SHARED = ("algorithm", "optim", "rollout", "tasks")
"""Sections in which variants may differ: all others belong to the start or to the evaluation, which variants share."""


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        path: its folder; report.html and the run directories are in it.
        document: every number, as results.json has it.
    """

    path: Path
    document: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether every run is done."""
        return bool(self.document["complete"])

    @property
    def variants(self) -> dict[str, dict[str, Any]]:
        """What results.json says of each variant, by its label."""
        return {variant["label"]: variant for variant in self.document["variants"]}

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"


class Watch(Protocol):
    """Somebody who looks on while runs of a comparison go on."""

    def changed(self, job: Job, state: Ended | Literal["started"]) -> None:
        """Called when a run was started or has ended."""
        ...

    def tick(self, running: list[str]) -> None:
        """Called a few times a second with the names of the running runs."""
        ...


@checked(seeds=0, starts=1, jobs=1)
def compare(
    variants: Sequence[str | RunConfig],
    *,
    config: Source = "tiny",
    seeds: Sequence[int] = SEEDS,
    starts: int | None = None,
    out: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    baseline: str | None = None,
    callbacks: Sequence[Callback] = (),
    **overrides: Any,
) -> Comparison:
    """Train every variant with every seed, each as a process of its own, and say what the differences are worth.

    The variants of a seed begin with the same policy, see the same tasks in the same order and play the same evaluation
    tasks. Called again, finished runs are kept and unfinished ones resumed; more variants or seeds extend it. What is
    registered in this process alone is not known to the runs: they need the entry points of an installed package.

    Args:
        variants: names of algorithms, which replace that of `config`; or settings that differ in algorithm, optim or
            rollout alone.
        config: the settings that names of algorithms are laid over, and that starts are made with where no variant is
            settings.
        seeds: of the runs.
        starts: how many different starts; seed s begins with start s modulo `starts`. None: one per seed, at most 3.
        out: folder of the comparison; default runs/compare-ENVIRONMENT-DATE.
        jobs: runs at a time, one thread each; None takes the idle cores.
        baseline: label of the variant that the others are compared with. None: as chosen before in `out`, or else the
            first.
        callbacks: `on_stage` tells how many runs are done, `on_notice` what begins and ends.
        overrides: laid over `config`, as `stapo.load_config` takes them.

    Raises:
        StapoError: settings, names or the folder cannot be used.
        KeyboardInterrupt: a signal asked for a stop; every run is saved, and the same call resumes.
    """
    if not variants or not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"variants is {shown([*variants])} and seeds {shown([*seeds])}, expected at least one of each, none twice."
        )
    given = [v if isinstance(v, RunConfig) else load_config(config, algorithm=v, **overrides) for v in variants]
    base = next((v for v in variants if isinstance(v, RunConfig)), None) or load_config(config, **overrides)
    plan = plan_of(to_data(base), variants_of(given, base), list(seeds), starts, "stapo.compare()")
    folder = default_folder(base.env.name, plan) if out is None else Path(out)
    plan, baseline = with_what_is_there(plan, folder, baseline)
    require_ready(plan, baseline)
    told = Callbacks(callbacks)
    return run_plan(plan, folder, jobs or idle_cores(), baseline, lambda works: nullcontext(_Progress(told, works)))


def variants_of(configs: Sequence[RunConfig], base: RunConfig) -> list[Variant]:
    """Variants, named after their algorithms and what sets those of one algorithm apart.

    Raises:
        ConfigError: they differ in what variants share.
    """
    data: list[dict[str, Any]] = [to_data(config) for config in configs]
    shared = to_data(base)
    for settings in data:
        for path, was, now in differing(shared, settings):
            if path.partition(".")[0] not in (*SHARED, "seed"):
                raise ConfigError(
                    f"variants share start, environment and evaluation, so they may differ in {', '.join(SHARED)} "
                    f"alone; {path} is {was!r} and {now!r}. Make one comparison for each value."
                )
    found = []
    for config, settings in zip(configs, data, strict=True):
        name = config.algorithm.name
        same = [other for c, other in zip(configs, data, strict=True) if c.algorithm.name == name]
        # What only describes is not a setting; the seed is the cell's.
        paths = sorted({path for other in same for path, _, _ in differing(settings, other)} - {"seed"})
        changes = {path: lookup(settings, path) for path in paths}
        found.append(Variant(label_of(name, changes), name, changes, settings))
    return found


def with_what_is_there(plan: Plan, folder: Path, baseline: str | None) -> tuple[Plan, str]:
    """The plan with the stored one that it extends, and the label of the variant that others are compared with.

    Args:
        plan: as it was asked for.
        folder: of the comparison.
        baseline: a label, which the plan keeps from then on; None: the label that it keeps, or else its first.

    Raises:
        RunDirectoryError: the folder holds something else.
        ConfigError: the settings of the stored one are others.
    """
    require_place(folder)
    first = plan.variants[0].label
    if (folder / FILE_NAME).is_file():
        plan = extended(read_plan(folder), plan, folder)
    plan = replace(plan, baseline=baseline or plan.baseline)
    return plan, plan.baseline or first


def idle_cores() -> int:
    """Cores that this process may use and that nothing else has kept busy in the last minute; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, cores - round(busy))


def default_folder(name: str, plan: Plan) -> Path:
    """The default folder: that of an unfinished comparison with the same plan, else a new one."""
    prefix = f"compare-{name}-"
    for path in sorted(RUNS.glob(f"{prefix}*"), reverse=True):
        try:
            old = read_plan(path)
        except StapoError:
            continue
        if (old.base, old.variants, old.cells) == (plan.base, plan.variants, plan.cells) and not is_locked(path):
            try:
                complete = parse_json((path / RESULTS).read_bytes())["complete"]
            except (OSError, ValueError, KeyError, TypeError):
                complete = False
            if not complete:
                return path
    return RUNS / f"{prefix}{datetime.now():%Y%m%d-%H%M%S}"


def require_ready(plan: Plan, baseline: str) -> None:
    """Look up the baseline, the environments and their splits: a typo costs a second, not SFT.

    Raises:
        UnknownNameError: no variant is called `baseline`.
        StapoError: environment, options or split cannot be used.
    """
    labels = [v.label for v in plan.variants]
    if baseline not in labels:
        raise unknown_name("variant", baseline, labels)
    # As of a run that is there: each start checks its demonstrator and games.
    open_world(from_data(RunConfig, plan.base), there=True).close()


def run_plan(
    plan: Plan,
    folder: Path,
    jobs: int,
    baseline: str,
    watch: Callable[[list[Work]], AbstractContextManager[Watch]],
) -> Comparison:
    """Do what is left of a plan, and write results and report.

    Raises:
        RunDirectoryError: the folder cannot be written, or another process is writing it.
        RunInterrupted: a signal asked for a stop; results and report of what is done are written.
    """
    with writing(f"'{folder}'"):
        folder.mkdir(parents=True, exist_ok=True)
    with RunLock(folder):
        require_place(folder)
        write_plan(folder, plan)
        works = in_one_dtype(work_of(plan, folder))
        write_settings(works, folder)
        with watch(works) as told:
            pool = Jobs(jobs, on_change=told.changed, on_tick=told.tick)
            try:
                ended = run_all(works, pool)
            except KeyboardInterrupt:
                write_page(plan, folder, write_results(plan, folder, pool.ended, baseline))
                raise
        found = write_results(plan, folder, ended, baseline)
        write_page(plan, folder, found)
    return Comparison(folder, found)


class _Progress:
    """Tells callbacks how many runs are done."""

    def __init__(self, callbacks: Callbacks, works: Sequence[Work]) -> None:
        self._callbacks = callbacks
        self._total, self._done = len(works), sum(work.finished for work in works)

    def changed(self, job: Job, state: Ended | Literal["started"]) -> None:
        said = state if isinstance(state, str) else state.status + (f": {state.error}" if state.error else "")
        self._callbacks.notice(f"{job.name}: {said}")
        if not isinstance(state, str):
            self._done += 1
            self._callbacks.stage("starts and runs", self._done, self._total)

    def tick(self, running: list[str]) -> None:
        pass
