"""Run folders below a folder, read so that whatever is damaged costs its own row alone. Nothing is written."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stapo.documents import parse_json, parse_yaml, read_text
from stapo.run.lock import is_held
from stapo.texts import counted

_DEEPEST = 6
_MOST_FOLDERS = 20_000
_TAIL = 1 << 16
_LARGEST = 1 << 22
"""Bytes of a run.json or config.yaml that is still read; ours have a few thousand."""
_COMPARISON = "compare.json"
_Room = Callable[[Path], tuple[int, float | None]]
_STATUSES = ("done", "running", "stopped", "failed")


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A run, or a comparison of runs.

    Attributes:
        folder: where it is.
        kind: "run" or "comparison".
        status: done, running, stopped, killed, failed or damaged; of a comparison, how many of its runs are done.
        reason: of a run that failed, was stopped or is damaged; "" otherwise.
        preset: preset or file that it was made from.
        algorithm: its name.
        environment: its name.
        done: iterations that are logged.
        planned: iterations of the whole run.
        success: of the newest evaluation, or else of the newest iteration.
        changed: when one of its files was written last, in seconds since 1970.
        bytes: of all its files, hard links counted once.
    """

    folder: Path
    kind: str = "run"
    status: str = "damaged"
    reason: str = ""
    preset: str = ""
    algorithm: str = ""
    environment: str = ""
    done: int | None = None
    planned: int | None = None
    success: float | None = None
    changed: float | None = None
    bytes: int = 0


def find_runs(top: Path) -> list[RunSummary]:
    """Every run and comparison at or below `top`, by name; links are not followed."""
    return summed([read_folder(folder, kind) for folder, kind in run_folders(top)])


def read_folder(folder: Path, kind: str, *, sized: bool = True) -> RunSummary:
    """A run or comparison that `run_folders` has named.

    `sized` sums up its files; without it, `bytes` is 0 and `changed` tells of rows and run.json alone.
    """
    room = _room if sized else _newest
    try:
        return _run(folder, room) if kind == "run" else _comparison(folder, room)
    except Exception as err:  # whatever a foreign file does to a reader, the others are still listed
        return RunSummary(folder=folder, kind=kind, reason=_in_short(err))


def summed(found: list[RunSummary]) -> list[RunSummary]:
    """The same, with what comparisons say of their runs."""
    return [_summed(f, found) if f.kind == "comparison" else f for f in found]


def run_folders(top: Path) -> Iterator[tuple[Path, str]]:
    """Folders at or below `top` that are a "run" or a "comparison"; links are not followed."""
    waiting, seen = [(top, 0)], 0
    while waiting and seen < _MOST_FOLDERS:
        folder, depth = waiting.pop()
        seen += 1
        if _is_file(folder / "run.json") or _is_file(folder / "config.yaml"):
            yield folder, "run"
            continue
        if _is_file(folder / _COMPARISON):
            yield folder, "comparison"
        if depth < _DEEPEST:
            try:
                inner = [Path(e.path) for e in os.scandir(folder) if e.is_dir(follow_symlinks=False)]
            except OSError:
                continue
            waiting += [(path, depth + 1) for path in sorted(inner, reverse=True) if not path.name.startswith(".")]


def _run(folder: Path, room: _Room) -> RunSummary:
    size, changed = room(folder)
    found = RunSummary(folder=folder, bytes=size, changed=changed)
    try:
        info, config = _mapping(folder / "run.json", parse_json), _mapping(folder / "config.yaml", parse_yaml)
    except (OSError, ValueError) as err:
        return replace(found, reason=_in_short(err))
    command, algorithm, environment = info.get("command"), config.get("algorithm"), config.get("env")
    # What was started from Python names no preset.
    command = command if isinstance(command, list) and command[:1] == ["stapo"] else []
    words = command[2:3]
    optim = config.get("optim")
    metrics, evals = _last_row(folder / "metrics.jsonl"), _last_row(folder / "evals.jsonl")
    status = info.get("status")
    reason = "" if status == "done" else str(info.get("reason") or "")
    if status not in _STATUSES:
        return replace(
            found, reason=f"run.json has status {str(status)[:40]!r}, expected one of {', '.join(_STATUSES)}"
        )
    if status == "running" and not is_held(folder):
        status = "killed"
    planned = optim.get("iterations") if isinstance(optim, Mapping) else None
    done = metrics.get("iteration", 0)
    return replace(
        found,
        status=status,
        reason=reason.splitlines()[0][:300] if reason.strip() else "",
        preset=str(words[0]) if words and not str(words[0]).startswith("-") else ("tiny" if command else ""),
        algorithm=_name(algorithm),
        environment=_name(environment),
        done=done if isinstance(done, int) else None,
        planned=planned if isinstance(planned, int) else None,
        success=_share(evals.get("success")) if evals else _share(metrics.get("success")),
    )


def _comparison(folder: Path, room: _Room) -> RunSummary:
    plan = _mapping(folder / _COMPARISON, parse_json)
    cells = plan.get("cells")
    size, changed = room(folder)
    return RunSummary(
        folder=folder, kind="comparison", status="", bytes=size, changed=changed,
        planned=len(cells) if isinstance(cells, list) else None,
    )  # fmt: skip


def _summed(comparison: RunSummary, found: list[RunSummary]) -> RunSummary:
    """A comparison with how many of its runs are done; starts are not runs of the plan."""
    if comparison.status == "damaged":
        return comparison
    runs = [f for f in found if (comparison.folder / "runs") in f.folder.parents]
    done = sum(f.status == "done" for f in runs)
    names = dict.fromkeys(f.algorithm for f in runs if f.algorithm)
    environments = dict.fromkeys(f.environment for f in runs if f.environment)
    status = "done" if done == comparison.planned else "running" if any(f.status == "running" for f in runs) else "open"
    return replace(
        comparison, status=status, algorithm=", ".join(names), environment=", ".join(environments), reason="",
        preset=f"comparison: {done} of {counted(comparison.planned or 0, 'run')} done", done=None, planned=None,
    )  # fmt: skip


def _mapping(path: Path, parse: Any) -> Mapping[str, Any]:
    if path.is_symlink():
        raise ValueError(f"{path.name} is a link")
    try:
        data = parse(read_text(path, _LARGEST))
    except ValueError as err:
        raise ValueError(f"{path.name} cannot be read: {err}") from err
    if not isinstance(data, Mapping):
        raise ValueError(f"{path.name} holds {type(data).__name__}, expected a mapping")
    return data


def _last_row(path: Path) -> Mapping[str, Any]:
    """The last whole row of a JSON-lines file that can be read; empty where there is none."""
    try:
        if not _is_file(path):
            return {}
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            row = parse_json(line)
        except ValueError:
            continue
        if isinstance(row, Mapping):
            return row
    return {}


def _newest(folder: Path) -> tuple[int, float | None]:
    times = []
    for name in ("run.json", "metrics.jsonl", "evals.jsonl", "sft.jsonl", _COMPARISON):
        with suppress(OSError):
            times.append(os.lstat(folder / name).st_mtime)
    return 0, max(times, default=None)


def _room(folder: Path) -> tuple[int, float | None]:
    total, newest, seen = 0, None, set[tuple[int, int]]()
    for place, _, files in os.walk(folder):
        for name in files:
            try:
                stat = os.lstat(os.path.join(place, name))
            except OSError:
                continue
            if (stat.st_dev, stat.st_ino) not in seen:
                seen.add((stat.st_dev, stat.st_ino))
                total += stat.st_size
                newest = stat.st_mtime if newest is None else max(newest, stat.st_mtime)
    return total, newest


def _is_file(path: Path) -> bool:
    try:
        return path.is_file() and not path.is_symlink()
    except OSError:
        return False


def _name(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value.get("name", "")
    return value if isinstance(value, str) else ""


def _share(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def _in_short(err: Exception) -> str:
    return " ".join(str(err).split())[:300] or type(err).__name__
