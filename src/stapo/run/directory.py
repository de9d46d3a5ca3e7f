"""One run, one self-describing folder.

    config.yaml             the resolved configuration
    run.json                format, status, command, versions, times, summary
    metrics.jsonl           one row per iteration
    evals.jsonl             one row per evaluation in training
    eval_episodes.jsonl     one row per episode of the evaluations at the start and at the end
    failures.jsonl          one row per episode that failed for reasons that are not the policy's
    extra-evals.jsonl       results of 'stapo eval --save'; apart, so that curves keep to one protocol
    transcripts/*.jsonl     one trajectory per line, with every number computed for its steps
    steps.jsonl             one row per transcript: its numbers by columns, and where each trajectory stands
    checkpoints/NAME/       policies to evaluate: safetensors model and its tokenizer
    trackers/               what trackers were sent, and the files of those that keep theirs here
    saves/NNNNNN/           states to resume from: everything that the rest of the run depends on
    report.html             static report

Rows are appended whole or not at all, so a reader never sees half a line of a finished row.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from stapo import former_names
from stapo.atomic_io import (
    append_whole,
    cut_off,
    oddities,
    open_to_read,
    reason_of,
    remove_folder,
    sweep_temporaries,
    sync,
    temporary_of,
    write_durably,
)
from stapo.documents import decoded, parse_json, parse_yaml, shown
from stapo.errors import RunDirectoryError, SaveError, writing
from stapo.run.lock import FILE_NAME as LOCK_NAME
from stapo.run.lock import RunLock
from stapo.run.rows import RowHashes, damages, read_jsonl, read_record
from stapo.run.saves import MANIFEST, MARKER, SaveStore, check_sealed, is_left_over, write_sealed
from stapo.texts import hide_known_secrets

FORMAT_VERSION = 1
BEST = "best"
"""Checkpoint of the policy that `eval.keep_best` has chosen."""
# Files of rows that belong to the training itself: a resumed run cuts them back to where its save was taken.
TRAINING_ROWS = ("sft", "metrics", "evals", "eval_episodes", "failures", "steps")
_DERIVED = ("steps",)  # from transcripts; nothing depends on them, so damage stops no resume
ROW_FILES = tuple(f"{name}.jsonl" for name in (*TRAINING_ROWS, *former_names.ROWS.values(), "extra-evals"))
NAMES = (
    LOCK_NAME,
    "config.yaml",
    "run.json",
    "report.html",
    *ROW_FILES,
    "transcripts",
    "checkpoints",
    "saves",
    "diagnosis",
    "trackers",
)
"""What there may be in a run directory; other files are somebody's own, and nothing here touches them."""

_UNFINISHED = {LOCK_NAME, "config.yaml"}
_MOST_CONFIG, _MOST_INFO = 1 << 18, 1 << 26  # bytes; a configuration has 4,000, and YAML is slow to read
_PACKAGES = ("stapo", "torch", "transformers", "tokenizers", "safetensors", "numpy")


class RunDirectory:
    """Reads and writes the files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hashes = RowHashes(path)

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any], command: list[str]) -> RunDirectory:
        """Make a new run directory.

        Raises:
            RunDirectoryError: the path exists and is not an empty folder, or cannot be written.
        """
        require_free(path)
        run = cls(path)
        with writing(f"run directory '{path}'"):
            path.mkdir(parents=True, exist_ok=True)
            run.write_config(config)
            # Last: a folder is a run from here on.
            run.write_info(
                {
                    "format": FORMAT_VERSION,
                    "status": "running",
                    "command": command,
                    "started": _now(),
                    "python": platform.python_version(),
                    "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
                    "versions": versions(),
                }
            )
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Open an existing run directory.

        Raises:
            RunDirectoryError: missing, not a run, written by a later version, or with links, pipes or devices in the
                place of its files.
        """
        if not path.exists():
            raise RunDirectoryError(f"run directory '{path}' does not exist. Runs are made by 'stapo train'.")
        require_plain(path, NAMES)
        run = cls(path)
        if not (path / "run.json").is_file() or not (path / "config.yaml").is_file():
            raise RunDirectoryError(
                f"'{path}' is not a run directory: expected run.json and config.yaml in it, as 'stapo train' writes."
            )
        found = run.info().get("format")
        if found != FORMAT_VERSION:
            raise RunDirectoryError(
                f"'{path}' has run format {found}, this version reads format {FORMAT_VERSION}. "
                "Read it with the version that wrote it (see versions in run.json)."
            )
        return run

    def info(self) -> dict[str, Any]:
        """Contents of run.json."""
        data = read_mapping(self.path / "run.json", _MOST_INFO)
        if isinstance(data.get("seconds"), dict):
            data["seconds"] = former_names.with_present_names(data["seconds"])[0]
        return data

    def started(self) -> datetime:
        """When the run began; the date that its chat templates write, however often it is resumed.

        Raises:
            RunDirectoryError: run.json does not tell.
        """
        said = self.info().get("started")
        try:
            found = datetime.fromisoformat(said)  # type: ignore[arg-type]  # foreign text: anything
            # A date without a zone is UTC, as all of ours; near the first and last year there is no other zone.
            return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
        except (TypeError, ValueError, OverflowError) as err:
            raise RunDirectoryError(
                f"'{self.path / 'run.json'}' does not tell when the run began: started is {shown(said)}, expected a "
                "time such as 2026-01-31T12:00:00+00:00. The model's chat template writes that date into every prompt; "
                "put it back."
            ) from err

    def write_info(self, info: Mapping[str, Any]) -> None:
        """Replace run.json in one step.

        Raises:
            RunDirectoryError: it cannot be written; the old one stands.
        """
        self._replace("run.json", hide_known_secrets(json.dumps(info, indent=1)) + "\n")

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replace config.yaml in one step.

        Raises:
            RunDirectoryError: it cannot be written; the old one stands.
        """
        self._replace("config.yaml", yaml.safe_dump(dict(config), sort_keys=False))

    def _replace(self, name: str, text: str) -> None:
        with writing(f"'{self.path / name}'"):
            write_durably(self.path / name, text.encode())

    def finish(self, status: str, **facts: Any) -> None:
        """Set the status (done, stopped, failed) and further facts in run.json.

        A disk that is full does not hide what went wrong: where run.json cannot be written it stays as it was.
        """
        with suppress(OSError):
            self.write_info({**self.info(), "status": status, "ended": _now(), **jsonable(facts)})

    def note_resume(self, command: list[str], source: str, iteration: int) -> None:
        """Note in run.json that the run goes on, from which save and after which iteration."""
        info = {k: v for k, v in self.info().items() if k not in ("ended", "reason")}
        entry = {"time": _now(), "command": command, "save": source, "iteration": iteration, "versions": versions()}
        earlier = info.get("resumed")
        resumed = [*(earlier if isinstance(earlier, list) else []), entry]
        self.write_info({**info, "status": "running", "resumed": resumed})

    def lock(self) -> RunLock:
        """A context in which this process alone may write the run."""
        return RunLock(self.path)

    @property
    def saves(self) -> SaveStore:
        """The states that the run can be continued from."""
        return SaveStore(self.path / "saves")

    def config(self) -> dict[str, Any]:
        """The resolved configuration as plain data.

        Raises:
            RunDirectoryError: config.yaml is missing, damaged or holds something else than settings.
        """
        data = read_mapping(self.path / "config.yaml", _MOST_CONFIG, parse_yaml, "a mapping of settings")
        return former_names.with_present_names(data)[0]

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Append one row to `NAME.jsonl`; non-finite numbers become null."""
        self.append_rows(name, [row])

    def append_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to `NAME.jsonl`, all or none; non-finite numbers become null.

        Raises:
            RunDirectoryError: they cannot be written; earlier rows are untouched.
        """
        with writing(f"'{self.row_file(name)}'", " Its earlier rows are untouched."):
            append_whole(self.row_file(name), b"".join(map(_line, rows)))

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Write `NAME.jsonl` anew, whole; returns its path.

        Raises:
            RunDirectoryError: it cannot be written; what stood there still does.
        """
        path = self.path / f"{name}.jsonl"
        with writing(f"'{path}'"):
            path.parent.mkdir(exist_ok=True)
            write_durably(path, b"".join(map(_line, rows)))
        return path

    def row_positions(self) -> dict[str, int]:
        """Bytes of each file of training rows, forced onto the disk first; `row_record` is then up to them."""
        sizes = self._hashes.catch_up([*ROW_FILES, *(f"transcripts/{path.name}" for path in self.transcripts())])
        files = {name: self.row_file(name) for name in TRAINING_ROWS}
        positions = {name: sizes[file.name] for name, file in files.items() if file.name in sizes}
        for name in positions:
            sync(files[name])
        return positions

    def row_record(self) -> bytes:
        """Hashes of all files of rows as of the last call of `row_positions`; a save keeps them."""
        return self._hashes.record()

    def row_damage(self, save: Path, *, training: bool) -> list[str]:
        """Files of rows that are not what they were when `save` was written, each with its first damaged line.

        Args:
            save: a save of this run.
            training: rows that the rest of the run depends on, or those that are only read.

        Raises:
            SaveError: what the save says of them was changed.
        """
        record = read_record(save)
        of_training = {self.row_file(name).name for name in TRAINING_ROWS if name not in _DERIVED}
        own = {name: facts for name, facts in record.items() if (name in of_training) == training}
        return damages(self.path, own)

    def remarks(self) -> list[str]:
        """What a reader of the run has to be told of its files of rows: those that are not what was written."""
        newest = self.saves.complete()[:1]
        if not newest:
            return []
        try:
            record = read_record(newest[0])
            done = self.info().get("status") == "done"
        except (SaveError, RunDirectoryError) as err:
            return [f"The files of rows cannot be checked: {err}"]
        ours = {name: facts for name, facts in record.items() if name in ROW_FILES or name.startswith("transcripts/")}
        # Evaluations may be added to a run that is done.
        found = [
            *damages(self.path, {k: v for k, v in ours.items() if k != "extra-evals.jsonl"}, whole=done),
            *damages(self.path, {k: v for k, v in ours.items() if k == "extra-evals.jsonl"}),
        ]
        return [f"{said}." for said in found]

    def holds(self, positions: Mapping[str, int]) -> str | None:
        """None where every file of rows is at least as long as `positions` say, else the first that is not."""
        for name, size in positions.items():
            path = self.row_file(name)
            if name not in _DERIVED and _size(path) < size:
                return f"'{path}' holds less than was written when the state was saved ({size} bytes)"
        return None

    def cut_back(self, positions: Mapping[str, int], iteration: int) -> None:
        """Undo what came after a save: rows beyond `positions`, transcripts and checkpoints after `iteration`."""
        for name in TRAINING_ROWS:
            path = self.row_file(name)
            # A file that somebody has shortened would be filled up with zeros.
            if name in positions and _size(path) >= positions[name]:
                cut_off(path, positions[name])
            else:
                path.unlink(missing_ok=True)
        sweep_temporaries(self.path, NAMES)
        for path in self.transcripts():
            if _number(path.stem) > iteration:
                path.unlink()
        folder = self.path / "checkpoints"
        for path in list(folder.iterdir()) if folder.is_dir() else []:
            if is_left_over(path) or _number(path.name) > iteration:
                remove_folder(path)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """All complete rows of `NAME.jsonl`, oldest first; none if there is no such file."""
        path = self.row_file(name)
        return list(read_jsonl(path)) if path.is_file() else []

    def row_file(self, name: str) -> Path:
        """File of the rows called `name`, under its former name where the run has that one."""
        path = self.path / f"{name}.jsonl"
        former = self.path / f"{former_names.ROWS.get(name, name)}.jsonl"
        return former if former.is_file() and not path.exists() else path

    def transcripts(self) -> list[Path]:
        """Transcript files, in order of iteration."""
        return sorted((self.path / "transcripts").glob("*.jsonl"))

    def checkpoint(self, name: str) -> Path:
        """Folder of the checkpoint called `name` (start, best, final, iteration-00010)."""
        return self.path / "checkpoints" / name

    def write_checkpoint(self, name: str, fill: Callable[[Path], None]) -> Path:
        """Write the checkpoint called `name`, whole or not at all; returns its folder.

        Raises:
            RunDirectoryError: it cannot be written; a checkpoint of that name is still there.
        """
        path = self.checkpoint(name)
        try:
            write_sealed(path, fill)
        except Exception as err:  # the writers of tensors raise errors of their own when a disk is full
            raise RunDirectoryError(f"checkpoint '{path}' cannot be written: {reason_of(err)}.") from err
        return path

    def check_checkpoint(self, name: str) -> Path:
        """Check the files of a checkpoint against their hashes; returns its folder.

        Raises:
            RunDirectoryError: a file is missing, cut short or changed; it is named. Checkpoints of earlier versions
                have no hashes.
        """
        path = self.checkpoint(name)
        if (path / MANIFEST).exists() or (path / MARKER).exists():
            try:
                check_sealed(path, strangers=True)
            except SaveError as err:
                said = f"checkpoint '{name}' is damaged: {err} Choose another with --checkpoint."
                raise RunDirectoryError(said) from err
        return path

    def checkpoints(self) -> list[str]:
        """Names of the saved checkpoints: start, best, then by iteration, final last."""
        folder = self.path / "checkpoints"
        found = [p for p in folder.iterdir() if not p.name.startswith(".")] if folder.is_dir() else []
        names = [p.name for p in found if (p / "config.json").is_file()]
        return sorted(names, key=lambda n: (n == "final", n != "start", n))


def require_free(path: Path) -> None:
    """Check that a new run may be written to `path`.

    Raises:
        RunDirectoryError: it exists and is not an empty folder. A folder in which the making of a run was cut short
            counts as empty.
    """
    names = {p.name for p in path.iterdir()} if path.is_dir() else set()
    made = {name for name in names if temporary_of(name) not in ("config.yaml", "run.json")}
    unfinished = LOCK_NAME in names and made <= _UNFINISHED
    if path.exists() and (names or not path.is_dir()) and not unfinished:
        kind = "is not empty" if path.is_dir() else "is not a folder"
        raise RunDirectoryError(
            f"'{path}' exists already and {kind}. Nothing was touched. Choose another folder with --out, or remove "
            "this one yourself."
        )


def require_plain(path: Path, names: Iterable[str]) -> None:
    """Check that no link, pipe, socket or device stands where a file or folder of ours belongs.

    Args:
        path: a folder; it may itself be a link, since its user has named it.
        names: entries of it that are ours, with all that is in them.

    Raises:
        RunDirectoryError: there is one; it is named.
    """
    found = next(oddities(path, list(names)), None)
    if found is not None:
        raise RunDirectoryError(
            f"'{found[0]}' is {found[1]}, expected a file or folder of its own: nothing is read or written through it. "
            "Put what it stands for in its place, or remove it. Nothing was touched."
        )


def read_mapping(
    path: Path, most_bytes: int, parse: Callable[[str], Any] = parse_json, expected: str = "an object"
) -> dict[str, Any]:
    """What a small file of JSON, or of another format, holds.

    Raises:
        RunDirectoryError: it cannot be read, is larger than `most_bytes`, or holds something else than `expected`.
    """
    try:
        with open_to_read(path) as file:
            text = file.read(most_bytes + 1)
        if len(text) > most_bytes:
            raise ValueError(f"it has more than {most_bytes:,} bytes")
        data = parse(decoded(text))
    except (OSError, ValueError) as err:
        raise RunDirectoryError(f"'{path}' cannot be read: {reason_of(err)}.") from err
    if not isinstance(data, dict):
        raise RunDirectoryError(f"'{path}' holds {type(data).__name__}, expected {expected}.")
    return data


def jsonable(value: Any) -> Any:
    """Turn NumPy scalars and non-finite floats into what strict JSON can hold; no text of it shows a known secret."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return hide_known_secrets(value) if isinstance(value, str) else value


def _line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(jsonable(row), ensure_ascii=True, allow_nan=False) + "\n").encode()


def _size(path: Path) -> int:
    """Bytes of a file; -1 where there is none."""
    return path.stat().st_size if path.is_file() else -1


def _number(name: str) -> int:
    """The iteration in a name such as iteration-00010; -1 where there is none."""
    tail = name.rpartition("iteration-")[2]
    return int(tail) if tail.isdecimal() else -1


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    return {"python": sys.version.split()[0], **{package: _version(package) for package in _PACKAGES}}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
