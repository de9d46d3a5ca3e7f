"""`stapo runs [FOLDER] [--json]`."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional

from stapo.cli.command import Command, arg
from stapo.cli.words import foreign, say, write_line
from stapo.errors import ConfigError
from stapo.run.folders import RunSummary, find_runs

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True, kw_only=True)
class Runs(Command):
    """List the run folders in FOLDER, including those of comparisons: progress, outcome and size of each.

    Nothing is written. Damaged runs are listed as damaged.

    Attributes:
        folder: where to look (default: runs): a run, a folder of runs, or one that 'stapo compare' wrote.
        json: print machine-readable JSON instead of a table.
    """

    EXAMPLES = """
stapo runs
stapo runs runs/compare
stapo runs --json
"""
    NOTES = """
status:
  done                 trained to its end
  running              a process is writing it now
  stopped              by a signal; 'stapo resume RUN' resumes it
  killed               ended without a message; 'stapo resume RUN' resumes it
  failed               ended with an error, which --json and 'stapo report RUN' name
  damaged              its files cannot be read
"""

    folder: Positional[str | None] = arg("FOLDER", None)
    json: bool = False

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code."""
        folder, found = Path(self.folder or "runs"), list[RunSummary]()
        if folder.is_dir():
            found = find_runs(folder)
        elif self.folder or folder.exists():
            raise ConfigError(
                f"'{folder}' is not a folder. 'stapo runs FOLDER' lists the runs in it; 'stapo train' writes to runs."
            )
        if self.json:
            print(json.dumps([_entry(f) for f in found], indent=1))
        elif found:
            _show(found)
        else:
            write_line(f"no runs in '{folder}' yet; 'stapo train' makes one.")
        return 0


def _entry(found: RunSummary) -> dict[str, Any]:
    ended = None if found.changed is None else datetime.fromtimestamp(found.changed, UTC).isoformat(timespec="seconds")
    fields = ("kind", "status", "reason", "preset", "algorithm", "environment", "done", "planned", "success", "bytes")
    return {"folder": str(found.folder), **{name: getattr(found, name) for name in fields}, "changed": ended}


def _show(found: list[RunSummary]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    table = Table("folder", "status", "preset", "algorithm", "environment")
    for heading in ("iterations", "success", "changed", "size"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.columns[0].overflow = "fold"
    for f in found:
        style = {"done": "green", "running": "cyan", "failed": "red", "damaged": "red"}.get(f.status, "yellow")
        table.add_row(
            foreign(f.folder), Text(f.status, style=style),
            *(foreign(t or "–") for t in (f.preset, f.algorithm, f.environment)),
            f"{_count(f.done)}/{_count(f.planned)}", "–" if f.success is None else f"{f.success:.3f}",
            "–" if f.changed is None else f"{age(time.time() - f.changed)} ago", size(f.bytes),
            style=None if f.kind == "run" else "bold",
        )  # fmt: skip
    console.print(table)
    for f in found:
        if f.reason:
            say(console, foreign(f"{f.folder}: {f.reason}"), "dim")


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def age(seconds: float) -> str:
    """A duration in its largest unit, such as 3 h."""
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{math.floor(seconds / length)} {unit}"
    return "0 s"


def size(count: int) -> str:
    """Bytes in a unit that people read, such as 1.2 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


COMMAND = Runs
