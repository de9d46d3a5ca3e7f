"""`stapo diagnose RUN [--against RUN2 ...] [--checkpoints start final] ...`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table as RichTable
from tyro.conf import Positional

from stapo.cli.command import Command, arg
from stapo.cli.words import foreign, say
from stapo.config.environment import environment_of

if TYPE_CHECKING:
    from stapo.api.diagnosing import Diagnosis
    from stapo.diagnosis.tables import Table

_WIDE = 180  # columns in a file or pipe, where a table need not be squeezed


@dataclass(frozen=True, kw_only=True)
class Diagnose(Command):
    """Measure the steps of a trained policy: outliers, dependence on goal and history, bad steps. Nothing is learned.

    The diagnosis measures outliers of the normalized entropy, how much responses depend on goal and history, which
    steps the environment calls bad, and whether entropy finds them.

    Attributes:
        run_folder: run folder, as 'stapo train' writes it.
        checkpoint: start (before RL), final (the default) or one in between, such as iteration-00010.
        checkpoints: several checkpoints, side by side.
        against: the same checkpoints of other runs in the same environment, side by side. Tasks, seeds and settings are
            those of RUN.
        environment: which one, where the run has several.
        engine: what generates: transformers (default) or vllm. All measures are the model's own.
        split: tasks to play (default: eval.split of the run).
        tasks: tasks to play, evenly spaced; 1 or more (default: 32, or all if there are fewer). The paper used 128.
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
(all numbers, protocol, versions), steps.jsonl (one row per step). Another diagnosis replaces them.
"""
    PASSES = ("env.",)

    run_folder: Positional[str] = arg(
        "RUN", needs="a run directory, as 'stapo train' writes it; name it before --against and --checkpoints"
    )
    checkpoint: str | None = arg("NAME", None, needs="a name, such as final or start")
    checkpoints: tuple[str, ...] = arg("A B", (), needs="names, such as start final")
    against: tuple[str, ...] = arg("RUN2 ...", (), needs="run directories")
    environment: str | None = arg("NAME", None, needs="the name of an environment of the run")
    engine: str = arg("NAME", "transformers", needs="transformers or vllm")
    split: str | None = arg("NAME", None, needs="the name of a split")
    tasks: int | None = arg("T", None, needs="a number", least=1)
    group_size: int | None = arg("N", None, least=1)
    seed: int = arg("S", 0, needs="a number", expects="a whole number", least=0)
    out: Path | None = arg("DIR", None)
    json: bool = False

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code."""
        from stapo.api.diagnosing import diagnose
        from stapo.api.runs import Run
        from stapo.cli.arguments import own_env_options
        from stapo.cli.progress import ProgressDisplay

        run = Run(self.run_folder)
        options, _ = own_env_options(settings, environment_of(run.config, self.environment).env.name, "diagnose")
        with ProgressDisplay() as display:
            found = diagnose(
                run,
                self.against,
                checkpoints=[*filter(None, [self.checkpoint]), *self.checkpoints] or ("final",),
                environment=self.environment,
                engine=self.engine,
                split=self.split,
                tasks=self.tasks,
                group_size=self.group_size,
                seed=self.seed,
                out=self.out,
                env=options,
                callbacks=[display],
            )
        if self.json:
            print(json.dumps({"diagnoses": [diagnosis.document for diagnosis in found]}, indent=1))
        else:
            _show(found)
        return 0


def _show(found: list[Diagnosis]) -> None:
    from stapo.diagnosis.tables import comparison_table, tables

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    documents = [diagnosis.document for diagnosis in found]
    for document, diagnosis in zip(documents, found, strict=True):
        say(console, foreign(document["label"]), "bold")
        say(console, foreign(document["protocol"]["sentence"]))
        for remark in document["remarks"]:
            say(console, foreign(f"note: {remark}"), "dim")
        if len(documents) == 1:
            for table in tables(document):
                _print(console, table)
        say(console, foreign(f"page: {diagnosis.path / 'diagnosis.html'}"))
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
