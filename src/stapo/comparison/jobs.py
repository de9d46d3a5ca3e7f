"""Several processes at a time, each begun once what it needs is done; signals reach all, and none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from stapo.atomic_io import open_alone
from stapo.run.lock import is_locked
from stapo.training.interrupt import SIGNALS, RunInterrupted

Status = Literal["done", "failed", "blocked"]

_TICK = 0.1
_LOCK_PATIENCE = 120.0  # seconds that a process of an earlier, killed call may take to save and end
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Job:
    """A process to run.

    Attributes:
        name: its own.
        argv: command line.
        log: file that gets what it prints, after what is there.
        folder: what it writes; while another process has it locked, the job waits.
        needs: name of the job that has to be done first.
    """

    name: str
    argv: Sequence[str]
    log: Path
    folder: Path
    needs: str | None = None


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        status: `blocked` where the job it needs was not done.
        code: exit code of the process; minus the signal that killed it; None where it never ran.
        error: "" or the reason in a line.
    """

    status: Status
    code: int | None = 0
    error: str = ""


@dataclass
class Jobs:
    """Runs jobs.

    Attributes:
        limit: processes at a time.
        grace: seconds after a first signal until what is still there is killed.
        on_change: called with a job and its new state: "started", or how it ended.
        on_tick: called a few times a second with the names of the running jobs.
        ended: how jobs have ended so far.
    """

    limit: int
    grace: float = 120.0
    on_change: Callable[[Job, Ended | Literal["started"]], None] = lambda job, state: None
    on_tick: Callable[[list[str]], None] = lambda names: None
    ended: dict[str, Ended] = field(default_factory=dict)
    _running: dict[str, tuple[Job, subprocess.Popen[bytes]]] = field(default_factory=dict)
    _signum: int | None = None
    _deadline: float = 0.0

    def run(self, jobs: Sequence[Job], done: Mapping[str, Ended]) -> dict[str, Ended]:
        """Run all jobs; returns how each ended.

        Args:
            jobs: in the order in which they are begun.
            done: jobs that others need and that ended earlier.

        Raises:
            RunInterrupted: a signal asked for a stop; every process has ended.
        """
        self.ended = ended = dict(done)
        waiting, since = list(jobs), time.monotonic()
        before = self._install()
        try:
            while waiting or self._running:
                self._collect(ended)
                if self._signum is not None:
                    waiting = []
                    if time.monotonic() > self._deadline:
                        self._kill()
                    if not self._running:
                        break
                else:
                    self._start_what_can(waiting, ended, since)
                self.on_tick(list(self._running))
                time.sleep(_TICK)
        finally:
            self._end_all()
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._signum is not None:
            raise RunInterrupted(self._signum, "every run has stopped; the same command goes on")
        return ended

    def _start_what_can(self, waiting: list[Job], ended: dict[str, Ended], since: float) -> None:
        for job in list(waiting):
            need = ended.get(job.needs) if job.needs else Ended("done")
            if need is not None and need.status != "done":
                waiting.remove(job)
                ended[job.name] = Ended("blocked", None, f"{job.needs} is missing: {need.error}")
                self.on_change(job, ended[job.name])
            elif need is not None and len(self._running) < self.limit:
                if job.folder.is_dir() and time.monotonic() - since < _LOCK_PATIENCE and is_locked(job.folder):
                    continue
                waiting.remove(job)
                self._start(job)

    def _start(self, job: Job) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(open_alone(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab") as log:
            # A group of its own: Ctrl-C at the terminal comes from here, not from the terminal a second time. But no
            # session of its own: Linux may share cores among sessions first, and `nice` would then mean nothing.
            process = subprocess.Popen(
                list(job.argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **_ONE_THREAD},
                process_group=0,
            )
        self._running[job.name] = (job, process)
        if self._signum is not None:
            process.send_signal(self._signum)
        self.on_change(job, "started")

    def _collect(self, ended: dict[str, Ended]) -> None:
        for name, (job, process) in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            del self._running[name]
            if self._signum is None:
                ended[name] = Ended("done") if code == 0 else Ended("failed", code, reason_in(job.log, code))
                self.on_change(job, ended[name])

    def _install(self) -> dict[int, Any]:
        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before[number] = signal.signal(number, self._on_signal)
        return before

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._signum is None:
            self._signum, self._deadline = signum, time.monotonic() + self.grace
        for _, process in list(self._running.values()):
            process.send_signal(signum)

    def _kill(self) -> None:
        for _, process in list(self._running.values()):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def _end_all(self) -> None:
        """Only after an error of this process is anything still there."""
        for _, process in list(self._running.values()):
            process.terminate()
        for _, process in list(self._running.values()):
            try:
                process.wait(self.grace)
            except subprocess.TimeoutExpired:
                self._kill()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(self.grace)
        self._running.clear()


def reason_in(log: Path, code: int) -> str:
    """Why a process failed: the last line of its log that names an error, or else how it ended."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in reversed(lines[-200:]):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    if code < 0:
        return (
            f"killed by {signal.Signals(-code).name}" if -code in set(signal.Signals) else f"killed by signal {-code}"
        )
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    return f"exit code {code}: {last}"
