"""`stapo diagnose RUN [--against RUN2 ...] [--checkpoints start final] ...`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table as RichTable

from stapo.cli.words import foreign, positional, say
from stapo.errors import ConfigError

if TYPE_CHECKING:
    from stapo.config.run_config import RunConfig
    from stapo.diagnosis import DiagnosisTarget
    from stapo.diagnosis.tables import Table

_HELP = """usage: stapo diagnose RUN [--checkpoints NAME ...] [--against RUN2 ...] [--split NAME] [--tasks T]
                          [--group-size N] [--seed S] [--out DIR] [--env.OPTION VALUE ...] [--json]

Measure what a trained policy's steps are like: outliers of the normalized entropy, how much answers depend on goal and
history, which steps were bad by the environment's own word, and whether entropy finds them. Nothing is learned.

arguments:
  RUN                  run directory, as 'stapo train' writes it
  --checkpoint NAME    start (before RL), final (the default) or one in between, such as iteration-00010
  --checkpoints A B    several of them, side by side
  --against RUN2 ...   the same checkpoints of other runs in the same environment, side by side; tasks, seeds and
                       settings are those of RUN
  --split NAME         tasks to play (default: eval.split of the run)
  --tasks T            how many of them, evenly thinned (default: 32, or all where there are fewer; the paper used 128)
  --group-size N       trajectories per task (default: rollout.group_size of the run; the paper used 8)
  --seed S             of sampling and of the intervals (default: 0)
  --out DIR            where results go (default: RUN/diagnosis)
  --env.OPTION VALUE   change an option of the environment, e.g. --env.games DIR to play other games
  --json               print one JSON document

Each policy gets a folder in RUN/diagnosis: diagnosis.html (figures, worst steps), diagnosis.json (all numbers,
protocol, versions), steps.jsonl (one row per step). Doing it again replaces these files and no others.

examples:
  stapo diagnose runs/quickstart
  stapo diagnose runs/quickstart --checkpoints start final --tasks 128
  stapo diagnose runs/stapo --against runs/gigpo runs/grpo
"""
_OPTIONS = (
    "--checkpoint", "--checkpoints", "--against", "--split", "--tasks", "--group-size", "--seed", "--out", "--json",
    "--help",
)  # fmt: skip
_WIDE = 180  # columns in a file or pipe, where a table need not be squeezed


@dataclass(frozen=True)
class _Request:
    runs: tuple[Path, ...]
    checkpoints: tuple[str, ...]
    split: str | None
    tasks: int | None
    group_size: int | None
    seed: int
    out: Path | None
    as_json: bool


def run(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    if any(arg in ("-h", "--help") for arg in argv):
        print(_HELP, end="")
        return 0
    request, of_env = _read(argv)
    documents, subjects = _diagnose(request, of_env)
    if request.as_json:
        print(json.dumps({"diagnoses": documents}, indent=1))
    else:
        _show(documents, subjects)
    return 0


def _read(argv: list[str]) -> tuple[_Request, list[str]]:
    from stapo.cli.arguments import ENV_PREFIX, split_env_args
    from stapo.cli.words import take_flag

    of_env, args = split_env_args(argv)
    numbers: dict[str, int | None] = {}
    for flag in ("--tasks", "--group-size", "--seed"):
        text, args = take_flag(args, flag, needs="a number")
        numbers[flag] = None if text is None else _whole(flag, text)
    split, args = take_flag(args, "--split", needs="the name of a split")
    out, args = take_flag(args, "--out", needs="a folder")
    one, args = take_flag(args, "--checkpoint", needs="a name, such as final or start")
    several, args = _take_words(args, "--checkpoints", "names, such as start final")
    against, args = _take_words(args, "--against", "run directories")
    as_json = "--json" in args
    words = positional([a for a in args if a != "--json"], 1, "diagnose", (*_OPTIONS, f"{ENV_PREFIX}OPTION"))
    if not words:
        raise ConfigError(
            "'stapo diagnose' needs a run directory, as 'stapo train' writes it; name it before --against and "
            "--checkpoints."
        )
    checkpoints = ([] if one is None else [one]) + several or ["final"]
    return (
        _Request(
            tuple(map(Path, [*words, *against])),
            tuple(dict.fromkeys(checkpoints)),
            split,
            numbers["--tasks"],
            numbers["--group-size"],
            numbers["--seed"] or 0,
            None if out is None else Path(out),
            as_json,
        ),
        of_env,
    )


def _take_words(args: list[str], flag: str, needs: str) -> tuple[list[str], list[str]]:
    """Remove ``FLAG word word …`` from `args`; returns the words and the rest."""
    if flag not in args:
        return [], args
    start = args.index(flag)
    end = start + 1
    while end < len(args) and not args[end].startswith("-"):
        end += 1
    if end == start + 1:
        raise ConfigError(f"{flag} needs {needs}.")
    return args[start + 1 : end], args[:start] + args[end:]


def _whole(flag: str, text: str) -> int:
    if text.isdecimal() and len(text) <= 18:
        return int(text)
    raise ConfigError(f"{flag} is '{text}', expected a whole number.")


def _diagnose(request: _Request, of_env: list[str]) -> tuple[list[dict[str, Any]], list[DiagnosisTarget]]:
    """Everything that can be wrong with the request is found before the first model is loaded."""
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

    runs = [RunDirectory.open(path) for path in request.runs]
    configs = [read_run_config(r) for r in runs]
    first = configs[0] = _with_env_options(configs[0], of_env)
    for path, config in zip(request.runs[1:], configs[1:], strict=True):
        require_same_world(first, config, path)
    for found in runs:
        for name in request.checkpoints:
            require_checkpoint(found, name)
    out = request.out or runs[0].path / "diagnosis"
    names = _folder_names(request.runs)
    subjects = [
        DiagnosisTarget(found, config, name, out / f"{prefix}{name}")
        for found, config, prefix in zip(runs, configs, names, strict=True)
        for name in request.checkpoints
    ]
    for subject in subjects:
        require_writable(subject.folder)
    split = request.split or first.eval.split
    env = env_factory(first)()
    offered = list(env.tasks_of(split))
    env.close()
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


def _with_env_options(config: RunConfig, args: list[str]) -> RunConfig:
    from stapo.cli.arguments import take_env_options

    options, rest = take_env_options(args, config.env.name)
    if rest:
        raise ConfigError(
            f"'stapo diagnose' has no option '{rest[0]}': a run is diagnosed in its own environment "
            f"'{config.env.name}'; the split is chosen with --split."
        )
    return replace(config, env=replace(config.env, options={**config.env.options, **options}))


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
