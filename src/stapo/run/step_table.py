"""All recorded steps of a run as columns, read from its files alone: what a viewer filters and plots.

`steps.jsonl` has them ready. Where it does not (a run of an earlier version, a damaged row), they are computed from the
transcripts, which takes longer. The folder may come from anybody and may be written at this moment: what cannot be
read is a remark, and the rest is there. Nothing is written.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stapo.atomic_io import oddity, open_to_read
from stapo.documents import decoded, parse_json
from stapo.errors import RunDirectoryError
from stapo.run.directory import NAMES, require_plain
from stapo.run.rows import FOLDER, MOST_LINE, by_iteration, line_at, read_new, transcript_of
from stapo.run.step_columns import (
    STEP,
    TRAJECTORY,
    BatchArrays,
    Kind,
    Span,
    batches_of,
    check_summary,
    summary_row,
)
from stapo.texts import counted

MOST_STEPS = 3_000_000
"""Steps that a table holds, half a gigabyte of columns; further iterations are left out."""

CODED = {"failure": "text"} | {n: k for n, k in {**TRAJECTORY, **STEP}.items() if k == "text" and n != "outlier"}
"""Columns of texts: each step has the place of its text in `StepTable.texts`."""

_TYPES: Mapping[Kind, str] = {"count": "<u4", "number": "<f4", "flag": "<i1", "text": "<u4", "key": "<f8"}
_OWN = {"iteration": "<u4", "trajectory": "<u4", "step": "<u4", "offset": "<f8", "bytes": "<u4", "failure": "<u4"}
_SIDES = {"high": 1, "low": -1}
Row = dict[str, Any]
Column = npt.NDArray[Any]


class SearchHits(NamedTuple):
    """What a search has found.

    Attributes:
        rows: of the table, in its order.
        cut: there may be more: it was ended by a limit.
    """

    rows: list[int]
    cut: bool


class StepTable:
    """The recorded steps of one run; `refresh` reads what is new.

    Columns have one entry per step, in the order in which iterations were read. Flags are 1, 0, or -1 for unknown;
    `outlier` is 1 above the upper fence, -1 below the lower one, else 0; numbers are NaN where there are none.
    `trajectory` numbers the trajectories of the table; `offset` and `bytes` are the place of its record; `failure` is
    the boundary at which an earlier attempt at this episode failed.

    Attributes:
        path: the run directory.
        texts: texts of each coded column; place 0 is the absence of text.
        pending: transcripts that are still to be read, because `refresh` was told to stop before them.
        generation: grows when rows that were read became invalid, because the run was resumed from an earlier point.

    Raises:
        RunDirectoryError: a link, pipe or device stands in the place of one of the run's files.
    """

    def __init__(self, path: Path) -> None:
        require_plain(path, NAMES)
        self.path = path
        self.generation = 0
        self._clear()

    def _clear(self) -> None:
        self.pending = 0
        self.texts: dict[str, list[str]] = {name: [""] for name in CODED}
        self._codes: dict[str, dict[str, int]] = {name: {"": 0} for name in CODED}
        self._blocks: dict[str, list[Column]] = {name: [] for name in _types()}
        self._rows = self._trajectories = 0
        self._end = 0  # byte of steps.jsonl behind the last complete row
        self._last, self._last_start = b"", 0  # the last row that was read, and its byte
        self._places: dict[int, int] = {}  # byte of each iteration's row in steps.jsonl
        self._computed: dict[str, tuple[int, int]] = {}  # size and time of transcripts that were read themselves
        self._done: set[int] = set()
        self._failures: dict[tuple[Any, ...], str] = {}
        self._failures_end = 0
        self._said: dict[str, str] = {}

    @property
    def rows(self) -> int:
        """Steps that were read."""
        return self._rows

    @property
    def remarks(self) -> list[str]:
        """What could not be read, or only slowly, as sentences."""
        found = list(self._said.values())
        if self._computed:
            found.append(
                f"{counted(len(self._computed), 'transcript')} without a row in steps.jsonl took longer to read; "
                "runs of earlier versions have no such rows."
            )
        return found

    @property
    def columns(self) -> dict[str, Column]:
        """Arrays by name, one entry per step; see `_types` for their types."""
        for name, blocks in self._blocks.items():
            if len(blocks) != 1:
                self._blocks[name] = [np.concatenate(blocks) if blocks else np.zeros(0, _types()[name])]
        return {name: blocks[0] for name, blocks in self._blocks.items()}

    def refresh(self, most_transcripts: int | None = None) -> bool:
        """Read what was added to the run; returns whether the table has changed.

        Args:
            most_transcripts: stop after so many transcripts that have to be read whole; `pending` says how many are
                left. None for all.
        """
        before = self.generation, self._rows, self.pending
        if self._was_cut_back():
            self.generation += 1
            self._clear()
        self._read_failures()
        self._read_summaries()
        self._read_transcripts(most_transcripts)
        return (self.generation, self._rows, self.pending) != before

    def trajectory(self, row: int) -> Row:
        """The whole record of the trajectory that a step belongs to.

        Raises:
            RunDirectoryError: there is no such row, or the transcript is damaged or has been written anew.
        """
        if not 0 <= row < self._rows:
            raise RunDirectoryError(f"there is no step {row}; the table has {self._rows:,}.")
        at = {name: self.columns[name][row] for name in ("iteration", "offset", "bytes", "group", "member")}
        path = transcript_of(self.path, int(at["iteration"]))
        record = _parsed(line_at(path, int(at["offset"]), int(at["bytes"])))
        same = isinstance(record, dict) and all(
            record.get(name) == int(at[name]) for name in ("iteration", "group", "member")
        )
        if not same or not _has_steps(record):
            raise RunDirectoryError(
                f"'{path}' holds another record at byte {int(at['offset']):,} than steps.jsonl says: it was changed or "
                "is being written anew. Read the run again."
            )
        assert isinstance(record, dict)
        return record

    def batch(self, iteration: int) -> dict[str, BatchArrays]:
        """All rows of an iteration, by environment, those without a transcript among them; {} where it was not kept.

        Raises:
            RunDirectoryError: the row of steps.jsonl is damaged.
        """
        if iteration not in self._places:
            return {}
        path = self.path / "steps.jsonl"
        row = _parsed(line_at(path, self._places[iteration]))
        try:
            return batches_of(row if isinstance(row, dict) else {})
        except (ValueError, AttributeError) as err:
            raise RunDirectoryError(f"'{path}', iteration {iteration}: {err}.") from err

    def search(self, text: str, most: int = 10_000, seconds: float = 5.0) -> SearchHits:
        """Rows whose observation, action or response holds `text`, whatever its case; reads the transcripts.

        Args:
            text: looked for as it stands; "" finds nothing.
            most: rows that are found at most.
            seconds: reading ends after so long.
        """
        wanted, rows, end = text.casefold(), list[int](), time.monotonic() + seconds
        # Lines without the longest plain piece of the text need not be parsed; JSON writes such pieces as they are.
        piece = max(re.findall(r"[a-z0-9 ]+", wanted), key=len, default="").encode()
        for iteration, places in self._records().items() if wanted else ():
            for span, line in self._lines(transcript_of(self.path, iteration), 0):
                if time.monotonic() > end:
                    return SearchHits(rows, cut=True)
                row = places.get(span.offset)
                if row is None or line is None or piece not in line.lower():
                    continue
                record = _parsed(line)
                for number, step in enumerate(record["steps"] if _has_steps(record) else ()):
                    said = (str(step.get(name) or "") for name in ("observation", "action", "response"))
                    if row + number < self._rows and any(wanted in text.casefold() for text in said):
                        if len(rows) == most:
                            return SearchHits(rows, cut=True)
                        rows.append(row + number)
        return SearchHits(rows, cut=False)

    def _records(self) -> dict[int, dict[int, int]]:
        """The first row of each trajectory by the byte at which its record begins, by iteration."""
        at, found = self.columns, dict[int, dict[int, int]]()
        first = np.flatnonzero(np.diff(at["trajectory"], prepend=-1) != 0)
        places = zip(at["iteration"][first].tolist(), at["offset"][first].tolist(), first.tolist(), strict=True)
        for iteration, offset, row in places:
            found.setdefault(iteration, {})[int(offset)] = row
        return found

    def _lines(self, path: Path, start: int) -> Iterator[tuple[Span, bytes | None]]:
        """Complete lines behind the byte `start`; None in place of one that is too long. Unreadable files have none."""
        try:
            if oddity(path.parent):
                raise OSError(0, "its folder is a link")
            file = open_to_read(path)
        except OSError as err:
            self._say(path.name, f"'{path.name}' cannot be read: {err.strerror or err}.")
            return
        with file:
            file.seek(start)
            while line := file.readline(MOST_LINE):
                length = len(line)
                while line and not line.endswith(b"\n"):
                    line = file.readline(MOST_LINE)
                    length += len(line)
                    if not line:
                        return
                yield Span(start, length), line if length == len(line) else None
                start += length

    def _say(self, about: str, said: str) -> None:
        self._said.setdefault(about, said)

    def _was_cut_back(self) -> bool:
        """Whether rows that were read are no longer what the files hold."""
        if self._last:
            try:
                if line_at(self.path / "steps.jsonl", self._last_start) != self._last:
                    return True
            except RunDirectoryError:
                return True
        return any(_stamp(self.path / FOLDER / name) != stamp for name, stamp in self._computed.items())

    def _read_failures(self) -> None:
        try:
            rows, self._failures_end = read_new(self.path / "failures.jsonl", self._failures_end)
        except RunDirectoryError as err:
            self._say("failures.jsonl", str(err))
            return
        for row in rows:
            if row.get("phase") == "training" and isinstance(row.get("boundary"), str):
                place = tuple(row.get(name) for name in ("iteration", "group", "member"))
                if all(isinstance(number, int) for number in place):
                    self._failures[place] = row["boundary"]

    def _read_summaries(self) -> None:
        path = self.path / "steps.jsonl"
        if not path.exists() and not path.is_symlink():
            return
        start = self._end
        for number, (span, line) in enumerate(self._lines(path, start), start=1):
            self._end = span.offset + span.bytes
            # Of a line that is too long there is nothing to compare with: the row before it will do.
            if line is not None:
                self._last, self._last_start = line, span.offset
            where = f"row {number}" if not start else f"the row at byte {span.offset:,}"
            try:
                row = parse_json(decoded(line)) if line is not None else None
                if not isinstance(row, dict):
                    raise ValueError("no object, or too long" if line is None else "no object")
                check_summary(row)
            except ValueError as err:
                self._say(
                    f"steps {span.offset}",
                    f"steps.jsonl, {where}, is damaged ({str(err).rstrip('.')}); its transcript is read instead.",
                )
                continue
            # A transcript that was read between its own end and this row is the same.
            self._computed.pop(transcript_of(self.path, row["iteration"]).name, None)
            self._places[row["iteration"]] = span.offset
            if row["iteration"] not in self._done:
                self._add(row)

    def _read_transcripts(self, most: int | None) -> None:
        """Read transcripts that have no row in steps.jsonl."""
        folder = self.path / FOLDER
        if oddity(folder) or not folder.is_dir():
            return
        files = by_iteration(folder.iterdir())
        missing = sorted(files.keys() - self._done)
        taken = missing if most is None else missing[:most]
        self.pending = len(missing) - len(taken)
        for iteration in taken:
            path = files[iteration]
            stamp = _stamp(path)
            self._add(self._computed_row(path, iteration))
            if stamp is not None:
                self._computed[path.name] = stamp

    def _computed_row(self, path: Path, iteration: int) -> Row:
        records: list[Row] = []
        spans: list[Span] = []
        for span, line in self._lines(path, 0):
            record = None if line is None else _parsed(line)
            if isinstance(record, dict) and _has_steps(record) and record.get("iteration") == iteration:
                # Its texts are read when they are asked for: a transcript is fifty times as large as its columns.
                records.append(
                    {**record, "steps": [{name: step.get(name) for name in STEP} for step in record["steps"]]}
                )
                spans.append(span)
            else:
                self._say(
                    path.name,
                    f"{path.name}, line at byte {span.offset:,}, is not a trajectory of iteration {iteration}: it is "
                    "damaged, or belongs to another run. The others are shown.",
                )
        left = (_stamp(path) or (0, 0))[0] - sum(span.bytes for span in spans)
        if left > 0:
            self._say(path.name, f"{path.name} ends within a line ({counted(left, 'byte')}): it was cut short.")
        return summary_row(iteration, records, spans)

    def _add(self, row: Row) -> None:
        self._done.add(row["iteration"])
        counts, added = row["trajectories"]["steps"], sum(row["trajectories"]["steps"])
        if self._rows + added > MOST_STEPS:
            self._say(
                "most", f"The run has more than {MOST_STEPS:,} recorded steps; the iterations behind are left out."
            )
            return
        first, steps = list(accumulate(counts, initial=0)), row["steps"]
        own = {
            "iteration": np.full(added, row["iteration"], "<u4"),
            "trajectory": np.repeat(np.arange(len(counts), dtype="<u4") + self._trajectories, counts),
            "step": np.arange(added, dtype="<u4") - np.repeat(np.array(first[:-1], "<u4"), counts),
            "failure": self._coded("failure", self._boundaries(row)).repeat(counts),
        }
        for name in ("offset", "bytes"):
            own[name] = np.array(row["trajectories"][name], _OWN[name]).repeat(counts)
        for name, kind in TRAJECTORY.items():
            own[name] = self._column(name, kind, row["trajectories"][name]).repeat(counts)
        for name, kind in STEP.items():
            own[name] = self._column(name, kind, steps[name])
        for name, column in own.items():
            self._blocks[name].append(column)
        self._rows += added
        self._trajectories += len(counts)

    def _boundaries(self, row: Row) -> list[str]:
        places = zip(row["trajectories"]["group"], row["trajectories"]["member"], strict=True)
        return [self._failures.get((row["iteration"], *place), "") for place in places]

    def _column(self, name: str, kind: Kind, values: list[Any]) -> Column:
        if name == "outlier":
            return np.array([_SIDES.get(value, 0) for value in values], "<i1")
        if kind == "text":
            return self._coded(name, values)
        if kind == "flag":
            return np.array([-1 if value is None else value for value in values], "<i1")
        if kind == "key":
            return np.array([_key(value) for value in values], "<f8")
        if kind == "count":
            return np.minimum(np.array(values, np.float64), 2**32 - 1).astype("<u4")
        return np.array(values, "<f4")  # None becomes NaN

    def _coded(self, name: str, values: list[Any]) -> Column:
        codes, texts = self._codes[name], self.texts[name]
        for value in dict.fromkeys(values):
            if value and value not in codes:
                codes[value] = len(texts)
                texts.append(value)
        return np.array([codes.get(value, 0) for value in values], "<u4")


def _types() -> dict[str, str]:
    """Type of each column of a table."""
    named = {name: _TYPES[kind] for name, kind in {**TRAJECTORY, **STEP}.items()}
    return {**_OWN, **named, "outlier": "<i1"}


def _key(value: Any) -> float:
    try:
        return float(int(value, 16))
    except (TypeError, ValueError):
        return float("nan")


def _parsed(line: bytes) -> Any:
    try:
        return parse_json(decoded(line))
    except ValueError:
        return None


def _has_steps(record: Any) -> bool:
    steps = record.get("steps") if isinstance(record, dict) else None
    return isinstance(steps, list) and all(isinstance(step, dict) for step in steps)


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of a file; None where there is none."""
    try:
        facts = path.lstat()
    except OSError:
        return None
    return facts.st_size, facts.st_mtime_ns
