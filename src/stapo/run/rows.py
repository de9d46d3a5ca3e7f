"""Reading files of rows and naming those of transcripts, and whether they are still what a run has written.

Every save holds `rows.json`: for each file of rows its size, the SHA-256 of all of it, and a short hash of each line,
so that damage can be named to the line. The hashes grow with the files; nothing is read twice while a run goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stapo.atomic_io import open_to_read, reason_of
from stapo.documents import decoded, parse_json
from stapo.errors import RunDirectoryError, SaveError, reading
from stapo.run.saves import manifest_of

FILE_NAME = "rows.json"
MOST_LINE = 1 << 27
"""Bytes of a row that is still read: a line without an end would fill the memory."""
_OURS = re.compile(r"(transcripts/)?[\w-]+\.jsonl")
_LINE_DIGITS = 8  # of the hash of a line: enough to name it; the hash of the whole file decides

FOLDER = "transcripts"
_NAME = re.compile(r"iteration-(\d{1,9})\.jsonl")


@dataclass
class _Written:
    """What was hashed of a file so far."""

    inode: int
    size: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    lines: list[str] = field(default_factory=list)


class RowHashes:
    """Running hashes of the files of rows of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[str, _Written] = {}

    def catch_up(self, names: Iterable[str]) -> dict[str, int]:
        """Hash what was added since the last call; returns the size of each file that is there."""
        self._written = {name: self._caught_up(name) for name in names if (self._folder / name).is_file()}
        return {name: written.size for name, written in self._written.items()}

    def record(self) -> bytes:
        """The contents of `rows.json`."""
        files = {
            name: {"bytes": w.size, "sha256": w.digest.hexdigest(), "lines": "".join(w.lines)}
            for name, w in sorted(self._written.items())
        }
        return (json.dumps({"files": files}) + "\n").encode()

    def _caught_up(self, name: str) -> _Written:
        with open_to_read(self._folder / name) as file:
            facts = os.fstat(file.fileno())
            written = self._written.get(name)
            # A file that was written anew is another file.
            if written is None or written.inode != facts.st_ino or written.size > facts.st_size:
                written = _Written(facts.st_ino)
            file.seek(written.size)
            for line in file:
                written.digest.update(line)
                written.lines.append(_digest_of_line(line))
                written.size += len(line)
        return written


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON-lines file; an unfinished last line is left out.

    Raises:
        RunDirectoryError: a line that is not JSON; file and line are named.
    """
    return (row for row, _ in rows_behind(path, 0))


def read_new(path: Path, start: int) -> tuple[list[dict[str, Any]], int]:
    """Complete rows behind the byte `start`, and the byte behind them; none if there is no file.

    Raises:
        RunDirectoryError: as for `read_jsonl`; or the file is shorter than that.
    """
    if not path.is_file():
        return [], start
    if path.stat().st_size < start:
        raise RunDirectoryError(f"'{path}' was cut back while it was read: the run was resumed.")
    found = list(rows_behind(path, start))
    return [row for row, _ in found], found[-1][1] if found else start


def line_at(path: Path, offset: int, most: int = MOST_LINE) -> bytes:
    """The line that begins at the byte `offset`, or the first `most` bytes of it.

    Raises:
        RunDirectoryError: the file cannot be read.
    """
    with reading(f"'{path}'", RunDirectoryError), open_to_read(path) as file:
        file.seek(offset)
        return file.readline(min(most, MOST_LINE))


def rows_behind(path: Path, start: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Rows behind the byte `start`, each with the byte behind it; lines are counted from there.

    Raises:
        RunDirectoryError: a line is not JSON, no object, or longer than `MOST_LINE`; file and line are named.
    """
    with reading(f"'{path}'", RunDirectoryError):
        file = open_to_read(path)
    with file:
        file.seek(start)
        for number, line in enumerate(iter(lambda: file.readline(MOST_LINE + 1), b""), start=1):
            if len(line) > MOST_LINE:
                raise RunDirectoryError(f"'{path}' line {number} is longer than {MOST_LINE:,} bytes.")
            if not line.endswith(b"\n"):
                return
            start += len(line)
            try:
                row = parse_json(decoded(line.rstrip()))
            except ValueError as err:
                verb = "is" if str(err).startswith("n") else "cannot be read:"
                raise RunDirectoryError(f"'{path}' line {number} {verb} {err}.") from err
            if not isinstance(row, dict):
                raise RunDirectoryError(f"'{path}' line {number} holds {type(row).__name__}, expected an object.")
            yield row, start


def read_record(save: Path) -> dict[str, dict[str, Any]]:
    """What a save says of the files of rows, by path in the run directory; {} for saves before there was any.

    Raises:
        SaveError: it was changed since it was written.
    """
    facts = manifest_of(save).get(FILE_NAME)
    if facts is None:
        return {}
    path = save / FILE_NAME
    with reading(f"'{path}'", SaveError), open_to_read(path) as file:
        text = file.read(int(facts["bytes"]) + 1)
    if hashlib.sha256(text).hexdigest() != facts["sha256"]:
        raise SaveError(f"'{path}' was changed since it was written: its SHA-256 differs.")
    try:
        files = parse_json(text)["files"]
        return {
            name: {"bytes": int(facts["bytes"]), "sha256": str(facts["sha256"]), "lines": str(facts["lines"])}
            for name, facts in files.items()
            if _OURS.fullmatch(name)
        }
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise SaveError(f"'{path}' is not a record of ours: {err}.") from err


def damages(folder: Path, record: Mapping[str, Mapping[str, Any]], *, whole: bool = False) -> list[str]:
    """What is wrong with files of rows that are not what was written, or with `whole` grew since, without full stops.

    File and first damaged line are named.
    """
    return [said for name, facts in record.items() if (said := _damage(folder / name, facts, whole))]


def _damage(path: Path, facts: Mapping[str, Any], whole: bool) -> str:
    try:
        with open_to_read(path) as file:
            digest, left, number, lines = hashlib.sha256(), facts["bytes"], 0, facts["lines"]
            while left > 0:
                line = file.readline(left)
                number += 1
                if not line:
                    return f"'{path}' ends before line {number}, which was written: it was cut short"
                expected = lines[(number - 1) * _LINE_DIGITS : number * _LINE_DIGITS]
                if _digest_of_line(line) != expected:
                    return f"'{path}' line {number} is not what was written: it was changed, added, moved or removed"
                digest.update(line)
                left -= len(line)
            if digest.hexdigest() != facts["sha256"]:
                return f"'{path}' is not what was written: its SHA-256 differs"
            if whole and file.read(1):
                return f"'{path}' line {number + 1} was added after the run's end"
    except FileNotFoundError:
        return f"'{path}' is missing"
    except OSError as err:
        return f"'{path}' cannot be read: {reason_of(err)}"
    return ""


def _digest_of_line(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:_LINE_DIGITS]


def row_file_name(iteration: int) -> str:
    """The name under which `RunDirectory.write_rows` writes the transcript of an iteration."""
    return f"{FOLDER}/iteration-{iteration:05d}"


def transcript_of(run: Path, iteration: int) -> Path:
    """Where the transcript of an iteration is written, in the folder of a run."""
    return run / f"{row_file_name(iteration)}.jsonl"


def by_iteration(paths: Iterable[Path]) -> dict[int, Path]:
    """Transcript files by iteration; files of other names are somebody else's."""
    matches = ((_NAME.fullmatch(path.name), path) for path in paths)
    return {int(match[1]): path for match, path in matches if match}
