"""Games as JSON lines, one game per line, plain or xz-compressed.

The whole file is checked when it is opened; the PDDL texts are kept deflated (about 5 kB each) and
parsed on demand.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stapo.documents import parse_json, read_lines
from stapo.envs.alfworld.game import TASK_TYPES, Game, RecordedGames, TaskType
from stapo.errors import GameFileError, did_you_mean, reading

_BOM = b"\xef\xbb\xbf"
SUFFIXES = (".jsonl", ".jsonl.xz")
REQUIRED = ("id", "split", "task_type", "goal", "pddl_problem")


def game_files(folder: Path) -> list[Path]:
    """The ``games_*.jsonl(.xz)`` files of a folder, sorted."""
    return sorted(p for p in folder.glob("games_*") if p.name.endswith(SUFFIXES) and p.is_file())


class _Record(NamedTuple):
    split: str
    task_type: TaskType
    goal: str
    packed: bytes
    digest: str


class CompactGames(RecordedGames[_Record]):
    """The games of some JSON-lines files.

    Args:
        files: paths ending in .jsonl or .jsonl.xz.

    Raises:
        GameFileError: an unreadable, truncated or malformed file (with the line number), an id that
            occurs twice, or a file without any game.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        records: dict[str, _Record] = {}
        for file in files:
            found = 0
            for number, line in _lines(file):
                found += 1
                game_id, record = _read(file, number, line)
                if game_id in records:
                    raise GameFileError(f"{file}, line {number}: id '{game_id}' occurs twice; ids must be unique.")
                records[game_id] = record
            if not found:
                raise GameFileError(f"{file} holds no games; expected one JSON object per line.")
        super().__init__(records)

    def load(self, task_id: str) -> Game:
        """The game of an id."""
        record = self.record(task_id)
        problem = zlib.decompress(record.packed).decode("utf-8", "surrogatepass")
        return Game(task_id, record.split, record.task_type, record.goal, problem)

    def content(self) -> dict[str, list[str]]:
        """Split -> a digest of each game, equal for equal problems and goals."""
        return {split: [self.records[i].digest for i in ids] for split, ids in self.by_split.items()}


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    if not file.name.endswith(SUFFIXES):
        raise GameFileError(f"{file}: unknown kind of file; expected a name ending in {' or '.join(SUFFIXES)}.")
    try:
        with reading(str(file), GameFileError):
            for number, raw in read_lines(file):
                line = raw.removeprefix(_BOM) if number == 1 else raw
                if line.strip():
                    yield number, line
    except GameFileError:
        raise
    except ValueError as err:
        raise GameFileError(f"{file}, {err}. Copy or download the file again.") from err


def _read(file: Path, number: int, line: bytes) -> tuple[str, _Record]:
    try:
        data: Any = parse_json(line)
    except ValueError as err:
        raise GameFileError(
            f"{file}, line {number}: not valid JSON ({err}); the line may be cut short. Copy the file again."
        ) from err
    if not isinstance(data, dict):
        raise GameFileError(f"{file}, line {number}: expected a JSON object, found {type(data).__name__}.")
    for key in REQUIRED:
        value = data.get(key)
        if not isinstance(value, str) or not value:
            found = "it is missing" if key not in data else f"found {value!r:.60}"
            raise GameFileError(
                f"{file}, line {number}: key '{key}' must be a non-empty text, {found}."
                f"{did_you_mean(key, [k for k in data if k not in REQUIRED])}"
            )
    task_type = data["task_type"]
    if task_type not in TASK_TYPES:
        raise GameFileError(
            f"{file}, line {number}: unknown task_type '{task_type}'.{did_you_mean(task_type, TASK_TYPES)} Expected "
            f"one of {', '.join(TASK_TYPES)}."
        )
    problem = data["pddl_problem"].encode("utf-8", "surrogatepass")
    return data["id"], _Record(data["split"], task_type, data["goal"], zlib.compress(problem, 1), digest(problem))


def digest(problem: bytes) -> str:
    """Equal for problems that differ in nothing but blanks."""
    return hashlib.sha256(b" ".join(problem.split())).hexdigest()[:16]
