"""Plots of what the agent achieves and how it behaves."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stapo.documents import mapping_at, number
from stapo.html.drawing import (
    BLUE,
    COLORS,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    TEAL,
    Plot,
    has_any,
    iteration_axis,
    legend,
    line,
    percent_axis,
    plain,
    smoothed,
    smoothing_window,
)  # fmt: skip
from stapo.report.data import RunLog

_MOST_TYPES = 12
_MODE_STYLE = {"sampled": (ORANGE, "o"), "greedy": (PURPLE, "s")}


def outcome_plots(log: RunLog) -> list[Plot]:
    """Success, behavior and shape of the episodes."""
    return [success(log), success_by_type(log), behavior(log), lengths(log), endings(log), learning_signal(log)]


def success(log: RunLog) -> Plot:
    """Training success per iteration, with the evaluations over it."""
    window, split = smoothing_window(len(log.metrics)), log.setting("eval.split", "?")
    plot = Plot(
        key="success",
        title="Success",
        shows=f"Share of training episodes won (dots{f'; line: mean over {window} iterations' if window > 1 else ''})"
        f" and evaluations on split '{split}' with ± one standard error; hollow markers are shorter evaluations.",
        look_for="the evaluations rise, not just the training line.",
        bad_sign="training rises while the evaluations stay (tasks are memorized), or success falls after a rise.",
    )
    training = log.series("success")
    if not has_any(training) and not log.evals:
        return plot.without("Neither a training iteration nor an evaluation was logged.")

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
    left_out = f" Of {len(names)} types the first {_MOST_TYPES} are drawn." if len(names) > _MOST_TYPES else ""
    plot = Plot(
        key="types",
        title="Training success by task type",
        shows=f"Share of training episodes won, by family of tasks{smoothing}.{left_out}",
        look_for="every type rises; hard ones come later.",
        bad_sign="a type that sinks while others rise: the policy gives it up for the others.",
    )
    by_type = {
        name: np.array([number(mapping_at(row, "success_by_type").get(name)) for row in log.metrics])
        for name in names[:_MOST_TYPES]
    }
    if not has_any(*by_type.values()):
        return plot.without("No iteration logged success by task type.")

    def draw(figure: Figure, axes: list[Axes]) -> None:
        for n, (name, values) in enumerate(by_type.items()):
            dashes = "-" if n < len(COLORS) else "--"
            line(axes[0], log.iterations, smoothed(values, window), name, color=COLORS[n % len(COLORS)], ls=dashes)
        percent_axis(axes[0], "episodes won")
        axes[0].set_ylim(bottom=-0.02)
        iteration_axis(axes[0], log.iterations)
        legend(figure, columns=2)

    return plot.drawn(draw)


def behavior(log: RunLog) -> Plot:
    """Valid, repeated, ineffective and cut-off responses."""
    parts = {
        "valid": (log.series("valid_actions"), GREEN),
        "ineffective": (log.series("ineffective_actions"), ORANGE),
        "repeated": (log.series("repeated_actions"), RED),
        "cut off": (log.series("truncated_responses"), GREY),
    }
    plot = Plot(
        key="behavior",
        title="What the actions are like",
        shows="Share of steps whose response was valid, whose action changed nothing in the world, that repeat an "
        "action in the same situation, and that hit the response limit.",
        look_for="valid goes up; ineffective and repeated go down.",
        bad_sign="valid falls while R_TA rises: the selective term is paid for with broken responses.",
    )
    if not has_any(*(values for values, _ in parts.values())):
        return plot.without("No iteration logged the quality of its actions.")

    def draw(figure: Figure, axes: list[Axes]) -> None:
        for name, (values, color) in parts.items():
            line(axes[0], log.iterations, values, name, color=color)
        percent_axis(axes[0], "steps", whole=True)
        iteration_axis(axes[0], log.iterations)
        legend(figure, columns=4)

    return plot.drawn(draw)


def lengths(log: RunLog) -> Plot:
    """Steps per episode and tokens per response."""
    steps, response, prompt = (log.series(k) for k in ("episode_length", "response_tokens", "prompt_tokens"))
    plot = Plot(
        key="lengths",
        title="Lengths",
        shows="Mean steps per training episode (top) and mean tokens per response (bottom).",
        look_for="episodes get shorter as success rises; response length stays in its range.",
        bad_sign="responses that grow or shrink without end, or episodes that get shorter without more success.",
    )
    if not has_any(steps, response, prompt):
        return plot.without("No iteration logged lengths.")

    def draw(figure: Figure, axes: list[Axes]) -> None:
        line(axes[0], log.iterations, steps, color=BLUE)
        axes[0].set_ylabel("steps per episode")
        line(axes[1], log.iterations, response, color=TEAL)
        axes[1].set_ylabel("tokens per response")
        for ax in axes:
            ax.set_ylim(0, ax.get_ylim()[1] * 1.05)
        iteration_axis(axes[1], log.iterations)

    return plot.drawn(draw, panels=2)


def endings(log: RunLog) -> Plot:
    """Why training episodes ended."""
    names = list(dict.fromkeys(str(r) for row in log.metrics for r in mapping_at(row, "stop_reasons")))
    counts = np.array(
        [[number(mapping_at(row, "stop_reasons").get(n, 0)) for row in log.metrics] for n in names], dtype=float
    )
    plot = Plot(
        key="endings",
        title="How episodes ended",
        shows="Share of training episodes by the reason they ended.",
        look_for="'won' takes over from 'step limit'.",
        bad_sign="'failed' or 'prompt too long' grow: the agent breaks the task, or its history outgrows the prompt.",
    )
    if not counts.size or not np.nansum(counts):
        return plot.without("No iteration logged why its episodes ended.")
    shares = np.nan_to_num(counts) / np.maximum(np.nansum(counts, axis=0), 1)
    colors = {"won": GREEN, "failed": RED, "step_limit": GREY, "prompt_too_long": ORANGE}

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


def learning_signal(log: RunLog) -> Plot:
    """How much of the batch can teach anything."""
    equal, zero = log.series("equal_reward_groups"), log.series("advantage.zero")
    plot = Plot(
        key="signal",
        title="Learning signal",
        shows="Share of task groups in which every attempt scored the same, and share of steps with advantage 0.",
        look_for="a good part of the groups is mixed: only those compare success with failure.",
        bad_sign="nearly all groups equal: tasks are too hard or too easy, and little is learned from the batch.",
    )
    if not has_any(equal, zero):
        return plot.without("No iteration logged its advantages.")

    def draw(figure: Figure, axes: list[Axes]) -> None:
        line(axes[0], log.iterations, equal, "groups with equal scores", color=RED)
        line(axes[0], log.iterations, zero, "steps with advantage 0", color=BLUE)
        percent_axis(axes[0], "share", whole=True)
        iteration_axis(axes[0], log.iterations)
        legend(figure)

    return plot.drawn(draw)


def _steps(x: np.ndarray, layers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One block per iteration, so that a stack shows a single iteration, too."""
    half = 0.5 * float(np.diff(x).min()) if len(x) > 1 else 0.5
    edges = np.column_stack([x - half, x + half]).ravel()
    return edges, np.repeat(layers, 2, axis=1)
