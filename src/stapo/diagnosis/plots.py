"""Figures of a diagnosis, in the style of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stapo.diagnosis.measure import Measured
from stapo.diagnosis.numbers import ANY
from stapo.diagnosis.ranking import roc_curve
from stapo.diagnosis.scoring import MASKS, WORDS
from stapo.documents import package_data
from stapo.html.drawing import BLUE, COLORS, GRAY, GREEN, ORANGE, RED, Plot, legend, percent_axis, plain  # fmt: skip

_FIGURES = package_data(__package__, "plots.yaml")


def plots(measured: Measured, document: dict[str, Any]) -> list[Plot]:
    """All figures, in the order of the page."""
    return [
        entropies(measured, normalized=True),
        entropies(measured, normalized=False),
        outlier_sizes(document),
        roc(measured, document),
        areas(document),
        kl_of_bad(measured),
        attributions(measured),
        advantages(measured),
    ]


def entropies(measured: Measured, *, normalized: bool) -> Plot:
    """Distribution of the entropy of good and of bad steps."""
    o, name = measured.batch.outliers, "normalized entropy" if normalized else "step entropy"
    values = o.normalized_b.astype(np.float64) if normalized else measured.batch.entropy_b
    usable = (o.included_b if normalized else np.isfinite(values)) & measured.judged_b
    bad = measured.has_fault()
    plot = Plot.of(_FIGURES, "normalized" if normalized else "shannon")
    if not usable.any():
        return plot

    def draw(figure: Figure, axes: list[Axes]) -> None:
        ax = axes[0]
        low, high = (-4.0, 4.0) if normalized else (0.0, max(0.1, float(values[usable].max())))
        for rows, color, label in ((usable & ~bad, GRAY, "good"), (usable & bad, RED, "bad")):
            if not rows.any():
                continue
            counts, edges = np.histogram(np.clip(values[rows], low, high), bins=40, range=(low, high))
            ax.stairs(counts / rows.sum(), edges, fill=True, color=color, alpha=0.3)
            ax.stairs(counts / rows.sum(), edges, color=color, linewidth=1.5, label=f"{label} ({rows.sum():,})")
        for fence in (o.lower, o.upper) if normalized else ():
            if np.isfinite(fence):
                ax.axvline(fence, color=ORANGE, ls="--", linewidth=1.2)
        percent_axis(ax, "share of steps")
        ax.set_xlabel(f"{name}{'' if normalized else ' (nats)'}")
        legend(figure)

    return plot.drawn(draw)


def outlier_sizes(document: dict[str, Any]) -> Plot:
    """Share of outliers by size of the anchor group."""
    rows = [row for row in document["outlier_share_by_group_size"] if row["steps"]]
    plot = Plot.of(_FIGURES, "sizes")
    if not rows:
        return plot

    def draw(figure: Figure, axes: list[Axes]) -> None:
        ax, x = axes[0], np.arange(len(rows))
        share = np.array([row["flagged"] / row["steps"] for row in rows])
        ax.bar(x, share, 0.7, color=ORANGE)
        for i, row in enumerate(rows):
            ax.annotate(f"{row['flagged']:,}/{row['steps']:,}", (i, share[i]), ha="center", va="bottom", fontsize=8)
        ax.set_xticks(x, [row["size"].replace("-", "–") for row in rows])
        ax.set_xlabel("steps in the anchor group")
        ax.margins(y=0.15)
        percent_axis(ax, "outliers")

    return plot.drawn(draw)


def roc(measured: Measured, document: dict[str, Any]) -> Plot:
    """Curves of every score, for any fault."""
    table = document["ranking"][ANY]
    plot = Plot.of(_FIGURES, "roc")
    usable = measured.judged_b & np.all([np.isfinite(s) for s in measured.score_b.values()], axis=0)
    bad = measured.has_fault()[usable]
    if not usable.any() or bad.all() or not bad.any():
        return plot

    def draw(figure: Figure, axes: list[Axes]) -> None:
        ax = axes[0]
        ax.plot([0, 1], [0, 1], color=GRAY, ls=":", linewidth=1)
        for (name, score), color in zip(measured.score_b.items(), _colors(len(measured.score_b)), strict=True):
            ax.plot(*roc_curve(score[usable], bad), color=color, label=f"{plain(name)} {table['auc'][name].value:.3f}")
        percent_axis(ax, "bad steps found", whole=True)
        ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        ax.set_xlabel("good steps accused")
        legend(figure)

    return plot.drawn(draw)


def areas(document: dict[str, Any]) -> Plot:
    """Areas under the curves for each fault, with intervals."""
    faults = {name: t for name, t in document["ranking"].items() if np.isfinite(t["auc"]["shannon"].value)}
    plot = Plot.of(_FIGURES, "areas")
    if not faults:
        return plot

    def draw(figure: Figure, axes: list[Axes]) -> None:
        ax, names = axes[0], list(next(iter(faults.values()))["auc"])
        for k, (score, color) in enumerate(zip(names, _colors(len(names)), strict=True)):
            y = np.arange(len(faults)) + 0.7 * ((k + 0.5) / len(names) - 0.5)
            found = np.array([t["auc"][score] for t in faults.values()], dtype=np.float64)
            # Quantiles of resamples need not enclose the value; a bar cannot have a negative length.
            spans = np.nan_to_num(np.abs(found[:, 1:] - found[:, :1]).T)
            ax.errorbar(found[:, 0], y, xerr=spans, fmt="o", ms=3.5, lw=1.3, color=color, label=plain(score))
        ax.axvline(0.5, color=GRAY, ls=":", linewidth=1)
        ax.set_yticks(np.arange(len(faults)), [plain(name) for name in faults])
        ax.invert_yaxis()
        ax.set_xlim(-0.02, 1.02)
        ax.set_xlabel("area under the curve")
        legend(figure)

    return plot.drawn(draw)


def kl_of_bad(measured: Measured) -> Plot:
    """Divergence of the full from the blind answer, at good steps and at each fault."""
    kl_b, good_b = measured.attribution.kl_b, measured.judged_b & ~measured.has_fault()
    parts = [("good", kl_b[good_b], GRAY)]
    parts += [(name, kl_b[measured.has_fault(name)], RED) for name in measured.judgment.names]
    plot = Plot.of(_FIGURES, "kl")
    return _boxes(plot, parts, "nats per token")


def attributions(measured: Measured) -> Plot:
    """Attribution scores of outliers and inliers."""
    flag_b = measured.batch.outliers.mask_b
    parts = []
    for mask in MASKS:
        drop_b = measured.attribution.drop_b[mask]
        parts.append((f"{WORDS[mask]}, inliers", drop_b[~flag_b], GRAY))
        parts.append((f"{WORDS[mask]}, outliers", drop_b[flag_b], ORANGE))
    plot = Plot.of(_FIGURES, "attribution")
    return _boxes(plot, parts, "nats per token")


def advantages(measured: Measured) -> Plot:
    """Step advantage of outliers and inliers."""
    o, step_b = measured.batch.outliers, measured.batch.advantages.step_b.astype(np.float64)
    shared = o.anchor_size_b > 1
    parts = [("inliers", step_b[shared & ~o.mask_b], GRAY), ("outliers", step_b[shared & o.mask_b], ORANGE)]
    plot = Plot.of(_FIGURES, "advantage")
    return _boxes(plot, parts, "step advantage")


def _boxes(plot: Plot, parts: Sequence[tuple[str, np.ndarray, str]], label: str) -> Plot:
    known = [(name, values[np.isfinite(values)], color) for name, values, color in parts]
    known = [part for part in known if len(part[1])]
    if not known:
        return plot

    def draw(figure: Figure, axes: list[Axes]) -> None:
        ax = axes[0]
        boxes = ax.boxplot(
            [values for _, values, _ in known],
            orientation="horizontal",
            tick_labels=[f"{plain(name)} ({len(values):,})" for name, values, _ in known],
            whis=(5, 95),
            showfliers=False,
            showmeans=True,
            patch_artist=True,
            widths=0.6,
            meanprops={"markersize": 5, "markerfacecolor": GREEN, "markeredgecolor": GREEN},
            medianprops={"color": BLUE, "linewidth": 1.6},
            boxprops={"linewidth": 0},
            whiskerprops={"color": GRAY},
            capprops={"color": GRAY},
        )
        for box, (_, _, color) in zip(boxes["boxes"], known, strict=True):
            box.set_facecolor(color)
            box.set_alpha(0.45)
        ax.invert_yaxis()
        ax.set_xlabel(label)

    return plot.drawn(draw)


def _colors(count: int) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(count)]
