"""The process of one tracker: reads the rows of a run and sends what was not sent yet.

`process.py` starts it. What it tells goes to its first standard output as lines
of JSON; the library's own output goes nowhere. What was sent is kept in RUN/trackers/NAME.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

from stapo.atomic_io import write_durably
from stapo.documents import parse_json, read_text
from stapo.errors import RunDirectoryError
from stapo.run import RunDirectory
from stapo.run.directory import jsonable
from stapo.run.rows import read_new
from stapo.stored import turn
from stapo.texts import escape_control_chars, hide_secrets, remember_secrets_of
from stapo.trackers import TRACKERS, TrackedRun, Tracker
from stapo.trackers.names import eval_scalars, metric_histograms, metric_scalars, plain_name, sft_scalars

POLL_SECONDS = 1.0
ORPHAN_SECONDS = 60
"""How long a tracker may take once the process that started it is gone."""

_LOCK_SECONDS = 60.0
_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_SERIES = re.compile(r"[a-z]{1,16}(/[A-Za-z0-9_. -]{1,80})?")
_MOST_STATE = 1 << 20


@dataclass
class Sent:
    """What a tracker was sent: per series of rows the last iteration, and a digest of its row.

    Attributes:
        path: the file that keeps it.
        run_id: the tracker's id of the run; None before it was opened.
        series: "metrics", "evals/MODE", "sft/loss" or "sft/probe"; those of SFT count its optimizer steps.
    """

    path: Path
    run_id: str | None = None
    series: dict[str, tuple[int, str]] = field(default_factory=dict)
    _written: float = 0.0

    @classmethod
    def read(cls, path: Path) -> Sent:
        """Read the file; nothing was sent where there is none.

        Raises:
            RunDirectoryError: it holds something else.
        """
        try:
            data = parse_json(read_text(path, _MOST_STATE))
            if not isinstance(data["id"], str) or not _ID.fullmatch(data["id"]):
                raise ValueError("its id is not an id")
            series = {str(name): (int(last), str(digest)) for name, (last, digest) in data["sent"].items()}
            if not all(map(_SERIES.fullmatch, series)):
                raise ValueError("it names unknown rows")
            return cls(path, data["id"], series)
        except FileNotFoundError:
            return cls(path)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as err:
            raise RunDirectoryError(
                f"'{path}' cannot be used ({err}), expected what was sent before. Remove it; all is then sent again, "
                "as another run."
            ) from err

    def write(self, within: float = 0.0) -> None:
        """Replace the file in one step, unless that was done in the last `within` seconds."""
        if within and time.monotonic() < self._written + within:
            return
        self._written = time.monotonic()
        write_durably(self.path, (json.dumps({"id": self.run_id, "sent": self.series}) + "\n").encode())


class RowReader:
    """Rows of SFT, then those of metrics and evaluations, each once, those of an iteration together, in order."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._at = {"metrics": 0, "evals": 0, "sft": 0}
        self._waiting: list[dict[str, Any]] = []
        self._iteration = 0

    def new(self) -> list[tuple[str, int, dict[str, Any]]]:
        """Series, step and row of what was added since the last call; the step is the iteration, or SFT's own."""
        found = [("metrics", _step_of(row), row) for row in self._read("metrics")]
        self._iteration = max([self._iteration, *(iteration for _, iteration, _ in found)])
        # An evaluation stands behind the metrics of its iteration; metrics that were read before it may lack them.
        evals, self._waiting = [*self._waiting, *self._read("evals")], []
        for row in evals:
            iteration = _step_of(row)
            if iteration > self._iteration:
                self._waiting.append(row)
            else:
                found.append((f"evals/{plain_name(str(row.get('mode')))}", iteration, row))
        found.sort(key=lambda f: (f[1], not f[0].startswith("m")))
        # Read last: SFT's rows are all there before any of the others.
        probes = [("sft/probe" if "train_success" in row else "sft/loss", row) for row in self._read("sft")]
        return [(series, _step_of(row, "step"), row) for series, row in probes] + found

    def _read(self, name: str) -> list[dict[str, Any]]:
        rows, self._at[name] = read_new(self._run.row_file(name), self._at[name])
        return rows


class Sender:
    """Sends the rows of one run to one tracker.

    Args:
        tracker: of a class that `TRACKERS` knows.
        run: the run directory.
        sent: what was sent before.
        tell: called with the id once the tracker is open.
    """

    def __init__(
        self, tracker: Tracker, run: RunDirectory, sent: Sent, tell: Callable[[str], None] = lambda run_id: None
    ) -> None:
        self.tracker, self.run, self.sent, self._tell = tracker, run, sent, tell
        self.rows = 0
        self.opened = False
        self.remarks: list[str] = []
        self._reader = RowReader(run)
        self._begun = False
        self._split = str((run.config().get("eval") or {}).get("split") or "heldout")

    def send_new(self, *, follow: bool) -> None:
        """Send the rows that were added, each once.

        Args:
            follow: resume the tracker's run at once, where there is one; else only for rows that it does not have.
        """
        new = self._reader.new()
        resumes = follow and not self._begun and self.sent.run_id is not None
        self._begun = True
        # Resumed, all rows are at hand: those that have to come again, and all of them for a run that was forgotten.
        if not self.opened and (resumes or any(not self._was_sent(series, i, row) for series, i, row in new)):
            self._open(new)
        try:
            for series, iteration, row in new:
                if self._was_sent(series, iteration, row):
                    continue
                if series == "metrics":
                    self.tracker.log(iteration, metric_scalars(row), metric_histograms(row))
                elif series.startswith("sft/"):
                    self.tracker.log(iteration, sft_scalars(row), {})
                else:
                    self.tracker.log(iteration, eval_scalars(row, self._split), {})
                self.sent.series[series] = (iteration, _digest(row))
                self.rows += 1
                self.sent.write(within=POLL_SECONDS)
        finally:
            if self.opened:
                self.sent.write()

    def close(self) -> None:
        """Let the tracker finish."""
        if self.opened:
            self.tracker.close(str(self.run.info().get("status")))

    def _was_sent(self, series: str, iteration: int, row: dict[str, Any]) -> bool:
        last, digest = self.sent.series.get(series, (-1, ""))
        if iteration == last and digest not in ("", _digest(row)) and not self.remarks:
            self.remarks.append(
                f"the run has other numbers for step {iteration} than were sent before it was resumed; the "
                "tracker keeps those"
            )
        return iteration <= last

    def _open(self, new: list[tuple[str, int, dict[str, Any]]]) -> None:
        before, first = self.sent.run_id, 0
        if before is not None and self.tracker.rewinds:
            there = {series: iteration for series, iteration, _ in new}
            # From the last step on that surely was sent whole and still stands in the files.
            sent = [(n, s[0]) for n, s in self.sent.series.items() if not n.startswith("sft/")]
            first = max(0, min((min(last, there.get(n, -1)) for n, last in sent), default=0))
            self.sent.series = dict.fromkeys(self.sent.series, (first - 1, ""))
        path = self.run.path.resolve()
        folder = self.sent.path.parent
        run = TrackedRun(path, folder, plain_name(path.name), jsonable(self.run.config()), first)
        self.sent.run_id = found = self.tracker.open(run, before)
        if not isinstance(found, str) or not _ID.fullmatch(found):
            raise TypeError(f"open() returned {found!r:.80}, expected an id")
        if found != before:
            self.sent.series = {}
        self.opened = True
        self.sent.write()
        self._tell(found)


def _step_of(row: dict[str, Any], key: str = "iteration") -> int:
    step = row.get(key)
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 1 << 53:
        raise RunDirectoryError(f"a row has the {key} {step!r:.80}, expected a number of 0 or more.")
    return step


def _digest(row: dict[str, Any]) -> str:
    """Of the numbers that are the same when an iteration is done again."""
    kept = {key: value for key, value in row.items() if key != "seconds"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def main(name: str, target: str, folder: str, once: bool) -> int:
    """Send a run to a tracker until the process that started this one says that it is over, or is gone.

    Args:
        name: of the tracker.
        target: "module:attribute" of its class where it is registered in the starting process alone; else "".
        folder: the run directory.
        once: send what is there, and no more.
    """
    orders, told = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    over = threading.Event()
    remember_secrets_of()

    def tell(**what: object) -> None:
        with suppress(OSError):
            os.write(told, (json.dumps(what) + "\n").encode())

    def wait_for_the_end() -> None:
        if not os.read(orders, 1):  # nobody is there to give this process up any more
            signal.alarm(ORPHAN_SECONDS)
        over.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    with suppress(OSError):
        os.nice(5)
    sender = None
    try:
        if target:
            module, _, attributes = target.partition(":")
            TRACKERS.register(name, reduce(getattr, attributes.split("."), import_module(module)))  # type: ignore[arg-type]
        run = RunDirectory.open(Path(folder))
        tracker = TRACKERS.get(name)()
        kept, stem = run.path / "trackers", plain_name(name)  # the name may be a stranger's
        kept.mkdir(exist_ok=True)
        # One process per run and tracker.
        with turn(kept / f"{stem}.lock", 0 if once else _LOCK_SECONDS) as held:
            if not held:
                raise RunDirectoryError("another process is sending this run to the same tracker.")
            sender = Sender(tracker, run, Sent.read(kept / f"{stem}.json"), lambda i: tell(opened=i))
            while True:
                last = once or over.is_set()
                sender.send_new(follow=not once)
                if last:
                    break
                over.wait(POLL_SECONDS)
            sender.close()
            for remark in sender.remarks:
                tell(remark=remark)
            tell(rows=sender.rows)
        return 0
    except BaseException as err:  # a library may raise anything, also to end the process
        said = f"{type(err).__name__}: {err}" if str(err) else type(err).__name__
        tell(failed=escape_control_chars(hide_secrets(" ".join(said.split())))[:500])
        if sender is not None and sender.opened:
            with suppress(BaseException):
                sender.close()
        # Handlers at the exit are the library's, and it has failed.
        os._exit(1)
