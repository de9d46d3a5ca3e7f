"""`stapo diagnose RUN [--against RUN2 ...] [--checkpoints start final] ...`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table as RichTable
from tyro.conf import Positional

from stapo.cli.command import Command, arg
from stapo.cli.words import foreign, say

if TYPE_CHECKING:
    from stapo.diagnosis import DiagnosisTarget
    from stapo.diagnosis.tables import Table

_WIDE = 180  # columns in a file or pipe, where a table need not be squeezed


@dataclass(frozen=True, kw_only=True)
class Diagnose(Command):
    """Measure the steps of a trained policy: outliers, dependence on goal and history, bad steps. Nothing is learned.

    Measured are outliers of the normalized entropy, how much responses depend on goal and history, which steps were bad
    by the environment's own word, and whether entropy finds them.

    Attributes:
        run_folder: run folder, as 'stapo train' writes it.
        checkpoint: start (before RL), final (the default) or one in between, such as iteration-00010.
        checkpoints: several checkpoints, side by side.
        against: the same checkpoints of other runs in the same environment, side by side. Tasks, seeds and settings are
            those of RUN.
        split: tasks to play (default: eval.split of the run).
        tasks: tasks to play, evenly thinned; 1 or more (default: 32, or all where there are fewer). The paper used 128.
        group_size: episodes per task; 1 or more (default: rollout.group_size of the run). The paper used 8.
        seed: seed of sampling and of the intervals; 0 or more (default: 0).
        out: folder of the results (default: RUN/diagnosis).
        json: print one JSON document instead of tables.
    """

    EXAMPLES = """
stapo diagnose runs/quickstart
stapo diagnose runs/quickstart --checkpoints start final --tasks 128
stapo diagnose runs/stapo --against runs/gigpo runs/grpo
"""
    NOTES = """
Each policy gets a folder in RUN/diagnosis: diagnosis.html (figures, worst steps), diagnosis.json
(all numbers, protocol, versions), steps.jsonl (one row per step). Doing it again replaces these.
"""
    PASSES = ("env.",)

    run_folder: Positional[str] = arg(
        "RUN", needs="a run directory, as 'stapo train' writes it; name it before --against and --checkpoints"
    )
    checkpoint: str | None = arg("NAME", None, needs="a name, such as final or start")
    checkpoints: tuple[str, ...] = arg("A B", (), needs="names, such as start final")
    against: tuple[str, ...] = arg("RUN2 ...", (), needs="run directories")
    split: str | None = arg("NAME", None, needs="the name of a split")
    tasks: int | None = arg("T", None, needs="a number", expects="a whole number", least=0)
    group_size: int | None = arg("N", None, expects="a whole number", least=0)
    seed: int = arg("S", 0, needs="a number", expects="a whole number", least=0)
    out: Path | None = arg("DIR", None)
    json: bool = False

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code."""
        documents, targets = _diagnose(self, settings)
        if self.json:
            print(json.dumps({"diagnoses": documents}, indent=1))
        else:
            _show(documents, targets)
        return 0


def _diagnose(request: Diagnose, settings: list[str]) -> tuple[list[dict[str, Any]], list[DiagnosisTarget]]:
    """Everything that can be wrong with the request is found before the first model is loaded."""
    from stapo.cli.arguments import own_env_options
    from stapo.config.run_config import read_run_config
    from stapo.diagnosis import (
        DiagnosisTarget,
        diagnose,
        make_spec,
        require_checkpoint,
        require_same_world,
        require_writable,
    )
    from stapo.run import RunDirectory
    from stapo.training.factories import env_factory

    folders = [Path(folder) for folder in (request.run_folder, *request.against)]
    checkpoints = tuple(dict.fromkeys([*filter(None, [request.checkpoint]), *request.checkpoints])) or ("final",)
    runs = [RunDirectory.open(path) for path in folders]
    configs = [read_run_config(r) for r in runs]
    env = configs[0].env
    options = {**env.options, **own_env_options(settings, env.name, "diagnose")[0]}
    first = configs[0] = replace(configs[0], env=replace(env, options=options))
    for path, config in zip(folders[1:], configs[1:], strict=True):
        require_same_world(first, config, path)
    for found in runs:
        for name in checkpoints:
            require_checkpoint(found, name)
    out = request.out or runs[0].path / "diagnosis"
    names = _folder_names(folders)
    subjects = [
        DiagnosisTarget(found, config, name, out / f"{prefix}{name}")
        for found, config, prefix in zip(runs, configs, names, strict=True)
        for name in checkpoints
    ]
    for subject in subjects:
        require_writable(subject.folder)
    split = request.split or first.eval.split
    world = env_factory(first)()
    offered = list(world.tasks_of(split))
    world.close()
    protocol = make_spec(first, offered, split, tasks=request.tasks, group_size=request.group_size, seed=request.seed)

    from transformers.utils import logging as transformers_logging

    from stapo.cli.progress import ProgressDisplay
    from stapo.training.callbacks import Callbacks

    transformers_logging.disable_progress_bar()
    with ProgressDisplay() as display:
        return diagnose(subjects, protocol, Callbacks([display]).stage), subjects


def _folder_names(runs: Sequence[Path]) -> list[str]:
    """What the folder of each run's diagnosis begins with: nothing for the first, a name of its own for the others."""
    prefixes, taken = [""], set[str]()
    for path in runs[1:]:
        name, number = path.resolve().name, 1
        while name in taken:
            number += 1
            name = f"{path.resolve().name}-{number}"
        taken.add(name)
        prefixes.append(f"{name}--")
    return prefixes


def _show(documents: list[dict[str, Any]], subjects: list[DiagnosisTarget]) -> None:
    from stapo.diagnosis.tables import comparison_table, fault_table, outlier_table, ranking_table

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    for document, subject in zip(documents, subjects, strict=True):
        say(console, foreign(document["label"]), "bold")
        say(console, foreign(document["protocol"]["sentence"]))
        for remark in document["remarks"]:
            say(console, foreign(f"note: {remark}"), "dim")
        if len(documents) == 1:
            for table in (outlier_table(document), fault_table(document), ranking_table(document)):
                _print(console, table)
        say(console, foreign(f"page: {subject.folder / 'diagnosis.html'}"))
    if len(documents) > 1:
        _print(console, comparison_table(documents))


def _print(console: Console, table: Table) -> None:
    shown = RichTable(title=table.title, title_justify="left", title_style="bold")
    for i, name in enumerate(table.head):
        shown.add_column(name, justify="left" if i == 0 else "right")
    for row in table.rows:
        shown.add_row(*map(foreign, row))
    console.print(shown)
    say(console, foreign(table.note), "dim")


COMMAND = Diagnose
