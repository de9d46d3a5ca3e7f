"""The figures of the report, whose texts are in plots.yaml: what the agent achieves, what stands out, the update."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stapo.documents import lookup, mapping_at, number
from stapo.html.drawing import (
    BLUE,
    COLORS,
    GRAY,
    GREEN,
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
    smoothed,
    smoothing_window,
)  # fmt: skip
from stapo.report.curves import MOST_NAMES, curves, curves_of_each, described, left_out, named_line
from stapo.report.data import Row, RunLog

_MODE_STYLE = {"sampled": (ORANGE, "o"), "greedy": (PURPLE, "s")}


def outcome_plots(log: RunLog) -> list[Plot]:
    """Success, behavior and shape of the episodes."""
    lines = [curves(log, key) for key in ("behavior", "lengths")]
    # Most runs have one environment and one reward.
    several = [plot for key in ("environments", "rewards") if (plot := curves_of_each(log, key)).svg]
    return [success(log), success_by_type(log), *several, *lines, endings(log), curves(log, "signal")]


def outlier_plots(log: RunLog) -> list[Plot]:
    """Entropy, outliers and selective terms."""
    lines = [curves(log, key) for key in ("fences", "attribution")]
    histograms = [histogram(log, key) for key in ("entropy", "normalized_entropy")]
    return [entropy(log), outlier_share(log), *lines, anchor_sizes(log), *histograms]


def update_plots(log: RunLog) -> list[Plot]:
    """Gradients, clipping, numerical agreement, seconds and SFT; the critic where the run has one."""
    clipping, critic, agreement = (curves(log, key) for key in ("clipping", "critic", "agreement"))
    return [gradients(log), clipping, *([critic] if critic.svg else []), agreement, seconds(log), sft(log)]


def success(log: RunLog) -> Plot:
    """Training success per iteration, with the evaluations over it."""
    window = smoothing_window(len(log.metrics))
    smoothing = f"; line: mean over {window} iterations" if window > 1 else ""
    plot = described("success", smoothing=smoothing, split=log.setting("eval.split", "?"))
    training = log.series("success")
    if not has_any(training) and not log.evals:
        return plot

    def draw(figure: Figure, axes: list[Axes]) -> None:
        ax, ends = axes[0], [float(row["iteration"]) for row in log.evals]
        if has_any(training):
            ax.plot(log.iterations, training, "o", color=BLUE, markersize=3, alpha=0.45, label="training episodes")
            if window > 1:
                line(ax, log.iterations, smoothed(training, window), "training, smoothed", color=BLUE, marker="")
        modes = list(dict.fromkeys(str(row["mode"]) for row in log.evals))
        # Modes are evaluated at the same iterations: side by side, no marker hides another.
        nudge = 0.008 * max(1.0, *log.iterations, *ends)
        for n, mode in enumerate(modes):
            color, marker = _MODE_STYLE.get(mode, (COLORS[(n + 4) % len(COLORS)], "D"))
            shift = nudge * (n - (len(modes) - 1) / 2)
            for final in (True, False):
                rows = [r for r in log.evals if r["mode"] == mode and bool(r.get("final", True)) is final]
                if rows:
                    errors = np.nan_to_num([number(r.get("success_standard_error")) for r in rows]).clip(min=0.0)
                    ax.errorbar(
                        [r["iteration"] + shift for r in rows], [number(r.get("success")) for r in rows], errors,
                        fmt=marker, color=color, markerfacecolor=color if final else "none", markersize=6, capsize=3,
                        linewidth=1.4, label=plain(f"evaluation, {mode}" if final else f"short evaluation, {mode}"),
                    )  # fmt: skip
        percent_axis(ax, "episodes won")
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
        iteration_axis(ax, np.array([*log.iterations, *ends]))
        legend(figure, columns=2)

    return plot.drawn(draw)


def success_by_type(log: RunLog) -> Plot:
    """Training success of each task type."""
    names = sorted({str(t) for row in log.metrics for t in mapping_at(row, "success_by_type")})
    window = smoothing_window(len(log.metrics))
    smoothing = f", mean over {window} iterations" if window > 1 else ""
    plot = described("types", smoothing=smoothing, left_out=left_out(names, "types"))
    by_type = {
        name: np.array([number(mapping_at(row, "success_by_type").get(name)) for row in log.metrics])
        for name in names[:MOST_NAMES]
    }
    if not has_any(*by_type.values()):
        return plot

    def draw(figure: Figure, axes: list[Axes]) -> None:
        for n, (name, values) in enumerate(by_type.items()):
            named_line(axes[0], log.iterations, smoothed(values, window), name, n)
        percent_axis(axes[0], "episodes won")
        axes[0].set_ylim(bottom=-0.02)
        iteration_axis(axes[0], log.iterations)
        legend(figure, columns=2)

    return plot.drawn(draw)


def endings(log: RunLog) -> Plot:
    """Why training episodes ended."""
    names = list(dict.fromkeys(str(r) for row in log.metrics for r in mapping_at(row, "stop_reasons")))
    counts = np.array(
        [[number(mapping_at(row, "stop_reasons").get(n, 0)) for row in log.metrics] for n in names], dtype=float
    )
    plot = described("endings")
    if not counts.size or not np.nansum(counts):
        return plot
    shares = np.nan_to_num(counts) / np.maximum(np.nansum(counts, axis=0), 1)
    colors = {"won": GREEN, "failed": RED, "step_limit": GRAY, "prompt_too_long": ORANGE}

    def draw(figure: Figure, axes: list[Axes]) -> None:
        seen = [i for i in range(len(names)) if shares[i].any()]
        axes[0].stackplot(
            *_steps(log.iterations, shares[seen]),
            labels=[plain(names[i].replace("_", " ")) for i in seen],
            colors=[colors.get(names[i], COLORS[i % len(COLORS)]) for i in seen],
            alpha=0.75,
        )
        percent_axis(axes[0], "episodes", whole=True)
        iteration_axis(axes[0], log.iterations)
        legend(figure, columns=4)

    return plot.drawn(draw)


def entropy(log: RunLog) -> Plot:
    """Mean step entropy and its quantiles."""
    mean = log.series("entropy.mean")
    quantiles = np.array([_quantiles(row) for row in log.metrics]).reshape(-1, 5)
    plot = described("entropy")
    if not has_any(mean, quantiles.ravel()):
        return plot

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
    plot = described("outliers")
    if not has_any(high, low):
        return plot

    def draw(figure: Figure, axes: list[Axes]) -> None:
        ax, base, width = axes[0], np.nan_to_num(high), bar_width(log.iterations)
        ax.bar(log.iterations, base, width, color=ORANGE, label="high entropy")
        ax.bar(log.iterations, np.nan_to_num(low), width, bottom=base, color=BLUE, label="low entropy")
        percent_axis(ax, "steps flagged")
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
    plot = described("anchors")
    if not bins or not rows_k.sum():
        return plot

    def draw(figure: Figure, axes: list[Axes]) -> None:
        ax, x = axes[0], np.arange(len(bins))
        ax.bar(x - 0.2, rows_k / rows_k.sum(), 0.38, color=GRAY, label=f"all {rows_k.sum():,.0f} steps")
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
    plot = described(f"{key}-histogram")
    rows = [row for row in log.metrics if _histogram(lookup(row, f"{key}.histogram"))[0].any()]
    rows = [rows[0], rows[-1]] if len(rows) > 1 else rows
    if not rows:
        return plot

    def draw(figure: Figure, axes: list[Axes]) -> None:
        ax, least = axes[0], 1.0
        for row, color in zip(rows, (GRAY, RED if normalized else GREEN), strict=False):
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


def gradients(log: RunLog) -> Plot:
    """Gradient norm, and how much of the gradient comes from the selective terms."""
    norm, ratio = log.series("update.grad_norm"), log.series("update.selective_gradient_ratio")
    clip = number(log.setting("optim.grad_clip"))
    plot = described("gradients")
    if not has_any(norm, ratio):
        return plot

    def draw(figure: Figure, axes: list[Axes]) -> None:
        line(axes[0], log.iterations, norm, "norm", color=BLUE)
        if np.isfinite(clip) and clip < 3 * np.nanmax(norm, initial=0.0):
            axes[0].axhline(clip, color=GRAY, ls="--", linewidth=1.2, label=f"clipped at {clip:g}")
        axes[0].set_ylabel("gradient norm")
        axes[0].set_ylim(bottom=0)
        if not line(axes[-1], log.iterations, ratio, "selective ÷ base", color=ORANGE):
            axes[-1].text(0.5, 0.5, "not measured", transform=axes[-1].transAxes, ha="center", va="center")
            axes[-1].set_yticks([])
        axes[-1].set_ylabel("selective ÷ base")
        axes[-1].set_ylim(bottom=0)
        iteration_axis(axes[-1], log.iterations)
        legend(figure, columns=4)

    return plot.drawn(draw, panels=2)


def seconds(log: RunLog) -> Plot:
    """Where the time goes."""
    names = list(dict.fromkeys(str(n) for row in log.metrics for n in mapping_at(row, "seconds") if n != "total"))
    layers = np.array(
        [[number(lookup(row, f"seconds.{n}")) for row in log.metrics] for n in names], dtype=float
    ).reshape(len(names), len(log.metrics))
    layers = np.nan_to_num(layers)
    plot = described("seconds")
    if not layers.any():
        return plot
    rest = np.maximum(np.nan_to_num(log.series("seconds.total")) - layers.sum(axis=0), 0)
    parts = [(n, layer) for n, layer in [*zip(names, layers, strict=True), ("other", rest)] if layer.any()]

    def draw(figure: Figure, axes: list[Axes]) -> None:
        bottom, width = np.zeros(len(log.metrics)), bar_width(log.iterations)
        for n, (name, layer) in enumerate(parts):
            color = GRAY if name == "other" else COLORS[n % len(COLORS)]
            axes[0].bar(log.iterations, layer, width=width, bottom=bottom, color=color, label=plain(name))
            bottom = bottom + layer
        axes[0].set_ylabel("seconds")
        iteration_axis(axes[0], log.iterations)
        legend(figure, columns=4)

    return plot.drawn(draw)


def sft(log: RunLog) -> Plot:
    """Loss of SFT."""
    steps = np.array([number(row.get("step")) for row in log.sft])
    loss = np.array([number(row.get("loss")) for row in log.sft])
    plot = described("sft")
    if not has_any(loss[np.isfinite(steps)] if len(loss) else loss):
        return plot

    def draw(figure: Figure, axes: list[Axes]) -> None:
        line(axes[0], steps, loss, color=BLUE)
        axes[0].set_ylabel("loss (nats per token)")
        axes[0].set_xlabel("optimizer step")
        axes[0].set_ylim(bottom=0)

    return plot.drawn(draw)


def _steps(x: np.ndarray, layers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One block per iteration, so that a stack also shows a single iteration."""
    half = 0.5 * float(np.diff(x).min()) if len(x) > 1 else 0.5
    edges = np.column_stack([x - half, x + half]).ravel()
    return edges, np.repeat(layers, 2, axis=1)


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
