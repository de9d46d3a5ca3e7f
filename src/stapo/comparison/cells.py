"""Doing a plan: starts first, then every cell, each as a run of its own in a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from stapo.atomic_io import write_durably
from stapo.comparison.jobs import Ended, Job, Jobs
from stapo.comparison.plan import Cell, Plan, cell_folder, start_folder, with_changes
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, read_yaml
from stapo.errors import StapoError, writing
from stapo.run import RunDirectory
from stapo.training.choices import resolve_auto


@dataclass(frozen=True)
class Work:
    """A job with what is known of it.

    Attributes:
        job: the process.
        cell: the cell, or None for a start.
        start: number of the start.
        iterations: length of the run.
        settings: of the run.
        command: as a user would type it.
    """

    job: Job
    cell: Cell | None
    start: int
    iterations: int
    settings: dict[str, object]
    command: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether the run is there and done."""
        try:
            info = RunDirectory.open(self.job.folder).info()
        except StapoError:
            return False
        return info.get("status") == "done" and info.get("iterations") == self.iterations

    @property
    def iterations_done(self) -> int:
        """Iterations that are logged."""
        try:
            return (self.job.folder / "metrics.jsonl").read_bytes().count(b"\n")
        except OSError:
            return 0


def work_of(plan: Plan, folder: Path) -> list[Work]:
    """Every run of a plan: starts, then cells."""
    found = []
    for start in plan.starts:
        name = f"start {start:02d}"
        found.append(_work(name, plan.start_settings(start), start_folder(folder, start), folder, None, start))
    for cell in plan.cells:
        settings = plan.cell_settings(cell, folder)
        found.append(_work(cell.name, settings, cell_folder(folder, cell), folder, cell, cell.start))
    return found


def _work(
    name: str,
    settings: dict[str, object],
    run: Path,
    folder: Path,
    cell: Cell | None,
    start: int,
) -> Work:
    stem = f"start-{start:02d}" if cell is None else f"{cell.label}-seed-{cell.seed}"
    words = ("train", str(folder / "settings" / f"{stem}.yaml"), "--quiet", "--out", str(run))
    optim = settings["optim"]
    assert isinstance(optim, dict)
    job = Job(
        name,
        (sys.executable, "-m", "stapo", f"--parent={os.getpid()}", *words),
        folder / "logs" / f"{stem}.log",
        run,
        None if cell is None else f"start {start:02d}",
    )
    return Work(job, cell, start, int(optim["iterations"]), settings, ("stapo", *words))


def in_one_dtype(works: Sequence[Work]) -> list[Work]:
    """The runs with one dtype in the place of `auto`: that of an earlier call, or the one that is faster here.

    Raises:
        StapoError: the model cannot be one, or a file of settings cannot be read.
    """
    settings = works[0].settings
    if from_data(RunConfig, settings).model.dtype != "auto":
        return list(works)
    written = Path(works[0].command[2])
    before = from_data(RunConfig, read_yaml(written) if written.is_file() else settings)
    dtype = resolve_auto(before, None, lambda said: None).config.model.dtype
    return [replace(work, settings=with_changes(work.settings, model__dtype=dtype)) for work in works]


def write_settings(works: Sequence[Work], folder: Path) -> None:
    """Write the configuration file of every run.

    Raises:
        RunDirectoryError: one cannot be written.
    """
    with writing(f"'{folder / 'settings'}'"):
        (folder / "settings").mkdir(parents=True, exist_ok=True)
        for work in works:
            path = Path(work.command[2])
            text = yaml.safe_dump(work.settings, sort_keys=False).encode()
            if not path.is_file() or path.read_bytes() != text:
                write_durably(path, text)


def run_all(works: Sequence[Work], jobs: Jobs) -> dict[str, Ended]:
    """Run what is not finished; returns how everything ended, by name.

    Raises:
        RunInterrupted: a signal asked for a stop.
    """
    done = {work.job.name: Ended("done") for work in works if work.finished}
    return jobs.run([work.job for work in works if work.job.name not in done], done)
