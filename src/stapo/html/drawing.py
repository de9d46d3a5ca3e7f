"""How every figure of a page looks, and how it becomes inline SVG."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullFormatter

Floats = npt.NDArray[np.float64]

BLUE, ORANGE, GREEN, RED, PURPLE, TEAL, BROWN, GRAY = COLORS = (
    "#3b7dd8", "#d9822b", "#2e9e6b", "#d6485a", "#8a63d2", "#1c9bab", "#a0703c", "#8a929c",
)  # fmt: skip
"""Mid tones that read on light and on dark paper."""
NAMED_COLORS = dict(zip(("blue", "orange", "green", "red", "purple", "teal", "brown", "gray"), COLORS, strict=True))

# Stand-ins that are exchanged for CSS in the finished SVG, so that text and grid follow the color scheme of the page.
_INK, _GRID = "#010203", "#040506"

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "axes.titlesize": 10,
    "legend.fontsize": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GRID,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.7,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}

_NEAR = 0.1
"""What lies further outside than this share of an axis was left out on purpose."""
_WIDTH, _HEIGHT, _PANEL_HEIGHT = 6.0, 3.3, 1.75  # inches of 72 units; about the width of a card, so text keeps its size


@dataclass(frozen=True)
class Plot:
    """A figure with what a reader needs to make sense of it.

    Attributes:
        key: identifier on the page.
        title: heading.
        shows: what is drawn.
        look_for: what a healthy run looks like.
        bad_sign: what should make the reader suspicious.
        missing: why there is no drawing, where there is none.
        svg: the drawing, or None.
    """

    key: str
    title: str
    shows: str
    look_for: str
    bad_sign: str
    missing: str
    svg: Markup | None = None

    @classmethod
    def of(cls, texts: Mapping[str, Mapping[str, Any]], key: str, **words: object) -> Plot:
        """The figure that an entry of a plots.yaml describes, not drawn yet; `words` fill its placeholders in."""

        def said(part: str) -> str:
            return str(texts[key][part]).format(**words)

        return cls(
            key.format(**words), said("title"), said("shows"), said("look_for"), said("bad_sign"), said("missing")
        )

    def drawn(self, draw: Callable[[Figure, list[Axes]], None], *, panels: int = 1) -> Plot:
        """This plot with its drawing; see `render`."""
        return replace(self, svg=render(self.key, self.title, draw, panels=panels))


def render(key: str, label: str, draw: Callable[[Figure, list[Axes]], None], *, panels: int = 1) -> Markup:
    """Draw a figure and return it as SVG for the page; the same data give the same characters.

    Args:
        key: distinguishes the identifiers inside this figure from those of the others on the page.
        label: what a screen reader says.
        draw: called with the figure and its axes, which share their x axis.
        panels: axes, one above the other.
    """
    style: Any = {**_STYLE, "svg.hashsalt": f"stapo-{key}"}
    with mpl.rc_context(style):
        height = _HEIGHT if panels == 1 else _PANEL_HEIGHT * panels
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = [ax for row in figure.subplots(panels, 1, sharex=True, squeeze=False) for ax in row]
        draw(figure, axes)
        for ax in axes:
            _keep_whole(ax)
        buffer = io.StringIO()
        with warnings.catch_warnings():
            # Letters are drawn by the browser, so it is not a loss when the font that measures them lacks some.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _for_page(buffer.getvalue(), label)


def _keep_whole(ax: Axes) -> None:
    """Move the limits out where a marker or a bar at the edge would be cut; what lies far outside stays outside."""
    for axis, width in ((0, 0.8 * 72 * _WIDTH), (1, 0.7 * 72 * _PANEL_HEIGHT)):
        scale = (ax.xaxis if axis == 0 else ax.yaxis).get_transform()
        limits = ax.get_xlim() if axis == 0 else ax.get_ylim()
        low, high = sorted(float(v) for v in scale.transform(np.array(limits, dtype=float)))
        if not low < high:
            continue
        least, most = low, high
        for at, pad in _extents(ax, axis):
            where = scale.transform(at)
            room = pad * (high - low) / (width - 2 * pad)
            near = where[(where > low - _NEAR * (high - low)) & (where < high + _NEAR * (high - low))]
            if len(near):
                least, most = min(least, float(near.min()) - room), max(most, float(near.max()) + room)
        if (least, most) != (low, high):
            ends = scale.inverted().transform(np.array([least, most]))
            ends = ends if limits[0] < limits[1] else ends[::-1]
            ax.set_xlim(*ends) if axis == 0 else ax.set_ylim(*ends)


def _extents(ax: Axes, axis: int) -> Iterator[tuple[Floats, float]]:
    """Places along one axis that have to be seen whole, each with the points that are drawn around it."""
    for drawn in ax.lines:
        marked = drawn.get_marker() not in ("", " ", "None", "none", None)
        # Lines that span an axis, such as axhline, have shares of it for coordinates there.
        if marked and drawn.get_transform() == ax.transData:
            at = np.asarray((drawn.get_xdata(), drawn.get_ydata())[axis], dtype=float)
            yield at[np.isfinite(at)], drawn.get_markersize() / 2 + drawn.get_markeredgewidth()
    for patch in ax.patches if axis == 0 else ():
        if isinstance(patch, Rectangle) and patch.get_transform().contains_branch(ax.transData):
            yield np.array([patch.get_x(), patch.get_x() + patch.get_width()]), 0.0


def _for_page(svg: str, label: str) -> Markup:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<g id=\"[^\"]*\">", "<g>", svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    svg = re.sub(r"<style[^>]*>.*?</style>\n?", "", svg, flags=re.DOTALL)
    # Text takes the font of the page; matplotlib writes it in either of two ways.
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    svg = svg.replace(_INK, "var(--ink)").replace(_GRID, "var(--grid)")
    view = re.search(r"viewBox=\"([^\"]*)\"", svg)
    head = Markup('<svg role="img" aria-label="{}" viewBox="{}">').format(label, view.group(1) if view else "")
    return Markup(head + Markup(svg[svg.index(">") + 1 :]))


def iteration_axis(ax: Axes, iterations: Floats) -> None:
    """Whole iterations on x, with a little room at both ends."""
    ax.set_xlabel("iteration")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    low, high = float(iterations.min()), float(iterations.max())
    room = max(0.6, 0.02 * (high - low))
    ax.set_xlim(low - room, high + room)


def bar_width(iterations: Floats) -> float:
    """Width of a bar that leaves a small gap to the next iteration drawn."""
    return 0.88 * float(np.diff(iterations).min(initial=np.inf)) if len(iterations) > 1 else 0.88


def percent_axis(ax: Axes, label: str, *, whole: bool = False) -> None:
    """Shares in percent on y; `whole` fixes the axis to 0 … 100."""
    ax.set_ylabel(label)
    ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    if whole:
        ax.set_ylim(-0.02, 1.02)


def line(ax: Axes, x: Floats, y: Floats, label: str | None = None, **style: Any) -> bool:
    """Draw the finite part of a series, with markers where points are few; returns whether there was any."""
    known = np.isfinite(y)
    if not known.any():
        return False
    few = int(known.sum()) <= 40
    style = {"marker": "o" if few else "", "markersize": 3.2, **style}
    ax.plot(x[known], y[known], label=None if label is None else plain(label), **style)
    return True


def legend(figure: Figure, *, columns: int = 3) -> None:
    """One legend above the axes, where it hides nothing."""
    handles, labels = [], []
    for ax in figure.axes:
        for handle, text in zip(*ax.get_legend_handles_labels(), strict=True):
            if text not in labels:
                handles.append(handle)
                labels.append(text)
    if handles:
        # A letter of the legend is about 5 points wide; a column is as wide as its longest label.
        fitting = int(72 * _WIDTH / (5.0 * max(map(len, labels)) + 30))
        figure.legend(handles, labels, loc="outside upper left", ncols=max(1, min(columns, fitting, len(labels))))


def log_axis(ax: Axes, *, percent: bool = False) -> None:
    """Logarithmic y with plain numbers."""
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %" if percent else f"{value:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())


def plain(text: str, limit: int = 34) -> str:
    """Text that matplotlib draws as it stands: no mathematics, no control characters, not endless."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return (clean if len(clean) <= limit else clean[: limit - 1] + "…").replace("$", r"\$").lstrip("_")


def has_any(*series: Floats) -> bool:
    """Whether any of the series holds a number."""
    return any(bool(np.isfinite(s).any()) for s in series)


def smoothed(values: Floats, window: int) -> Floats:
    """Centered moving mean that skips NaN and narrows at both ends."""
    half = window // 2
    result = np.full(len(values), np.nan)
    for i in range(len(values)):
        part = values[max(0, i - half) : i + half + 1]
        known = part[np.isfinite(part)]
        if len(known):
            result[i] = known.mean()
    return result


def smoothing_window(count: int) -> int:
    """Rows that a moving mean spans: about a tenth of the run, odd; 1 where there is too little to smooth."""
    return 1 if count < 6 else max(3, count // 10) | 1
