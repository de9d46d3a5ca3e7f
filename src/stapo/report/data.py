"""What a run left behind, read so that a missing or broken piece becomes a remark instead of an error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from stapo.documents import lookup, number
from stapo.errors import RunDirectoryError
from stapo.run import RunDirectory
from stapo.run.rows import rows_behind
from stapo.texts import without_addresses

if TYPE_CHECKING:  # it would bring matplotlib, which readers of numbers do without
    from stapo.html.drawing import Floats

Row = dict[str, Any]

_LONGEST_CONFIG = 1 << 18  # bytes; ours have 4,000
_PLOTTED_ROWS = 800  # more points than pixels only make the page larger


@dataclass(frozen=True)
class RunLog:
    """The contents of a run directory.

    Attributes:
        name: of the folder.
        info: run.json.
        config: config.yaml as data; empty when it cannot be read.
        config_text: config.yaml as it stands, but for secrets in addresses.
        metrics: a row per iteration, thinned to what a plot can show.
        thinned: every how many iterations a row was kept.
        iterations_done: the last iteration that was logged.
        evals: a row per evaluation and mode.
        sft: rows of step and loss.
        transcripts: transcript files, oldest first.
        remarks: what is missing or could not be read, as sentences.
    """

    name: str
    info: Row
    config: Row
    config_text: str
    metrics: list[Row]
    thinned: int
    iterations_done: int
    evals: list[Row]
    sft: list[Row]
    transcripts: list[Path]
    remarks: list[str] = field(default_factory=list)

    @property
    def iterations(self) -> Floats:
        """Iteration number of every row of metrics."""
        return np.array([float(row["iteration"]) for row in self.metrics])

    def series(self, path: str) -> Floats:
        """One number per row of metrics, looked up by dotted path; NaN where there is none."""
        return np.array([number(lookup(row, path)) for row in self.metrics])

    def setting(self, path: str, default: Any = None) -> Any:
        """A value of the configuration by dotted path."""
        value = lookup(self.config, path)
        return default if value is None else value


def read_run(run: RunDirectory, *, most_rows: int = _PLOTTED_ROWS, checked: bool = True) -> RunLog:
    """Read everything the report needs, except the transcripts themselves.

    Args:
        run: the run directory.
        most_rows: rows of metrics that are kept.
        checked: compare the files of rows with the hashes in the newest save, which reads all of them.
    """
    remarks: list[str] = run.remarks() if checked else []
    try:
        stored = run.config()
        config = without_addresses(stored)
    except RunDirectoryError as err:
        stored = config = {}
        remarks.append(f"config.yaml cannot be read ({type(err).__name__}), so names and settings are missing.")
    rows = {name: readable_rows(run.row_file(name), remarks) for name in ("metrics", "evals", "sft")}
    metrics = [row for row in rows["metrics"] if is_counted(row.get("iteration"))]
    if not metrics:
        remarks.append("No iteration was logged yet, so there are no curves.")
    transcripts = run.transcripts()
    if not transcripts:
        remarks.append("No transcript was written, so there are no trajectories to read (log.transcript_every).")
    step = max(1, -(-len(metrics) // most_rows))
    return RunLog(
        name=run.path.resolve().name,
        info=without_addresses(run.info()),
        config=config,
        config_text=_text(run.path / "config.yaml") if config == stored else yaml.safe_dump(config, sort_keys=False),
        metrics=metrics if step == 1 else [*metrics[:-1:step], metrics[-1]],
        thinned=step,
        iterations_done=metrics[-1]["iteration"] if metrics else 0,
        evals=[row for row in rows["evals"] if is_counted(row.get("iteration")) and row.get("mode")],
        sft=rows["sft"],
        transcripts=transcripts,
        remarks=remarks,
    )


def is_counted(value: Any) -> bool:
    """Whether this is a number that iterations, groups and the like can have."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def readable_rows(path: Path, remarks: list[str]) -> list[Row]:
    """Rows of a JSON-lines file up to the first broken one, which is added to `remarks`."""
    return [row for _, row in placed_rows(path, remarks)]


def placed_rows(path: Path, remarks: list[str]) -> Iterator[tuple[int, Row]]:
    """The same one after the other, each with the byte at which it begins."""
    if not path.is_file():
        return
    start = 0
    try:
        for row, end in rows_behind(path, start):
            yield start, row
            start = end
    except RunDirectoryError as err:
        reason = str(err).replace(f"'{path}'", "").strip()
        remarks.append(f"{path.name} is damaged ({reason}); what precedes the damage is shown.")


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST_CONFIG).decode("utf-8", "replace")
    except OSError:
        return ""
