"""`stapo train [PRESET or FILE] [--overrides]`."""

from __future__ import annotations

import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from stapo.cli.arguments import parse_run_config, take_env_options
from stapo.cli.pretrained import pretrained_settings, said, warning
from stapo.cli.words import foreign, say, take_flag, write_line
from stapo.config.presets import load_config, name_of, preset_names
from stapo.errors import ConfigError

if TYPE_CHECKING:
    from stapo.config.run_config import RunConfig

_RUNS = Path("runs")
_HELP = """usage: stapo train [PRESET or FILE.yaml] [--out DIR] [--algorithm NAME] [--overrides ...]

SFT, RL, evaluation before and after, and a report, into a run directory. Killed or stopped at any moment, the
same command resumes from the newest save and ends with the same numbers.

arguments:
  PRESET or FILE       a shipped preset ({presets}; default: tiny) or your own YAML file; alfworld, search and webshop
                       stand for tiny, search-tiny and webshop-tiny
  --out DIR            run directory; default runs/PRESET-ALGORITHM-DATE, or the newest such folder that holds an
                       unfinished run with the same settings
  --algorithm NAME     any of 'stapo algorithms'; changes the method and nothing else
  --env.OPTION VALUE   an option of the environment, e.g. --env.games DIR; 'stapo envs NAME' lists them
  --model.path MODEL   train a pretrained model; settings that a preset made for small models from scratch are then
                       chosen anew, and said (docs/models.md)
  --dry-run            print the resolved configuration as YAML (stdout), the run in short and an estimate of memory,
                       disk and time (stderr), and stop
  --gpu NAME           device of the estimate: h200, h100, a100-80, a100-40, l40s, rtx4090 or cpu, a laptop (default:
                       this machine, by a short measurement, with the others beside it)
  --quiet              one line per iteration instead of progress bars

examples:
  stapo train --seed 1
  stapo train tiny --algorithm grpo --optim.iterations 20
  stapo train alfworld-tiny --env.games $ALFWORLD_DATA --eval.split valid_unseen
  stapo train alfworld --model.path MODEL --dry-run
  stapo train paper/alfworld-7b --dry-run --gpu h200
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
    # Its name alone would relabel the preset's algorithm without changing it.
    args = ["--algorithm" + a.removeprefix("--algorithm.name") if _is_algorithm_name(a) else a for a in args]
    algorithm, args = take_flag(args, "--algorithm", needs="a name; see 'stapo algorithms'")
    dry, args = "--dry-run" in args, [a for a in args if a != "--dry-run"]
    gpu, args = take_flag(args, "--gpu", needs="the name of a device, such as h100")
    if gpu is not None and not dry:
        raise ConfigError("--gpu names the device of an estimate; give --dry-run with it. A run takes model.device.")
    quiet, args = "--quiet" in args, [a for a in args if a != "--quiet"]
    env_name, _ = take_flag(args, "--env.name", needs="the name of an environment")
    config = load_config(source, algorithm)
    options, args = take_env_options(args, env_name or config.env.name)
    chosen = pretrained_settings(source, config, args)
    if options or chosen:
        config = load_config(source, algorithm, {**chosen, "env": {"options": options}})
    config = parse_run_config(config, args, "stapo train")
    for line in (said(chosen, args) if chosen else "", warning(config)):
        if line:
            write_line(line, sys.stderr)

    from stapo.config.schema import to_data
    from stapo.trackers.process import check_names

    check_names(config.log.trackers)
    if dry:
        from stapo.cli.dry_run import show_estimate

        show_estimate(config, gpu)
        print(yaml.safe_dump(to_data(config), sort_keys=False), end="")
        return 0
    return train_into(config, Path(out) if out else _folder(name_of(source), config), ["stapo", "train", *argv], quiet)


def _folder(name: str, config: RunConfig) -> Path:
    """The default run directory: that of an unfinished run of the same command, else a new one."""
    from stapo.training.resume import unfinished_twin

    prefix = f"{name}-{config.algorithm.name}-"
    return unfinished_twin(_RUNS, prefix, config) or _RUNS / f"{prefix}{datetime.now():%Y%m%d-%H%M%S}"


def train_into(config: RunConfig, folder: Path, command: list[str], quiet: bool) -> int:
    """Start a run in `folder`, or resume the one that is there; returns the exit code."""
    from transformers.utils import logging as transformers_logging

    from stapo.cli.progress import ProgressDisplay
    from stapo.report import write_report
    from stapo.training.callbacks import Callbacks
    from stapo.training.pipeline import train_run
    from stapo.training.preflight import preflight

    transformers_logging.disable_progress_bar()
    with ProgressDisplay(quiet=quiet, iterations=config.optim.iterations) as display:
        callbacks = Callbacks([display])
        # Kept until the end: environments built meanwhile share the games that this one has read.
        env = preflight(config, folder, lambda done, total: callbacks.stage("checking games", done, total))
        callbacks.notice(
            f"{config.algorithm.name} on {config.env.name}: {config.optim.iterations} iterations of "
            f"{config.rollout.groups} x {config.rollout.group_size} episodes, seed {config.seed}, into {folder}"
        )
        try:
            outcome = train_run(config, folder, command, callbacks, env)
        except KeyboardInterrupt:
            if (folder / "run.json").is_file():
                callbacks.notice(f"resume it: stapo resume {shlex.quote(str(folder))}")
            raise
        finally:
            env.rest()
        if outcome.was_finished:
            callbacks.notice("this run is finished already; nothing was trained. More iterations: stapo resume --help")
        report = write_report(outcome.run)
        env.close()
    _print_outcome(outcome.evaluations, outcome.seconds)
    write_line(f"run directory: {folder}\nreport:        {report}")
    write_line(f"evaluate more: stapo eval {shlex.quote(str(folder))} --seeds 0 1 2")
    return 0


def _is_algorithm_name(arg: str) -> bool:
    return arg.partition("=")[0] == "--algorithm.name"


def _print_outcome(evaluations: list[dict[str, Any]], seconds: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("task type", title="success before and after RL")
    modes = list(dict.fromkeys(row["mode"] for row in evaluations))
    cells: dict[str, list[str]] = {"all": [], "  standard error": []}
    for mode in modes:
        rows = [row for row in evaluations if row["mode"] == mode]
        for when, row in (("before", rows[0]), ("after", rows[-1]))[-len(rows) :]:  # eval.at_start may be off
            table.add_column(foreign(f"{mode},\n{when}"), justify="right")
            cells["all"].append(f"{row['success']:.3f}")
            cells["  standard error"].append(f"{row['success_standard_error'] or 0:.3f}")
            for task_type, part in row["by_type"].items():
                cells.setdefault(task_type, []).append(f"{part['success']:.2f}")
            if row.get("task_score") is not None:
                cells.setdefault("mean score", []).append(f"{row['task_score']:.3f}")
    for label, values in cells.items():
        table.add_row(
            foreign(label), *values, style="bold" if label == "all" else None, end_section=label.startswith("  ")
        )
    console = Console(file=sys.stdout)
    console.print(table)
    if evaluations:
        say(console, foreign(f"protocol: {evaluations[-1]['protocol']}; the standard error is the binomial one"), "dim")
    console.print(f"SFT {seconds['sft']:.0f} s, RL with evaluations {seconds['rl']:.0f} s", style="dim")
