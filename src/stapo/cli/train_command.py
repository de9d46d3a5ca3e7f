"""`stapo train [PRESET or FILE] [--overrides]`."""

from __future__ import annotations

import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from stapo.cli.arguments import load_config, parse_run_config, preset_names, take_env_options, take_flag

_HELP = """usage: stapo train [PRESET or FILE.yaml] [--out DIR] [--algorithm NAME] [--overrides ...]

Warm start, RL, evaluation before and after, and a report, into a new run directory.

arguments:
  PRESET or FILE       a shipped preset ({presets}; default: tiny) or your own YAML file
  --out DIR            run directory; default runs/PRESET-ALGORITHM-DATE
  --algorithm NAME     any of 'stapo algorithms'; changes the method and nothing else
  --env.OPTION VALUE   an option of the environment, e.g. --env.games DIR; 'stapo envs NAME' lists them
  --dry-run            print the resolved configuration as YAML and stop
  --quiet              one line per iteration instead of progress bars

examples:
  stapo train --seed 1
  stapo train tiny --algorithm grpo --optim.iterations 20
  stapo train tiny --env.games ../shared/data/alfworld --eval.split valid_unseen
  stapo train --dry-run > mine.yaml && stapo train mine.yaml

Settings (all can be overridden; values shown are those of the preset):
"""


def run(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = list(argv)
    source = args.pop(0) if args and not args[0].startswith("-") else "tiny"
    wants_help = any(a in ("-h", "--help") for a in args)
    if wants_help:
        print(_HELP.format(presets=", ".join(preset_names())))
    out, args = take_flag(args, "--out", needs="a folder")
    algorithm, args = take_flag(args, "--algorithm", needs="a name; see 'stapo algorithms'")
    dry, args = "--dry-run" in args, [a for a in args if a != "--dry-run"]
    quiet, args = "--quiet" in args, [a for a in args if a != "--quiet"]
    env_name, _ = take_flag(args, "--env.name", needs="the name of an environment")
    config = load_config(source, algorithm)
    options, args = take_env_options(args, env_name or config.env.name)
    if options:
        config = load_config(source, algorithm, {"env": {"options": options}})
    config = parse_run_config(config, args, "stapo train")

    from stapo.train.schema import to_data

    if dry:
        print(yaml.safe_dump(to_data(config), sort_keys=False), end="")
        return 0
    name = Path(source).stem
    folder = Path(out) if out else Path("runs") / f"{name}-{config.algorithm.name}-{datetime.now():%Y%m%d-%H%M%S}"

    from transformers.utils import logging as transformers_logging

    from stapo.cli.progress import ConsoleWatcher
    from stapo.report import write_report
    from stapo.train.pipeline import train_run

    transformers_logging.disable_progress_bar()
    with ConsoleWatcher(quiet=quiet, iterations=config.optim.iterations) as watcher:
        watcher.say(
            f"{config.algorithm.name} on {config.env.name}: {config.optim.iterations} iterations of "
            f"{config.rollout.groups} x {config.rollout.group_size} episodes, seed {config.seed}, into {folder}"
        )
        outcome = train_run(config, folder, ["stapo", "train", *argv], watcher)
        report = write_report(outcome.run)
    _print_outcome(outcome.evaluations, outcome.seconds)
    print(f"run directory: {folder}\nreport:        {report}")
    print(f"evaluate more: stapo eval {shlex.quote(str(folder))} --seeds 0 1 2")
    return 0


def _print_outcome(evaluations: list[dict[str, Any]], seconds: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="success before and after RL")
    table.add_column("", overflow="fold")
    for mode in dict.fromkeys(row["mode"] for row in evaluations):
        for when in ("before", "after"):
            table.add_column(f"{mode}, {when}", justify="right")
    cells: dict[str, list[str]] = {"all": []}
    for mode in dict.fromkeys(row["mode"] for row in evaluations):
        rows = [row for row in evaluations if row["mode"] == mode]
        for row in (rows[0], rows[-1]):
            cells["all"].append(f"{row['success']:.3f} ± {row['success_standard_error'] or 0:.3f}")
            for task_type, part in row["by_type"].items():
                cells.setdefault(task_type, []).append(f"{part['success']:.2f}")
    for label, values in cells.items():
        table.add_row(label, *values, style="bold" if label == "all" else None, end_section=label == "all")
    console = Console(file=sys.stdout)
    console.print(table)
    if evaluations:
        console.print(f"protocol: {evaluations[-1]['protocol']}; ± is the binomial standard error", style="dim")
    console.print(
        f"warm start {seconds['warm_start']:.0f} s, RL with evaluations {seconds['rl']:.0f} s", style="dim"
    )
