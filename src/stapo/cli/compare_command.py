"""`stapo compare [PRESET or FILE] --algorithms A B --seeds 0 1 2 ...`."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from tyro.conf import Positional

from stapo.algo import get_algorithm
from stapo.cli.arguments import resolve
from stapo.cli.command import Command, arg, require_different, value_of
from stapo.cli.words import foreign, say, write_line
from stapo.comparison.plan import FILE_NAME, Plan, Variant, label_of, plan_of, read_plan
from stapo.config.presets import merge, name_of
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.errors import ConfigError
from stapo.texts import counted


@dataclass(frozen=True, kw_only=True)
class Compare(Command):
    """Train several algorithms with several seeds from the same starts, and compare them.

    All algorithms of a seed begin with the same policy, see the same tasks in the same order, and play the same
    evaluation tasks; differences are taken episode by episode. Each run has its own run folder. If you kill or stop a
    comparison at any moment, the same command resumes it: finished runs are kept, unfinished ones resume from their
    newest save, and the table is the same. More algorithms or seeds extend a comparison; other settings are refused,
    with the difference. DIR holds report.html, results.json (every number), compare.json (the plan), logs/, settings/,
    and run folders in starts/ and runs/.

    Attributes:
        source: shipped preset ('stapo presets' lists them) or your own YAML file. The default is tiny.
        algorithms: methods to compare, any of 'stapo algorithms'.
        seeds: seeds of the runs; 0 or more (default: 0 1 2).
        starts: different starts; 1 or more. Seed s begins with start s modulo W. The default is one per seed, at
            most 3. Your own model (--model.path) without SFT is the start of all.
        vary: values of a setting to try, such as algorithm.outlier.lam=1.0,1.5,3.0. Several settings
            give every combination, and those joined by + take each value together.
        episodes: evaluation episodes at start and end, the same as --eval.episodes; 0 or more.
        jobs: runs at a time, one thread each; 1 or more (default: the idle cores).
        out: folder of the comparison (default: runs/compare-PRESET-DATE).
        baseline: variant that the others are compared with (default: the earlier choice for DIR, otherwise the first).
        dry_run: print starts, runs, episodes and commands, then stop.
        quiet: show no progress bars.
        json: print the results as one JSON document.
    """

    EXAMPLES = """
stapo compare --algorithms grpo gigpo stapo --seeds 0 1 2 --out runs/compare
stapo compare --out runs/compare                                 resume what is there
stapo compare --algorithms stapo --vary algorithm.outlier.lam=1.0,1.5,3.0 --dry-run
stapo compare tiny --algorithms grpo stapo --optim.iterations 20 --jobs 2
"""
    PASSES = ("env.", "")
    SHOWN = (
        "agent.max_prompt_tokens", "model.path", "model.dtype", "sft.steps", "rollout.groups",
        "rollout.group_size", "rollout.temperature", "optim.iterations", "optim.learning_rate", "optim.mini_batch",
    )  # fmt: skip

    source: Positional[str | None] = arg("PRESET or FILE", None)
    algorithms: tuple[str, ...] = arg("A B", (), needs="names; see 'stapo algorithms'", commas=True)
    seeds: tuple[int, ...] = arg("0 1 2", (), needs="whole numbers, e.g. --seeds 0 1 2", least=0, commas=True)
    starts: int | None = arg("W", None, needs="a number", least=1)
    vary: tuple[str, ...] = arg("SETTING=V,V", (), needs="SETTING=VALUE,VALUE,..., e.g. algorithm.outlier.lam=1.0,1.5")
    episodes: int | None = arg("N", None, least=0)
    jobs: int | None = arg("N", None, least=1)
    out: Path | None = arg("DIR", None)
    baseline: str | None = arg("LABEL", None, needs="the label of a variant")
    dry_run: bool = False
    quiet: bool = False
    json: bool = False

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code: 1 where a run failed."""
        for number, name in enumerate(self.algorithms):
            get_algorithm(name)
            if name in self.algorithms[:number]:
                raise ConfigError(f"--algorithms names '{name}' twice.")
        require_different(self.seeds)
        from stapo.api.comparing import default_folder, idle_cores, require_ready, run_plan, with_what_is_there
        from stapo.cli.compare_view import Progress, show

        for flag, instead in (("--algorithm.name", "--algorithms"), ("--seed", "--seeds")):
            if value_of(settings, flag) is not None:
                raise ConfigError(f"'stapo compare' has no option {flag}. Did you mean '{instead}'?")
        if self.episodes is not None:
            settings = [*settings, "--eval.episodes", str(self.episodes)]
        asks = self.source or self.algorithms or self.seeds or self.starts or self.vary or settings
        if not asks and self.out is not None and (self.out / FILE_NAME).is_file():
            plan, out = read_plan(self.out), self.out
        else:
            source, command = self.source or "tiny", shlex.join(["stapo", "compare", *argv])
            plan = plan_from(source, self.algorithms, self.vary, self.seeds, self.starts, settings, command)
            out = self.out or default_folder(name_of(source), plan)
        plan, baseline = with_what_is_there(plan, out, self.baseline)
        require_ready(plan, baseline)
        jobs = self.jobs or idle_cores()
        if self.dry_run:
            _print_plan(plan, out, jobs)
            return 0
        found = run_plan(plan, out, jobs, baseline, lambda works: Progress(works, quiet=self.quiet))
        if self.json:
            print(json.dumps(found.document, indent=1))
        else:
            show(found.document, sys.stdout)
            say(Console(), foreign(f"results: {out / 'results.json'}\nreport:  {out / 'report.html'}"))
        return 0 if found.complete else 1


def _print_plan(plan: Plan, out: Path, jobs: int) -> None:
    from stapo.comparison.cells import work_of

    works = work_of(plan, out)
    kind = "starts" if plan.makes_starts else "evaluation of the given model"
    write_line(f"folder:      {out}")
    write_line(f"variants:    {', '.join(v.label for v in plan.variants)}")
    write_line(f"seeds:       {', '.join(map(str, plan.seeds))}")
    write_line(f"{kind + ':':<12} {len(plan.starts)}")
    write_line(f"runs:        {len(plan.cells)}, {jobs} at a time")
    write_line(f"episodes:    {plan.episodes():,} in training")
    done = sum(work.finished for work in works)
    if done:
        write_line(f"done:        {done} of {counted(len(works), 'start or run', 'starts and runs')}")
    write_line("commands:")
    for work in works:
        write_line(f"  {shlex.join(work.command)}" + ("  # done" if work.finished else ""))


COMMAND = Compare


def plan_from(
    source: str,
    algorithms: Sequence[str],
    vary: Iterable[str],
    seeds: Sequence[int],
    starts: int | None,
    settings: list[str],
    command: str,
) -> Plan:
    """Build the plan that a command line asks for.

    Args:
        source: preset or file.
        algorithms: names of the methods.
        vary: ``SETTING=VALUE,VALUE`` of further variants.
        seeds: of the runs; 0, 1 and 2 where there are none.
        starts: how many different starts; None chooses.
        settings: words of the command line that are settings.
        command: the whole command line.

    Raises:
        ConfigError, UnknownNameError: a setting, value or name that cannot be used.
    """
    from stapo.api.comparing import SEEDS

    varied = dict(_vary(vary))
    if not algorithms:
        raise ConfigError(
            "'stapo compare' needs algorithms, e.g. --algorithms grpo gigpo stapo; see 'stapo algorithms'. "
            "To resume a comparison give its folder alone: stapo compare --out DIR."
        )
    flags = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in settings}
    elsewhere = list(itertools.chain.from_iterable(varied))
    for path in elsewhere:
        if path in flags:
            raise ConfigError(f"{path} is given by --vary and by --{path}; give it once.")
    base, chosen = resolve(source, None, settings, "compare", elsewhere)
    if chosen:
        write_line(chosen, sys.stderr)
    variants = [
        _variant(
            name,
            {path: value for paths, value in zip(varied, values, strict=True) for path in paths},
            to_data(resolve(source, name, settings, "compare", elsewhere)[0]),
        )
        for name in algorithms
        for values in itertools.product(*varied.values())
    ]
    return plan_of(to_data(base), variants, seeds or SEEDS, starts, command)


def _variant(algorithm: str, changes: dict[str, Any], settings: dict[str, Any]) -> Variant:
    from stapo.api.settings import nested

    try:
        settings = to_data(from_data(RunConfig, merge(settings, nested(changes))))
    except ConfigError as err:
        if not changes:
            raise
        raise ConfigError(f"--vary {' '.join(f'{k}={v}' for k, v in changes.items())}: {err}") from err
    return Variant(label_of(algorithm, changes), algorithm, changes, settings)


def _vary(words: Iterable[str]) -> Iterator[tuple[tuple[str, ...], tuple[Any, ...]]]:
    from stapo.api.comparing import SHARED

    seen: set[str] = set()
    for word in words:
        left, equals, text = word.removeprefix("--").partition("=")
        paths = tuple(path.removeprefix("--").replace("-", "_") for path in left.split("+"))
        if not equals or not text:
            raise ConfigError(
                f"--vary is '{word}', expected SETTING=VALUE,VALUE,..., e.g. --vary algorithm.outlier.lam=1.0,1.5,3.0."
            )
        for path in paths:
            section = path.partition(".")[0]
            if section not in SHARED or "." not in path or path == "algorithm.name":
                raise ConfigError(
                    f"--vary cannot change '{path}': variants share start, environment and evaluation, so it takes "
                    f"settings of {', '.join(SHARED)} (algorithms themselves are named with --algorithms). Set "
                    f"'{path}' for all with --{path}, or make one comparison for each value."
                )
            if path in seen:
                raise ConfigError(f"--vary names '{path}' twice; give all its values once, separated by commas.")
            seen.add(path)
        values = tuple(_value(part, word) for part in re.split(r",(?![^\[]*\])", text))
        for value in values:
            if values.count(value) > 1:
                raise ConfigError(f"--vary {left} names the value {value} twice.")
        yield paths, values


def _value(text: str, word: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if value is None and text.strip() != "null":
        raise ConfigError(f"--vary is '{word}', in which '{text}' is not a value; separate values by single commas.")
    return value
