"""What the pages show: the list of runs, each with its words, settings and curves; comparisons and diagnoses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stapo.atomic_io import oddity
from stapo.documents import package_data
from stapo.errors import RunDirectoryError
from stapo.health import closing_checks
from stapo.html.pages import cleaned
from stapo.report.data import Row, RunLog, read_run, readable_rows
from stapo.report.summary import comparisons, facts, losses, sentences, success_table, title
from stapo.run import RunDirectory
from stapo.run.directory import read_mapping
from stapo.run.rows import by_iteration
from stapo.viewer.catalog import Catalog, ReadCache, state_of

_MOST_ROWS = 4_000  # iterations of which a page gets every number
_MOST_COLUMNS = 2_000  # a row of ours has a few hundred numbers
_MOST_VALUES = 8  # of a list of numbers: quantiles are drawn, histograms are not
_LISTED = ("kind", "status", "reason", "preset", "algorithm", "environment", "done", "planned", "success", "changed")

_MOST_BYTES = 1 << 26
_FOLDER = re.compile(r"[\w.-]{1,200}")

_TYPE_COLORS = ("blue", "orange", "green", "red", "purple", "teal", "brown", "gray")
_SECTIONS = {
    "Success and behavior": ("success", "types", "behavior", "lengths", "endings", "signal"),
    "Entropy and outliers": ("entropy", "outliers", "fences", "attribution"),
    "Update and time": ("gradients", "clipping", "critic", "agreement", "seconds"),
}


class Pages:
    """Reads what pages show; a few results are kept until their files change.

    Args:
        catalog: the runs that may be looked at.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._runs: ReadCache[dict[str, Any]] = ReadCache(4)

    def runs(self) -> dict[str, Any]:
        """The list of runs and comparisons."""
        entries = self._catalog.entries()
        listed = [{"name": e.name, **{field: getattr(e.found, field) for field in _LISTED}} for e in entries]
        return {"runs": cleaned(listed)}

    def version(self, name: str) -> dict[str, Any]:
        """A value that changes whenever the run has something new; cheap, for pages that ask again and again."""
        return {"version": _version(self._catalog.run(name)), "status": self._catalog.status(name)}

    def run(self, name: str) -> dict[str, Any]:
        """A run: its words, its settings, every number of its iterations, and which iterations have rollouts."""
        run = self._catalog.run(name)
        version = _version(run)
        return self._runs.get(name, version, lambda: _run_page(name, run, version))

    def checks(self, name: str) -> dict[str, Any]:
        """Files of rows that are not what the run has written; this reads all of them."""
        return {"remarks": cleaned(self._catalog.run(name).remarks())}


def columns(rows: list[Row]) -> dict[str, list[float | None]]:
    """Numbers of rows by dotted path, a list over rows each; None where a row has none.

    The first `_MOST_COLUMNS` paths alone: in a file of others each row may have names of its own.
    """
    found: dict[str, list[float | None]] = {}
    for place, row in enumerate(rows):
        for path, value in _numbers(row, ""):
            if path not in found and len(found) < _MOST_COLUMNS:
                found[path] = [None] * len(rows)
            if path in found:
                found[path][place] = value
    return found


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and len(value) <= _MOST_VALUES:
        for place, item in enumerate(value):
            yield from _numbers(item, f"{path}.{place}")


def _settings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _settings(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _version(run: RunDirectory) -> str:
    files = (run.path / "run.json", *(run.row_file(name) for name in ("metrics", "evals", "sft", "steps")))
    return "-".join(":".join(map(str, state or ())) for state in state_of(*files, run.path / "transcripts"))


def _run_page(name: str, run: RunDirectory, version: str) -> dict[str, Any]:
    log = read_run(run, most_rows=_MOST_ROWS, checked=False)
    compared, numbers = comparisons(log), columns(log.metrics)
    page = {
        "name": name,
        "title": title(log),
        "sentences": sentences(log, compared),
        "signs": [*losses(compared), *closing_checks(log.metrics, log.config, thinned=log.thinned)],
        "remarks": log.remarks,
        "facts": facts(log),
        "settings": list(_settings(log.config)),
        "config": log.config_text,
        "modes": [c.mode for c in compared],
        "table": [{"label": r.label, "episodes": r.episodes, "cells": r.cells} for r in success_table(compared)],
        "transcripts": list(by_iteration(run.transcripts())),
        "evals": list(_evals(log)),
        "sft": [[row.get("step"), row.get("loss")] for row in readable_rows(run.row_file("sft"), [])],
        "figures": figures(log, numbers),
        "columns": numbers,
        "version": version,
        "status": log.info.get("status"),
    }
    return cleaned(page)  # type: ignore[no-any-return]


def _evals(log: RunLog) -> Iterator[dict[str, Any]]:
    fields = ("iteration", "mode", "final", "success", "success_standard_error")
    return ({field: row.get(field) for field in fields} for row in log.evals)


class Results:
    """Reads results of comparisons and diagnoses.

    Args:
        catalog: the runs and comparisons that may be looked at.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def comparison(self, name: str) -> dict[str, Any]:
        """The results of a comparison, and under which names its runs are listed here.

        Raises:
            RunDirectoryError: it is not a comparison, or has no results yet.
        """
        folder = self._catalog.entry(name).found.folder
        found = _document(folder / "results.json", "'stapo compare' writes it with the first run that ends.")
        inside = {
            entry.found.folder.relative_to(folder).as_posix(): entry.name
            for entry in self._catalog.entries()
            if entry.found.kind == "run" and entry.found.folder.is_relative_to(folder)
        }
        return {"results": cleaned(found), "runs": cleaned(inside)}

    def diagnoses(self, name: str) -> dict[str, Any]:
        """Every diagnosis of a run by its checkpoint; what cannot be read is a remark."""
        folder = self._catalog.run(name).path / "diagnosis"
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        found, remarks = {}, []
        for checkpoint in filter(_FOLDER.fullmatch, names):
            try:
                found[checkpoint] = _document(folder / checkpoint / "diagnosis.json", "'stapo diagnose' writes it.")
            except RunDirectoryError as err:
                remarks.append(str(err))
        return {"diagnoses": cleaned(found), "remarks": cleaned(remarks)}


def _document(path: Path, who: str) -> dict[str, Any]:
    if oddity(path) is not None or oddity(path.parent) is not None:
        raise RunDirectoryError(f"'{path}' is a link, pipe or device, expected a file of its own.")
    if not path.is_file():
        raise RunDirectoryError(f"'{path}' is not there yet. {who}")
    return read_mapping(path, _MOST_BYTES)


def figures(log: RunLog, columns: dict[str, list[float | None]]) -> list[dict[str, Any]]:
    """The figures of a run that have anything to draw."""
    texts = package_data("stapo.report", "plots.yaml")
    found = []
    for section, keys in _SECTIONS.items():
        for key in keys:
            entry = texts[key]
            panels = [_panel(panel, columns) for panel in entry.get("viewer") or entry.get("panels", ())]
            panels = [panel for panel in panels if panel["lines"]]
            if panels:
                words = {"smoothing": "", "split": log.setting("eval.split", "?"), "left_out": ""}
                said = {part: str(entry[part]).format(**words) for part in ("title", "shows", "look_for", "bad_sign")}
                found.append({"key": key, "section": section, "panels": panels, **said})
    return found


def _panel(panel: Any, columns: dict[str, list[float | None]]) -> dict[str, Any]:
    lines = [
        {"label": label, "path": path, "color": color, "dashed": bool(style)}
        for label, path, color, *style in panel.get("lines") or _below(panel["below"], columns)
        if any(value is not None for value in columns.get(path, ()))
    ]
    return {"label": panel["label"], "scale": panel.get("scale", ""), "zero": bool(panel.get("zero")), "lines": lines}


def _below(prefix: str, columns: dict[str, list[float | None]]) -> list[tuple[str, str, str]]:
    """A line for each field below one, as many as there are colors."""
    names = [path for path in columns if path.startswith(f"{prefix}.")]
    labels = (path.removeprefix(f"{prefix}.").replace("_", " ") for path in names)
    return list(zip(labels, names, _TYPE_COLORS, strict=False))
