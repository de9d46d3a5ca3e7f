"""One run, one self-describing folder.

    config.yaml             the resolved configuration
    run.json                format, status, command, versions, times, summary
    metrics.jsonl           one row per iteration
    evals.jsonl             one row per evaluation in training
    extra-evals.jsonl       results of 'stapo eval --save'; apart, so that curves keep to one protocol
    transcripts/*.jsonl     one trajectory per line, with every number computed for its steps
    checkpoints/NAME/       safetensors model and its tokenizer
    report.html             static report

Rows are appended whole and flushed, so a reader never sees half a line of a finished row.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from stapo.errors import RunDirectoryError

FORMAT_VERSION = 1
_PACKAGES = ("stapo", "torch", "transformers", "tokenizers", "safetensors", "numpy")


class RunDirectory:
    """Reads and writes the files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any], command: list[str]) -> RunDirectory:
        """Make a new run directory.

        Raises:
            RunDirectoryError: the path exists and is not an empty folder, or cannot be written.
        """
        require_free(path)
        run = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
        except OSError as err:
            raise RunDirectoryError(f"run directory '{path}' cannot be written: {err.strerror or err}.") from err
        run.write_info(
            {
                "format": FORMAT_VERSION,
                "status": "running",
                "command": command,
                "started": _now(),
                "python": platform.python_version(),
                "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
                "versions": _versions(),
            }
        )
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Open an existing run directory.

        Raises:
            RunDirectoryError: missing, not a run, or written by a later version.
        """
        if not path.exists():
            raise RunDirectoryError(f"run directory '{path}' does not exist. Runs are made by 'stapo train'.")
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
        try:
            data = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as err:
            raise RunDirectoryError(f"'{self.path / 'run.json'}' cannot be read: {err}.") from err
        if not isinstance(data, dict):
            raise RunDirectoryError(f"'{self.path / 'run.json'}' holds {type(data).__name__}, expected an object.")
        return data

    def write_info(self, info: Mapping[str, Any]) -> None:
        """Replace run.json in one step."""
        temporary = self.path / "run.json.tmp"
        temporary.write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.path / "run.json")

    def finish(self, status: str, **facts: Any) -> None:
        """Set the status (done, stopped, failed) and further facts in run.json."""
        self.write_info({**self.info(), "status": status, "ended": _now(), **jsonable(facts)})

    def config(self) -> dict[str, Any]:
        """The resolved configuration as plain data.

        Raises:
            RunDirectoryError: config.yaml is missing, damaged or holds something else than settings.
        """
        path = self.path / "config.yaml"
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
            reason = " ".join(str(err).split())
            raise RunDirectoryError(f"'{path}' cannot be read: {reason}.") from err
        if not isinstance(data, dict):
            raise RunDirectoryError(f"'{path}' holds {type(data).__name__}, expected a mapping of settings.")
        return data

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Append one row to `NAME.jsonl`; non-finite numbers become null."""
        line = json.dumps(jsonable(row), ensure_ascii=True, allow_nan=False) + "\n"
        with (self.path / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(line)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """All complete rows of `NAME.jsonl`, oldest first; none if there is no such file."""
        path = self.path / f"{name}.jsonl"
        return list(read_jsonl(path)) if path.is_file() else []

    def transcripts(self) -> list[Path]:
        """Transcript files, in order of iteration."""
        return sorted((self.path / "transcripts").glob("*.jsonl"))

    def checkpoint(self, name: str) -> Path:
        """Folder of the checkpoint called `name` (start, final, iteration-00010)."""
        return self.path / "checkpoints" / name

    def checkpoints(self) -> list[str]:
        """Names of the saved checkpoints: start, then by iteration, final last."""
        folder = self.path / "checkpoints"
        names = [p.name for p in folder.iterdir() if (p / "config.json").is_file()] if folder.is_dir() else []
        return sorted(names, key=lambda n: (n == "final", n != "start", n))


def require_free(path: Path) -> None:
    """Check that a run may be written to `path`.

    Raises:
        RunDirectoryError: it exists and is not an empty folder.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        kind = "is not empty" if path.is_dir() else "is not a folder"
        raise RunDirectoryError(
            f"'{path}' exists already and {kind}. Nothing was touched. Choose another folder with --out, or remove "
            "this one yourself."
        )


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON-lines file; an unfinished last line is left out.

    Raises:
        RunDirectoryError: a line that is not JSON; file and line are named.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as err:
                raise RunDirectoryError(f"'{path}' line {number} is not JSON: {err}.") from err


def jsonable(value: Any) -> Any:
    """Turn NumPy scalars and non-finite floats into what strict JSON can hold."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
