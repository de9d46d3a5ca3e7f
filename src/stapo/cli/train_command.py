"""`stapo train [PRESET or FILE] [--overrides]`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro
import yaml
from tyro.conf import Positional

from stapo.api.pretrained import warning
from stapo.cli.arguments import resolve
from stapo.cli.command import Command, arg
from stapo.cli.words import foreign, say, write_line
from stapo.config.presets import name_of
from stapo.config.run_config import RunConfig
from stapo.config.schema import to_data
from stapo.errors import ConfigError
from stapo.run import RunDirectory
from stapo.trackers.process import check_names

COMMON = (
    "seed", "env.split", "agent.max_prompt_tokens", "agent.max_response_tokens", "model.path", "model.dtype",
    "model.lora.rank", "sft.steps", "rollout.groups", "rollout.group_size", "rollout.temperature",
    "algorithm.outlier.lam", "algorithm.selective.alpha", "algorithm.selective.gamma", "optim.iterations",
    "optim.learning_rate", "optim.mini_batch", "optim.micro_tokens", "eval.episodes", "eval.every",
)  # fmt: skip
"""The settings that people change."""


@dataclass(frozen=True, kw_only=True)
class Train(Command):
    """Train an agent: SFT, RL, evaluation before and after, and a report, in a new run folder.

    If you kill or stop a run at any moment, the same command resumes it from the newest save, and it ends with the same
    numbers. With --model.path, settings for small models are replaced, and the changes are printed (docs/models.md).

    Attributes:
        source: shipped preset ('stapo presets' lists them) or your own YAML file. The default is tiny. The name of an
            environment stands for the preset that it names for small models; 'stapo envs NAME' says which.
        from_: run folder to begin from, with its optimizer; flags change its settings.
        out: run folder (default: runs/PRESET-ALGORITHM-DATE). Without it, the newest such folder with an unfinished
            run with the same settings is resumed.
        algorithm: method to train with, any of 'stapo algorithms'. Nothing else changes.
        dry_run: print the settings as YAML and an estimate of memory, disk and time, then stop. The settings go to
            stdout, the estimate to stderr. A folder, environment or tasks that training would refuse are an error.
        gpu: device of the estimate: h200, h100, a100-80, a100-40, l40s, rtx4090 or cpu. The default is this machine,
            measured by a probe of some five seconds with the model, with the others beside it.
        no_probe: measure nothing for the estimate; use the data sheet of a CPU for this machine.
        quiet: print one line per iteration instead of progress bars.
    """

    EXAMPLES = """
stapo train tiny --algorithm grpo --optim.iterations 20
stapo train alfworld-tiny --env.games $ALFWORLD_DATA --eval.split valid_unseen
stapo train paper/alfworld-7b --dry-run --gpu h200
stapo train --dry-run > mine.yaml && stapo train mine.yaml
"""
    PASSES = ("env.", "")
    SHOWN = COMMON
    ALSO: ClassVar = {
        "--algorithm.name": "--algorithm"
    }  # its name alone would relabel the algorithm without changing it

    source: Positional[str] = arg("PRESET or FILE", "tiny")
    from_: Annotated[Path | None, tyro.conf.arg(name="from")] = arg("RUN", None, needs="a run folder")
    out: Path | None = arg("DIR", None)
    algorithm: str | None = arg("NAME", None, needs="a name; see 'stapo algorithms'")
    dry_run: bool = False
    gpu: str | None = arg("NAME", None, needs="the name of a device, such as h100")
    no_probe: bool = False
    quiet: bool = False

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code."""
        if self.gpu is not None and not self.dry_run:
            raise ConfigError("--gpu names the device of an estimate; give --dry-run with it. A run has model.device.")
        if self.no_probe and not self.dry_run:
            raise ConfigError("--no-probe is for an estimate; give --dry-run with it.")
        source = self.source
        if self.from_ is not None:
            if source != "tiny":
                raise ConfigError(f"--from takes its settings from the run; give changes as flags, without '{source}'.")
            RunDirectory.open(self.from_)
            source = str(self.from_ / "config.yaml")
        config, chosen = resolve(source, self.algorithm, settings, "train")
        for line in (chosen, warning(config)):
            if line:
                write_line(line, sys.stderr)
        check_names(config.log.trackers)
        if self.dry_run:
            from stapo.cli.dry_run import check_settings, show_estimate

            show_estimate(config, self.gpu, self.out, probed=not self.no_probe)
            print(yaml.safe_dump(to_data(config), sort_keys=False), end="")
            check_settings(config, self.out, elsewhere=self.gpu is not None)
            return 0
        from stapo.api.runs import default_folder

        name = name_of(source) if self.from_ is None else f"{self.from_.resolve().name}-fork"
        folder = self.out or default_folder(name, config)
        return train_into(config, folder, ["stapo", "train", *argv], self.quiet, self.from_)


def train_into(config: RunConfig, folder: Path, command: list[str], quiet: bool, fork: Path | None = None) -> int:
    """Start a run in `folder`, from another one where `fork` says so, or resume the one that is there."""
    from stapo.api.runs import run_training
    from stapo.cli.progress import ProgressDisplay
    from stapo.training.callbacks import Callbacks

    with ProgressDisplay(quiet=quiet, iterations=config.optim.iterations) as display:
        try:
            outcome = run_training(config, folder, command, Callbacks([display]), fork)
        except KeyboardInterrupt:
            if (folder / "run.json").is_file():
                display.on_notice(f"resume it: stapo resume {shlex.quote(str(folder))}")
            raise
        if outcome.was_finished:
            display.on_notice("this run is finished already; nothing was trained. More iterations: stapo resume --help")
    _print_outcome(outcome.evaluations, outcome.seconds)
    write_line(f"run directory: {folder}\nreport:        {folder / 'report.html'}")
    which = f" --environment {next(iter(config.envs))}" if config.envs else ""
    write_line(f"evaluate more: stapo eval {shlex.quote(str(folder))}{which} --seeds 0 1 2")
    return 0


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


COMMAND = Train
