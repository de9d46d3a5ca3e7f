"""Training from Python: `stapo.train`, and the `Run` that it returns."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from stapo.api.pretrained import warning
from stapo.api.settings import Source, checked, settings_of
from stapo.config.run_config import RunConfig, read_run_config
from stapo.diagnosis import require_checkpoint
from stapo.policy import Policy, load_policy
from stapo.report import write_report
from stapo.run import RunDirectory, require_free
from stapo.run.lock import is_locked
from stapo.texts import counted
from stapo.training.callbacks import Callback, Callbacks
from stapo.training.checkpoint import random_state, restore_random_state
from stapo.training.choices import resolve_auto
from stapo.training.fork import plan_fork
from stapo.training.interrupt import RunInterrupted
from stapo.training.pipeline import TrainingOutcome, train_run
from stapo.training.preflight import preflight
from stapo.training.resume import check_place, unfinished_twin

RUNS = Path("runs")
"""Where runs go that are not told where."""


class Run:
    """What is in a run directory.

    Args:
        path: the run directory, as `stapo.train` and `stapo train` write it.

    Raises:
        RunDirectoryError: it is missing, is not a run, or a later version wrote it.
        ConfigError: its settings are not those of this version.
    """

    @checked()
    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.directory = RunDirectory.open(Path(path))
        self.config: RunConfig = read_run_config(self.directory)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """Open a run directory; the same as `Run(path)`."""
        return cls(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.config.algorithm.name} on {self.config.env.name}, {self.status})"

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.directory.path

    @property
    def status(self) -> str:
        """`done`, `running`, `stopped` (by a signal or a callback), `failed`, or `killed` without a word."""
        status = str(self.directory.info().get("status"))
        return "killed" if status == "running" and not is_locked(self.path) else status

    @property
    def reason(self) -> str:
        """Why the run stopped or failed; "" otherwise."""
        return str(self.directory.info().get("reason") or "")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl, one per iteration."""
        return self.directory.rows("metrics")

    @property
    def evals(self) -> list[dict[str, Any]]:
        """Rows of evals.jsonl, one per evaluation and mode."""
        return self.directory.rows("evals")

    @property
    def checkpoints(self) -> list[str]:
        """Names of the saved policies: `start`, those in between, `final`."""
        return self.directory.checkpoints()

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    @checked()
    def policy(self, checkpoint: str = "final") -> Policy:
        """Load a saved policy: `policy.model` is a transformers model, `policy.tokenizer` its tokenizer.

        Raises:
            RunDirectoryError: there is no such checkpoint, or it is damaged.
            ModelError: it cannot be loaded.
        """
        require_checkpoint(self.directory, checkpoint)
        return load_policy(str(self.path / "checkpoints" / checkpoint), self.config.model)


@checked()
def train(
    config: Source,
    out: str | os.PathLike[str] | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    resume: bool = True,
    fork: str | os.PathLike[str] | None = None,
) -> Run:
    """Train: SFT, RL, evaluation before and after, and a report, into a run directory.

    Nothing is printed. SIGINT (Ctrl-C) and SIGTERM stop the run at its next safe point, with everything saved; in a
    thread other than the main one signals are left alone.

    Args:
        config: settings; what is not a `RunConfig` goes through `stapo.load_config`.
        out: run directory; default runs/ENVIRONMENT-ALGORITHM-DATE.
        callbacks: told what the run does.
        resume: continue an unfinished run with the same settings that is in `out`; without `out`, the newest such run
            in runs/. A finished run is returned as it is. False demands a new folder.
        fork: run directory whose newest save the run begins with: policy, optimizer, critic and reference. Settings of
            model and SFT have to be the same.

    Returns:
        the run: done, or stopped where a callback raised `StopTraining`.

    Raises:
        StapoError: the settings, files or the model cannot be used, or the run failed; run.json says so.
        KeyboardInterrupt: a signal asked for a stop. The state is saved; the same call resumes.
    """
    settings, _ = settings_of(config, trains=True)
    if told := warning(settings):
        warnings.warn(told, stacklevel=3)
    name = settings.env.name if fork is None else f"{Path(fork).name}-fork"
    folder = default_folder(name, settings, resume=resume) if out is None else Path(out)
    if not resume:
        require_free(folder)
    try:
        run_training(settings, folder, ["stapo.train()"], Callbacks(callbacks), None if fork is None else Path(fork))
    except RunInterrupted as err:
        if err.signum is not None:
            raise
    return Run(folder)


def run_training(
    config: RunConfig, folder: Path, command: list[str], callbacks: Callbacks, fork: Path | None = None
) -> TrainingOutcome:
    """Check everything, do the run or what is left of it, and write its report; `fork` is a run to begin from.

    Raises:
        StapoError, RunInterrupted: as `stapo.training.pipeline.train_run` does.
    """
    with left_as_found():
        # Kept until the end: environments built meanwhile share the games that this one has read.
        check_place(folder, config)
        if fork is not None:
            plan_fork(fork, config)  # a mistake costs a second
        resolved = resolve_auto(config, folder, callbacks.notice)
        config = resolved.config
        env = preflight(config, folder, lambda done, total: callbacks.stage("checking games", done, total))
        try:
            callbacks.notice(
                f"{config.algorithm.name} on {config.env.name}: {counted(config.optim.iterations, 'iteration')} of "
                f"{config.rollout.groups} x {config.rollout.group_size} episodes, seed {config.seed}, into {folder}"
            )
            outcome = train_run(config, folder, command, callbacks, env, resolved, fork)
        finally:
            env.rest()
        write_report(outcome.run)
        env.close()
    return outcome


def default_folder(name: str, config: RunConfig, *, resume: bool = True) -> Path:
    """Where a run goes that is not told where: to its unfinished self, or to a new folder."""
    prefix = f"{name}-{config.algorithm.name}-"
    found = unfinished_twin(RUNS, prefix, config) if resume else None
    return found or RUNS / f"{prefix}{datetime.now():%Y%m%d-%H%M%S}"


@contextmanager
def left_as_found() -> Iterator[None]:
    """Afterwards the shared random generators and torch's threads are as they were before."""
    threads, (plain, tensors) = torch.get_num_threads(), random_state()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        restore_random_state(plain, tensors)
