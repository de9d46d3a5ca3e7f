"""Figures of plots.yaml that are lines over iterations, and the texts of all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stapo.documents import lookup, mapping_at, number, package_data
from stapo.html.drawing import (
    COLORS,
    GRAY,
    NAMED_COLORS,
    Floats,
    Plot,
    has_any,
    iteration_axis,
    legend,
    line,
    log_axis,
    percent_axis,
)
from stapo.report.data import Row, RunLog

MOST_NAMES = 12
"""Lines of a figure with one for each name."""

_FIGURES = package_data(__package__, "plots.yaml")


def described(key: str, **words: object) -> Plot:
    """A figure of plots.yaml, not drawn yet; `words` fill its placeholders in."""
    return Plot.of(_FIGURES, key, **words)


def curves(log: RunLog, key: str) -> Plot:
    """A figure of plots.yaml that has `panels`, drawn where any of its fields was logged."""
    plot, panels = described(key), _FIGURES[key]["panels"]
    series = [[_values(log, path, panel) for _, path, *_ in panel["lines"]] for panel in panels]
    if not has_any(*(values for lines in series for values in lines)):
        return plot

    def draw(figure: Figure, axes: list[Axes]) -> None:
        for ax, panel, lines in zip(axes, panels, series, strict=True):
            for (label, _, color, *style), values in zip(panel["lines"], lines, strict=True):
                dashes = {"ls": style[0]} if style else {}
                line(ax, log.iterations, values, label or None, color=NAMED_COLORS[color], **dashes)
            _finish(ax, panel)
        iteration_axis(axes[-1], log.iterations)
        legend(figure, columns=_FIGURES[key].get("columns", 3))

    return plot.drawn(draw, panels=len(panels))


def curves_of_each(log: RunLog, key: str) -> Plot:
    """A figure of plots.yaml with `each`: a line for each name, drawn where any of its numbers was logged."""
    field, panels = _FIGURES[key]["each"], _FIGURES[key]["panels"]
    found = sorted({str(name) for row in log.metrics for name in mapping_at(row, field)})
    names = found[:MOST_NAMES]
    plot = described(key, left_out=left_out(found, "names"))
    series = [
        [np.array([number(lookup(_part(row, field, name), panel["field"])) for row in log.metrics]) for name in names]
        for panel in panels
    ]
    if not has_any(*(values for lines in series for values in lines)):
        return plot

    def draw(figure: Figure, axes: list[Axes]) -> None:
        for ax, panel, lines in zip(axes, panels, series, strict=True):
            for n, (name, values) in enumerate(zip(names, lines, strict=True)):
                named_line(ax, log.iterations, values, name, n)
            _finish(ax, panel)
        iteration_axis(axes[-1], log.iterations)
        legend(figure)

    return plot.drawn(draw, panels=len(panels))


def named_line(ax: Axes, x: Floats, values: Floats, name: str, number: int) -> None:
    """The line of one of several names, in a color of its own as long as there are any."""
    line(ax, x, values, name, color=COLORS[number % len(COLORS)], ls="-" if number < len(COLORS) else "--")


def left_out(names: Sequence[str], what: str) -> str:
    """How many of the names are drawn, where not all are."""
    return f" Of {len(names)} {what} the first {MOST_NAMES} are drawn." if len(names) > MOST_NAMES else ""


def _part(row: Row, field: str, name: str) -> Row:
    found = mapping_at(row, field).get(name)
    return found if isinstance(found, dict) else {}


def _values(log: RunLog, path: str, panel: dict[str, Any]) -> Floats:
    values = log.series(path)
    return np.where(values > 0, values, np.nan) if panel.get("scale") == "log" else values


def _finish(ax: Axes, panel: dict[str, Any]) -> None:
    scale = panel.get("scale")
    if panel.get("zero"):
        ax.axhline(0, color=GRAY, linewidth=0.8)
    if scale in ("percent", "whole"):
        percent_axis(ax, panel["label"], whole=scale == "whole")
    else:
        if scale == "log":
            log_axis(ax)
        ax.set_ylabel(panel["label"])
    if "bottom" in panel:
        ax.set_ylim(bottom=panel["bottom"])
    if "top" in panel:
        ax.set_ylim(0, ax.get_ylim()[1] * panel["top"])
