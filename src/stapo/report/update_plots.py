"""Plots of the optimizer, of time, and of SFT."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stapo.documents import lookup, mapping_at, number
from stapo.html.drawing import (
    BLUE,
    COLORS,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
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
from stapo.report.data import RunLog


def update_plots(log: RunLog) -> list[Plot]:
    """Gradients, clipping, numerical agreement, seconds and SFT; the critic where the run has one."""
    critics = [critic(log)] if has_any(log.series("critic.mean_value")) else []
    return [gradients(log), clipping(log), *critics, agreement(log), seconds(log), sft(log)]


def critic(log: RunLog) -> Plot:
    """What the critic expected beside what came, and how much of the differences between states it explains."""
    plot = Plot(
        key="critic",
        title="Critic",
        shows="Mean value that the critic gave to the states of the batch, before it was trained on them, and mean "
        "return that followed them; below, the share of the variance of returns that its values explain.",
        look_for="values that follow the returns, and an explained variance that rises above 0.",
        bad_sign="explained variance at or below 0 throughout: advantages are then no better than without a critic.",
    )

    def draw(figure: Figure, axes: list[Axes]) -> None:
        line(axes[0], log.iterations, log.series("critic.mean_value"), "value", color=BLUE)
        line(axes[0], log.iterations, log.series("critic.mean_target"), "return", color=ORANGE)
        axes[0].set_ylabel("reward")
        line(axes[-1], log.iterations, log.series("critic.explained_variance"), "explained variance", color=GREEN)
        axes[-1].axhline(0, color=GREY, linewidth=0.8)
        axes[-1].set_ylabel("explained")
        iteration_axis(axes[-1], log.iterations)
        legend(figure, columns=4)

    return plot.drawn(draw, panels=2)


def gradients(log: RunLog) -> Plot:
    """Gradient norm, and how much of the gradient comes from the selective terms."""
    norm, ratio = log.series("update.grad_norm"), log.series("update.selective_gradient_ratio")
    clip = number(log.setting("optim.grad_clip"))
    plot = Plot(
        key="gradients",
        title="Gradient",
        shows="Gradient norm before clipping, mean over the optimizer steps; below, the norm of the selective terms' "
        "gradient over that of the base loss, measured on one micro-batch with flagged steps.",
        look_for="a norm of one order of magnitude throughout, mostly under the clip; a ratio well below 1.",
        bad_sign="spikes before a drop in success; a ratio near or above 1: a few flagged steps drive the update.",
    )
    if not has_any(norm, ratio):
        return plot.without("No iteration logged gradients.")

    def draw(figure: Figure, axes: list[Axes]) -> None:
        line(axes[0], log.iterations, norm, "norm", color=BLUE)
        if np.isfinite(clip) and clip < 3 * np.nanmax(norm, initial=0.0):
            axes[0].axhline(clip, color=GREY, ls="--", linewidth=1.2, label=f"clipped at {clip:g}")
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


def clipping(log: RunLog) -> Plot:
    """Tokens whose ratio was clipped."""
    parts = {
        "ratio too high": (log.series("update.clip_high"), GREEN),
        "ratio too low": (log.series("update.clip_low"), RED),
        "dual clip": (log.series("update.dual_clip"), PURPLE),
    }
    plot = Plot(
        key="clipping",
        title="Clip fraction",
        shows="Share of response tokens whose probability ratio left the clip range, so that they stopped pulling.",
        look_for="a few percent.",
        bad_sign="tens of percent: steps are too large (lower the learning rate, the epochs, or raise mini_batch).",
    )
    if not has_any(*(values for values, _ in parts.values())):
        return plot.without("No iteration logged clip fractions.")

    def draw(figure: Figure, axes: list[Axes]) -> None:
        for name, (values, color) in parts.items():
            line(axes[0], log.iterations, values, name, color=color)
        percent_axis(axes[0], "response tokens")
        axes[0].set_ylim(bottom=0)
        iteration_axis(axes[0], log.iterations)
        legend(figure)

    return plot.drawn(draw)


def agreement(log: RunLog) -> Plot:
    """Do trainer and sampler agree, and how far does an update move the policy."""
    parts = {
        "largest gap sampler to trainer": (log.series("update.logprob_gap"), RED),
        "KL of the update": (log.series("update.old_kl"), BLUE),
        "KL to the reference": (log.series("update.ref_kl"), GREY),
    }
    plot = Plot(
        key="agreement",
        title="Log-probabilities",
        shows="Largest difference between the log-probability that the sampler recorded and the trainer recomputed "
        "before any change; mean KL that the update moved the policy by; and KL to the reference where there is one.",
        look_for="a gap at rounding level (about 1e-5 in float32, 1e-1 in bfloat16) and a KL below 0.1.",
        bad_sign="a gap that is not rounding: sampler and trainer see different prompts or weights, and every number "
        "after that is off.",
    )
    if not any(np.nan_to_num(values).any() for values, _ in parts.values()):
        return plot.without("No iteration logged log-probability gaps.")

    def draw(figure: Figure, axes: list[Axes]) -> None:
        for name, (values, color) in parts.items():
            line(axes[0], log.iterations, np.where(values > 0, values, np.nan), name, color=color)
        log_axis(axes[0])
        axes[0].set_ylabel("nats per token")
        iteration_axis(axes[0], log.iterations)
        legend(figure, columns=2)

    return plot.drawn(draw)


def seconds(log: RunLog) -> Plot:
    """Where the time goes."""
    names = list(dict.fromkeys(str(n) for row in log.metrics for n in mapping_at(row, "seconds") if n != "total"))
    layers = np.array(
        [[number(lookup(row, f"seconds.{n}")) for row in log.metrics] for n in names], dtype=float
    ).reshape(len(names), len(log.metrics))
    layers = np.nan_to_num(layers)
    plot = Plot(
        key="seconds",
        title="Seconds per iteration",
        shows="Wall time of the parts of an iteration, stacked; evaluations are not included.",
        look_for="rollouts (generation and environment) that shrink as episodes get shorter; a thin blind pass.",
        bad_sign="a part that grows from iteration to iteration, or blind passes beyond a tenth of the update.",
    )
    if not layers.any():
        return plot.without("No iteration logged its time.")
    rest = np.maximum(np.nan_to_num(log.series("seconds.total")) - layers.sum(axis=0), 0)
    parts = [(n, layer) for n, layer in [*zip(names, layers, strict=True), ("other", rest)] if layer.any()]

    def draw(figure: Figure, axes: list[Axes]) -> None:
        bottom, width = np.zeros(len(log.metrics)), bar_width(log.iterations)
        for n, (name, layer) in enumerate(parts):
            color = GREY if name == "other" else COLORS[n % len(COLORS)]
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
    plot = Plot(
        key="sft",
        title="SFT",
        shows="Cross-entropy of the expert's actions in the supervised steps before RL, mean over the steps between "
        "two points. A step up in the middle is the change to full prompts (sft.curriculum).",
        look_for="a fall that flattens out.",
        bad_sign="still falling steeply at the end: more steps would give RL a better start.",
    )
    if not has_any(loss[np.isfinite(steps)] if len(loss) else loss):
        return plot.without("The run had no SFT, or it was interrupted before its first steps.")

    def draw(figure: Figure, axes: list[Axes]) -> None:
        line(axes[0], steps, loss, color=BLUE)
        axes[0].set_ylabel("loss (nats per token)")
        axes[0].set_xlabel("optimizer step")
        axes[0].set_ylim(bottom=0)

    return plot.drawn(draw)
