"""Summarize finished runs: a table of success before and after RL, and their learning curves.

    python benchmarks/learning_curves.py runs/a runs/b runs/c --svg docs/images/quickstart.svg

Runs of `stapo compare` leave out the evaluation of their start: `--starts` names the run of each start, in that order.

Every number is read from the run directories; nothing is trained here.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from stapo.run import RunDirectory

_COLORS = {"sampled": "#1f6feb", "greedy": "#d97706", "training": "#8b949e"}


def mean_std(values: list[float]) -> str:
    """Mean and sample standard deviation over runs."""
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def evaluations(run: RunDirectory, start: RunDirectory | None) -> list[dict[str, Any]]:
    """Rows of all evaluations, that of the start first."""
    rows = run.rows("evals")
    return rows if start is None else [*(r for r in start.rows("evals") if r["final"]), *rows]


def table(runs: list[RunDirectory], starts: list[RunDirectory | None]) -> str:
    """A markdown table: a line per run, then the mean over runs."""
    modes = ("sampled", "greedy")
    lines = [
        "| run | seed | " + " | ".join(f"{m}, before | {m}, after" for m in modes) + " | SFT, s | RL, s |",
        "|---" * (2 + 2 * len(modes) + 2) + "|",
    ]
    columns: list[list[float]] = []
    for run, start in zip(runs, starts, strict=True):
        final = [row for row in evaluations(run, start) if row["final"]]
        cells = [
            next(row["success"] for row in rows if row["mode"] == m) for m in modes for rows in (final, final[::-1])
        ]
        seconds = run.info().get("seconds", {})
        sft = (run if start is None else start).info().get("seconds", {})
        columns.append([*cells, sft.get("sft", 0.0), seconds.get("rl", 0.0)])
        numbers = " | ".join(f"{c:.3f}" for c in cells) + f" | {columns[-1][-2]:.0f} | {columns[-1][-1]:.0f}"
        lines.append(f"| {run.path.name} | {run.config()['seed']} | {numbers} |")
    means = [mean_std([c[i] for c in columns]) for i in range(2 * len(modes))]
    lines.append(f"| **mean ± sd** | {len(runs)} | " + " | ".join(means) + " | | |")
    return "\n".join(lines)


def figure(runs: list[RunDirectory], starts: list[RunDirectory | None]) -> Figure:
    """Learning curves: training success (moving average over 5 iterations) and evaluations, a line per run."""
    fig = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = fig.subplots(1, 2, sharey=True)
    for run, start in zip(runs, starts, strict=True):
        rows = run.rows("metrics")
        smooth = [fmean(r["success"] for r in rows[max(0, i - 2) : i + 3]) for i in range(len(rows))]
        left.plot([r["iteration"] for r in rows], smooth, color=_COLORS["training"], alpha=0.9)
        for mode in ("sampled", "greedy"):
            evals = [r for r in evaluations(run, start) if r["mode"] == mode]
            right.errorbar(
                [r["iteration"] for r in evals],
                [r["success"] for r in evals],
                yerr=[r["success_standard_error"] for r in evals],
                color=_COLORS[mode],
                alpha=0.8,
                marker="o",
                markersize=3,
                capsize=2,
            )
    left.set(title="training tasks, sampled", xlabel="iteration", ylabel="success", ylim=(0, 1))
    right.set(title="held-out tasks", xlabel="iteration")
    for mode in ("sampled", "greedy"):
        right.plot([], [], color=_COLORS[mode], marker="o", markersize=3, label=mode)
    right.legend(loc="lower right", frameon=False)
    for axis in (left, right):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    fig.suptitle(f"{len(runs)} seeds, each with its own SFT", fontsize=10)
    return fig


def main() -> None:
    """Print the table and, where asked for, write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--starts", nargs="+", type=Path, default=[])
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    runs = [RunDirectory.open(path) for path in args.runs]
    starts: list[RunDirectory | None] = [RunDirectory.open(path) for path in args.starts] or [None] * len(runs)
    print(table(runs, starts))
    if args.svg:
        mpl.rcParams.update({"svg.hashsalt": "stapo", "svg.fonttype": "none"})
        args.svg.parent.mkdir(parents=True, exist_ok=True)
        figure(runs, starts).savefig(args.svg, metadata={"Date": None})
        print(f"wrote {args.svg}")


if __name__ == "__main__":
    main()
