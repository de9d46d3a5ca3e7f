"""One static page of a comparison, in the look of a run's report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from stapo.comparison.figures import Curves, figures
from stapo.comparison.plan import Plan, cell_folder, start_folder
from stapo.comparison.results import judged
from stapo.documents import number
from stapo.errors import RunDirectoryError, writing
from stapo.html.pages import page_environment, replace_page
from stapo.run import RunDirectory

FILE_NAME = "report.html"
Row = dict[str, Any]


def write_page(plan: Plan, folder: Path, found: Row) -> Path:
    """Write `report.html` into the folder of a comparison; returns its path.

    Raises:
        RunDirectoryError: it cannot be written.
    """
    path = folder / FILE_NAME
    page = render_page(
        found, [_curves(plan, folder, variant) for variant in found["variants"]], folder.resolve().name, folder
    )
    with writing(f"'{path}'"):
        replace_page(path, page)
    return path


def render_page(found: Row, curves: list[Curves], name: str, folder: Path | None = None) -> str:
    """The page as text.

    Args:
        found: results.
        curves: what the runs logged.
        name: of the comparison.
        folder: of the comparison; a run is a link where its report is there, and a name elsewhere.
    """
    environment = page_environment(percent=_percent, points=_points, interval=_interval, href=_href)
    return environment.get_template("compare.html.jinja").render(
        found=found,
        linked=_linked(found, folder),
        name=name,
        modes=list(found["protocols"]),
        types=sorted({t for v in found["variants"] for part in v["final"].values() if part for t in part["by_type"]}),
        judged=judged(found),
        problems=_problems(found),
        plots=figures(found, curves),
    )


def _linked(found: Row, folder: Path | None) -> set[str]:
    """Folders of runs whose reports are there."""
    if folder is None:
        return set()
    named = [
        *(s["folder"] for s in found["starts"].values()),
        *(r["folder"] for v in found["variants"] for r in v["runs"]),
    ]
    return {name for name in named if (folder / name / FILE_NAME).is_file()}


def _curves(plan: Plan, folder: Path, variant: Row) -> Curves:
    curves = Curves(variant["label"], [], [])
    for cell, run in zip((c for c in plan.cells if c.label == variant["label"]), variant["runs"], strict=True):
        if run["status"] == "done":
            log = RunDirectory(cell_folder(folder, cell))
            curves.training.append(np.array([float(row["success"]) for row in log.rows("metrics")]))
            start = [row for row in _evaluations(start_folder(folder, cell.start)) if row.get("final")]
            later = [row for row in _evaluations(cell_folder(folder, cell)) if row["iteration"] > 0]
            curves.evaluations.append([*start, *later])
    return curves


def _evaluations(folder: Path) -> list[Row]:
    """Rows of evaluations that can be drawn; what else stands there is named among what is missing."""
    try:
        rows = RunDirectory(folder).rows("evals")
    except RunDirectoryError:
        return []
    return [
        row
        for row in rows
        if isinstance(row.get("iteration"), int)
        and isinstance(row.get("mode"), str)
        and math.isfinite(number(row.get("success")))
    ]


def _problems(found: Row) -> list[str]:
    """What is missing, as sentences."""
    said = [
        f"Start {name}: {start['status']}. {start['error']}"
        for name, start in found["starts"].items()
        if start["status"] != "done"
    ]
    for variant in found["variants"]:
        for run in variant["runs"]:
            if run["status"] != "done":
                said.append(f"{variant['label']}, seed {run['seed']}: {run['status']}. {run['error']}")
    return [text.strip() for text in said]


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f} %"


def _points(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{100 * value:+.1f}" if abs(value) >= 5e-4 else "0.0"


def _interval(gap: Row | None) -> str:
    return "–" if gap is None else f"{_points(gap['low'])} … {_points(gap['high'])}"


def _href(folder: str) -> str:
    return quote(f"{folder}/report.html")
