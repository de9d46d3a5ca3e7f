"""The figures of a comparison: learning curves with their standard deviation over seeds, differences with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stapo.documents import package_data
from stapo.html.drawing import (
    COLORS,
    GRAY,
    Floats,
    Plot,
    iteration_axis,
    legend,
    percent_axis,
    plain,
    smoothed,
    smoothing_window,
)

Row = dict[str, Any]
_MARKERS = "osD^vP*X"
_FIGURES = package_data(__package__, "plots.yaml")


@dataclass(frozen=True)
class Curves:
    """What the runs of a variant logged.

    Attributes:
        label: of the variant.
        training: success per iteration of each finished run.
        evaluations: evaluation rows of each finished run, those of its start first.
    """

    label: str
    training: list[Floats]
    evaluations: list[list[Row]]


def figures(found: Row, curves: Sequence[Curves]) -> list[Plot]:
    """All figures of the page."""
    modes = list(found["protocols"])
    return [_training(curves), *(_evaluations(curves, mode) for mode in modes), *(_gaps(found, mode) for mode in modes)]


def band(series: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Mean and sample standard deviation over runs at each place; NaN for the deviation where there is one run only."""
    length = max(len(s) for s in series)
    table = np.full((len(series), length), np.nan)
    for row, values in zip(table, series, strict=True):
        row[: len(values)] = values
    count = np.isfinite(table).sum(axis=0)
    mean = np.nansum(table, axis=0) / np.maximum(count, 1)
    squares = np.nansum((table - mean) ** 2, axis=0)
    return np.where(count > 0, mean, np.nan), np.sqrt(np.where(count > 1, squares / np.maximum(count - 1, 1), np.nan))


def _training(curves: Sequence[Curves]) -> Plot:
    longest = max((len(s) for c in curves for s in c.training), default=0)
    window = smoothing_window(longest)
    smoothing = f", each run smoothed over {window} iterations" if window > 1 else ""
    plot = Plot.of(_FIGURES, "training", smoothing=smoothing)
    if not longest:
        return plot

    def draw(figure: Figure, axes: list[Axes]) -> None:
        ax = axes[0]
        for n, c in enumerate(curves):
            if c.training:
                mean, sd = band([smoothed(s, window) for s in c.training])
                x = np.arange(1.0, len(mean) + 1)
                ax.plot(x, mean, color=_color(n), label=plain(c.label), marker="o" if len(x) <= 3 else "")
                ax.fill_between(x, mean - sd, mean + sd, color=_color(n), alpha=0.16, linewidth=0)
        percent_axis(ax, "episodes won")
        iteration_axis(ax, np.array([1.0, float(longest)]))
        legend(figure)

    return plot.drawn(draw)


def _evaluations(curves: Sequence[Curves], mode: str) -> Plot:
    plot = Plot.of(_FIGURES, "evaluations-{mode}", mode=mode)
    points = [_points(c, mode) for c in curves]
    ends = [at for part in points for at, _ in part]
    if not ends:
        return plot

    def draw(figure: Figure, axes: list[Axes]) -> None:
        ax, nudge = axes[0], 0.012 * max(1.0, *ends)
        for n, part in enumerate(points):
            shift = nudge * (n - (len(points) - 1) / 2)
            # Of a full evaluation and another one at the same place, the full one.
            best = {at: mean for (at, _), (mean, _) in sorted(part.items())}
            ax.plot([at + shift for at in best], list(best.values()), color=_color(n), linewidth=1.1)
            for (at, final), (mean, sd) in part.items():
                ax.errorbar(
                    at + shift, mean, np.nan_to_num(sd), fmt=_MARKERS[n % len(_MARKERS)], color=_color(n),
                    markerfacecolor=_color(n) if final else "none", markersize=5.5, capsize=3, linewidth=1.3,
                    label=plain(curves[n].label),
                )  # fmt: skip
        percent_axis(ax, "episodes won")
        iteration_axis(ax, np.array([0.0, *ends]))
        legend(figure)

    return plot.drawn(draw)


def _points(c: Curves, mode: str) -> dict[tuple[float, bool], tuple[float, float]]:
    """Mean and deviation over seeds at each (iteration, whether it was a full evaluation)."""
    values: dict[tuple[float, bool], list[float]] = {}
    for rows in c.evaluations:
        for row in rows:
            if row["mode"] == mode:
                values.setdefault((float(row["iteration"]), bool(row["final"])), []).append(row["success"])
    found = {}
    for key in sorted(values):
        mean, sd = band([np.array([value]) for value in values[key]])
        found[key] = (float(mean[0]), float(sd[0]))
    return found


def _gaps(found: Row, mode: str) -> Plot:
    baseline = found["baseline"]
    plot = Plot.of(_FIGURES, "differences-{mode}", baseline=baseline, mode=mode)
    rows = [(n, v, v["difference"][mode]) for n, v in enumerate(found["variants"]) if v["difference"].get(mode)]
    if not rows:
        return plot

    def draw(figure: Figure, axes: list[Axes]) -> None:
        ax = axes[0]
        ax.axvline(0, color=GRAY, linewidth=1.2)
        for place, (n, _, gap) in enumerate(rows):
            ends = np.array([[gap["mean"] - gap["low"]], [gap["high"] - gap["mean"]]]).clip(0)
            ax.errorbar([gap["mean"]], [place], xerr=ends, fmt=_MARKERS[n % len(_MARKERS)], color=_color(n), capsize=4)
            ax.plot(gap["by_seed"], [place + 0.22] * len(gap["by_seed"]), ".", color=_color(n), alpha=0.6, markersize=6)
        ax.set_yticks(range(len(rows)), [plain(v["label"]) for _, v, _ in rows])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.set_xlabel(plain(f"success minus that of {baseline}, in points", 80))
        ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:+g}" if value else "0")
        ax.margins(x=0.08)
        ax.grid(axis="y", visible=False)

    return plot.drawn(draw)


def _color(n: int) -> str:
    return COLORS[n % len(COLORS)]
