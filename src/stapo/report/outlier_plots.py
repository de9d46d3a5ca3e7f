"""Plots of entropy, of the steps that stand out by it, and of what the selective terms do to them."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stapo.documents import lookup, mapping_at, number
from stapo.html.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    Floats,
    Plot,
    bar_width,
    has_any,
    iteration_axis,
    legend,
    line,
    log_axis,
    percent_axis,
    plain,
)  # fmt: skip
from stapo.report.data import Row, RunLog


def outlier_plots(log: RunLog) -> list[Plot]:
    """Entropy, outliers and selective terms."""
    return [
        entropy(log), outlier_share(log), fences(log), attribution(log), anchor_sizes(log),
        histogram(log, "entropy"), histogram(log, "normalized_entropy"),
    ]  # fmt: skip


def entropy(log: RunLog) -> Plot:
    """Mean step entropy and its quantiles."""
    mean = log.series("entropy.mean")
    quantiles = np.array([_quantiles(row) for row in log.metrics]).reshape(-1, 5)
    plot = Plot(
        key="entropy",
        title="Step entropy H",
        shows="Mean token entropy of a step (eq. 1): mean, median, and the bands that hold the middle 50 % and 90 % "
        "of all steps.",
        look_for="a slow decline that levels off above 0.",
        bad_sign="a plunge to 0 (the policy stopped exploring) or a climb (it dissolves).",
    )
    if not has_any(mean, quantiles.ravel()):
        return plot.without("No iteration logged its entropy.")

    def draw(figure: Figure, axes: list[Axes]) -> None:
        ax, x = axes[0], log.iterations
        if len(x) == 1:
            x_band, bands = np.array([x[0] - 0.2, x[0] + 0.2]), np.repeat(quantiles, 2, axis=0)
        else:
            x_band, bands = x, quantiles
        ax.fill_between(x_band, bands[:, 0], bands[:, 4], color=BLUE, alpha=0.13, linewidth=0, label="5 … 95 %")
        ax.fill_between(x_band, bands[:, 1], bands[:, 3], color=BLUE, alpha=0.28, linewidth=0, label="25 … 75 %")
        line(ax, x, quantiles[:, 2], "median", color=BLUE, ls=":", marker="")
        line(ax, x, mean, "mean", color=BLUE)
        ax.set_ylabel("entropy (nats)")
        ax.set_ylim(bottom=0)
        iteration_axis(ax, x)
        legend(figure, columns=4)

    return plot.drawn(draw)


def outlier_share(log: RunLog) -> Plot:
    """Flagged steps, split by side."""
    high, low = log.series("outlier.high_share"), log.series("outlier.low_share")
    plot = Plot(
        key="outliers",
        title="Steps flagged as outliers",
        shows="Share of steps whose normalized entropy lies outside the fences (eq. 3), by side.",
        look_for="a share that shrinks as training goes on, nearly all on the high side (in the paper from 1.7 % to "
        "0.4 %, over 90 % high).",
        bad_sign="no flags at all (then STAPO trains as GiGPO does), or many on the low side.",
    )
    if not has_any(high, low):
        return plot.without("No iteration logged outliers.")

    def draw(figure: Figure, axes: list[Axes]) -> None:
        ax, base, width = axes[0], np.nan_to_num(high), bar_width(log.iterations)
        ax.bar(log.iterations, base, width, color=ORANGE, label="high entropy")
        ax.bar(log.iterations, np.nan_to_num(low), width, bottom=base, color=BLUE, label="low entropy")
        percent_axis(ax, "steps flagged")
        iteration_axis(ax, log.iterations)
        legend(figure)

    return plot.drawn(draw)


def fences(log: RunLog) -> Plot:
    """Quartiles and fences of the normalized entropy."""
    q1, q3, lower, upper = (log.series(f"outlier.{k}") for k in ("q1", "q3", "lower_fence", "upper_fence"))
    plot = Plot(
        key="fences",
        title="Quartiles and fences",
        shows="Quartiles of the normalized entropy over the batch, and the fences derived from them; steps outside "
        "are flagged.",
        look_for="fences that hardly move.",
        bad_sign="fences that close in on 0: the spread inside anchor groups vanishes and flags lose their meaning. A "
        "group of n steps cannot score above (n-1)/√n, so far fences can be crossed in large groups only.",
    )
    if not has_any(q1, q3, lower, upper):
        return plot.without("No iteration logged fences.")

    def draw(figure: Figure, axes: list[Axes]) -> None:
        ax = axes[0]
        line(ax, log.iterations, upper, "upper fence", color=ORANGE)
        line(ax, log.iterations, q3, "Q3", color=GREY, ls="--")
        line(ax, log.iterations, q1, "Q1", color=GREY, ls=":")
        line(ax, log.iterations, lower, "lower fence", color=BLUE)
        ax.set_ylabel("normalized entropy")
        iteration_axis(ax, log.iterations)
        legend(figure, columns=4)

    return plot.drawn(draw)


def attribution(log: RunLog) -> Plot:
    """R_TA and P_TI on flagged rows, R_TA on unflagged ones."""
    r_ta, p_ti, other = log.series("update.r_ta"), log.series("update.p_ti"), log.series("unflagged_kl")
    plot = Plot(
        key="attribution",
        title="R_TA and P_TI",
        shows="Divergence between the answers with and without goal and history (R_TA, eq. 4) on flagged steps and on "
        "a sample of others; and how far the blind answers moved from the reference (P_TI, eq. 5).",
        look_for="R_TA of flagged steps rises slowly, P_TI stays small.",
        bad_sign="R_TA climbs while P_TI climbs, too, or valid actions fall: the term is won by wrecking the blind "
        "answers instead of using the trajectory. R_TA has no optimum of its own.",
    )
    if not has_any(r_ta, p_ti, other):
        return plot.without("No selective term was measured: the algorithm has none, or no step was ever flagged.")

    def draw(figure: Figure, axes: list[Axes]) -> None:
        ax = axes[0]
        line(ax, log.iterations, r_ta, "R_TA, flagged steps", color=ORANGE)
        line(ax, log.iterations, other, "R_TA, other steps", color=GREY)
        line(ax, log.iterations, p_ti, "P_TI, flagged steps", color=PURPLE)
        ax.set_ylabel("divergence (nats per token)")
        ax.set_ylim(bottom=0)
        iteration_axis(ax, log.iterations)
        legend(figure)

    return plot.drawn(draw)


def anchor_sizes(log: RunLog) -> Plot:
    """Where the flags fall: by how often a situation was visited."""
    bins = list(dict.fromkeys(str(b) for row in log.metrics for b in mapping_at(row, "anchor.rows_by_size")))
    rows_k, flags_k = (
        np.array([np.nansum([number(mapping_at(r, path).get(b)) for r in log.metrics]) for b in bins])
        for path in ("anchor.rows_by_size", "outlier.by_anchor_size")
    )
    plot = Plot(
        key="anchors",
        title="Flags by size of the anchor group",
        shows="All steps and all flagged steps of the iterations drawn, by how many steps of their task group stood in "
        "the same situation.",
        look_for="most steps share their situation with others, so that they can be compared.",
        bad_sign="most steps alone (size 1): the anchor key is too fine, and both step advantages and flags rest on "
        "little.",
    )
    if not bins or not rows_k.sum():
        return plot.without("No iteration logged anchor groups.")

    def draw(figure: Figure, axes: list[Axes]) -> None:
        ax, x = axes[0], np.arange(len(bins))
        ax.bar(x - 0.2, rows_k / rows_k.sum(), 0.38, color=GREY, label=f"all {rows_k.sum():,.0f} steps")
        flags = flags_k.sum()
        ax.bar(x + 0.2, flags_k / max(flags, 1), 0.38, color=ORANGE, label=f"the {flags:,.0f} flagged steps")
        ax.set_xticks(x, [plain(b) for b in bins])
        ax.set_xlabel("steps in the anchor group")
        percent_axis(ax, "share")
        legend(figure)

    return plot.drawn(draw)


def histogram(log: RunLog, key: str) -> Plot:
    """Distribution of raw or normalized entropy in the first and the last iteration."""
    normalized = key == "normalized_entropy"
    name = "normalized entropy" if normalized else "step entropy"
    plot = Plot(
        key=f"{key}-histogram",
        title=f"Distribution of {name}",
        shows=f"Steps by {name}, first and last iteration"
        + (", with the fences of each (dashed); the axis is logarithmic so that outliers show." if normalized else ".")
        + " What lies beyond an end is counted in the outermost bar.",
        look_for="thin tails beyond the fences." if normalized else "mass that moves left without piling up at 0.",
        bad_sign="a second hump beyond a fence: these are no outliers but a habit."
        if normalized
        else "all mass in the first bar: the policy has become deterministic.",
    )
    rows = [row for row in log.metrics if _histogram(lookup(row, f"{key}.histogram"))[0].any()]
    rows = [rows[0], rows[-1]] if len(rows) > 1 else rows
    if not rows:
        return plot.without(f"No iteration logged a histogram of {name}.")

    def draw(figure: Figure, axes: list[Axes]) -> None:
        ax, least = axes[0], 1.0
        for row, color in zip(rows, (GREY, RED if normalized else GREEN), strict=False):
            share, edges = _histogram(lookup(row, f"{key}.histogram"))
            least = min(least, float(share[share > 0].min(initial=1.0)))
            ax.stairs(share, edges, fill=True, color=color, alpha=0.3)
            ax.stairs(share, edges, color=color, linewidth=1.5, label=f"iteration {row['iteration']}")
            for fence in ("lower_fence", "upper_fence") if normalized else ():
                if np.isfinite(where := number(lookup(row, f"outlier.{fence}"))):
                    ax.axvline(where, color=color, ls="--", linewidth=1.2)
        if normalized:
            log_axis(ax, percent=True)
            ax.set_ylim(bottom=least / 1.6)
            ax.set_ylabel("steps per bar")
        else:
            percent_axis(ax, "steps per bar")
        ax.set_xlabel("normalized entropy" if normalized else "entropy (nats)")
        legend(figure)

    return plot.drawn(draw)


def _quantiles(row: Row) -> list[float]:
    found = lookup(row, "entropy.quantiles")
    return [number(q) for q in found] if isinstance(found, list) and len(found) == 5 else [float("nan")] * 5


def _histogram(data: Any) -> tuple[Floats, Floats]:
    """Shares of bars and their edges; no bar where there is no such histogram."""
    found = lookup({"histogram": data}, "histogram.counts")
    counts = np.array([number(c) for c in found] if isinstance(found, list) else [], dtype=np.float64)
    counts = np.where(np.isfinite(counts) & (counts > 0), counts, 0.0)
    low, high = (number(lookup({"histogram": data}, f"histogram.{end}")) for end in ("low", "high"))
    if not (np.isfinite(high - low) and low < high):
        low, high = 0.0, float(len(counts))
    return counts / max(counts.sum(), 1.0), np.linspace(low, high, len(counts) + 1)
