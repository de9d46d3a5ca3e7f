"""`stapo compare [PRESET or FILE] --algorithms A B --seeds 0 1 2 ...`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tyro.conf import Positional

from stapo.algo import get_algorithm
from stapo.cli.command import Command, arg, require_different, value_of
from stapo.cli.compare_request import plan_from
from stapo.cli.words import foreign, say, write_line
from stapo.comparison.jobs import Ended
from stapo.comparison.plan import FILE_NAME, Plan, extended, read_plan, require_place
from stapo.config.presets import name_of
from stapo.documents import parse_json
from stapo.errors import ConfigError, RunDirectoryError, StapoError, unknown_name

_RUNS = Path("runs")


@dataclass(frozen=True, kw_only=True)
class Compare(Command):
    """Train several algorithms with several seeds from the same starts, and compare them.

    All algorithms of a seed begin with the same policy, see the same tasks in the same order, and play the same
    evaluation tasks; differences are taken episode by episode. Each run is a run folder of its own. Killed or stopped
    at any moment, the same command resumes: finished runs are kept, unfinished ones resume from their newest save, and
    the table is the same. Called with more algorithms or seeds, a comparison is extended; other settings are refused,
    with the difference. In DIR are report.html, results.json (every number), compare.json (the plan), logs/, settings/,
    and run folders in warm/ and runs/.

    Attributes:
        source: shipped preset ('stapo presets' lists them) or your own YAML file. The default is tiny.
        algorithms: methods to compare, any of 'stapo algorithms'.
        seeds: seeds of the runs; 0 or more (default: 0 1 2).
        starts: different starts; 1 or more. Seed s begins with start s modulo W. The default is one per seed, at
            most 3. A model of your own (--model.path) without SFT is the start of all.
        vary: values of a setting to try, such as algorithm.outlier.lam=1.0,1.5,3.0. Several settings
            give every combination, and those joined by + take each value together.
        episodes: evaluation episodes at start and end, the same as --eval.episodes.
        jobs: runs at a time, one thread each; 1 or more (default: the idle cores).
        out: folder of the comparison (default: runs/compare-PRESET-DATE).
        baseline: variant that the others are compared with (default: the first).
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
        for flag, instead in (("--algorithm.name", "--algorithms"), ("--seed", "--seeds")):
            if value_of(settings, flag) is not None:
                raise ConfigError(f"'stapo compare' has no option {flag}. Did you mean '{instead}'?")
        if self.episodes is not None:
            settings = [*settings, "--eval.episodes", str(self.episodes)]
        asks = self.source or self.algorithms or self.seeds or self.starts or self.vary or settings
        if not asks and self.out is not None and (self.out / FILE_NAME).is_file():
            plan, out = read_plan(self.out), self.out
            first = plan.variants[0].label
        else:
            source, command = self.source or "tiny", shlex.join(["stapo", "compare", *argv])
            plan = plan_from(source, self.algorithms, self.vary, self.seeds, self.starts, settings, command)
            out, first = self.out or _folder(name_of(source), plan), plan.variants[0].label
            require_place(out)
            if (out / FILE_NAME).is_file():
                plan = extended(read_plan(out), plan, out)
        labels = [v.label for v in plan.variants]
        if self.baseline is not None and self.baseline not in labels:
            raise unknown_name("variant", self.baseline, labels)
        _check_tasks(plan)
        jobs = self.jobs or idle_cores()
        if self.dry_run:
            _print_plan(plan, out, jobs)
            return 0
        return _compare(plan, out, jobs, self.baseline or first, quiet=self.quiet, as_json=self.json)


def idle_cores() -> int:
    """Cores that this process may use and that nothing else has kept busy in the last minute; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, cores - round(busy))


def _folder(name: str, plan: Plan) -> Path:
    """The default folder: that of an unfinished comparison with the same plan, else a new one."""
    from stapo.comparison.results import FILE_NAME as RESULTS
    from stapo.run.lock import is_locked

    prefix = f"compare-{name}-"
    for path in sorted(_RUNS.glob(f"{prefix}*"), reverse=True):
        try:
            old = read_plan(path)
        except StapoError:
            continue
        if (old.base, old.variants, old.cells) == (plan.base, plan.variants, plan.cells) and not is_locked(path):
            try:
                complete = parse_json((path / RESULTS).read_bytes())["complete"]
            except (OSError, ValueError, KeyError, TypeError):
                complete = False
            if not complete:
                return path
    return _RUNS / f"{prefix}{datetime.now():%Y%m%d-%H%M%S}"


def _check_tasks(plan: Plan) -> None:
    """Look up environment and splits: a typo costs a second, not SFT."""
    from stapo.envs import make

    env = make(plan.base["env"]["name"], **plan.base["env"]["options"])
    try:
        for key, split in (("env.split", plan.base["env"]["split"]), ("eval.split", plan.base["eval"]["split"])):
            if not len(env.tasks_of(split)):
                raise ConfigError(f"split '{split}' of environment '{env.name}' holds no task; choose another: {key}.")
    finally:
        env.close()


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
        write_line(f"done:        {done} of {len(works)} starts and runs")
    write_line("commands:")
    for work in works:
        write_line(f"  {shlex.join(work.command)}" + ("  # done" if work.finished else ""))


def _compare(plan: Plan, out: Path, jobs: int, baseline: str, *, quiet: bool, as_json: bool) -> int:
    from stapo.cli.compare_view import Progress, show
    from stapo.comparison.cells import run_all, work_of, write_settings
    from stapo.comparison.jobs import Jobs
    from stapo.comparison.page import write_page
    from stapo.comparison.plan import write_plan
    from stapo.comparison.results import write_results
    from stapo.run.lock import RunLock

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise RunDirectoryError(f"'{out}' cannot be written: {err.strerror or err}.") from err
    with RunLock(out):
        require_place(out)
        write_plan(out, plan)
        works = work_of(plan, out)
        write_settings(works, out)
        ended: dict[str, Ended] = {}
        with Progress(works, out, quiet=quiet) as progress:
            pool = Jobs(jobs, on_change=progress.changed, on_tick=progress.tick)
            try:
                ended = run_all(works, pool)
            except KeyboardInterrupt:
                write_page(plan, out, write_results(plan, out, pool.ended, baseline))
                raise
        found = write_results(plan, out, ended, baseline)
        write_page(plan, out, found)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        show(found, sys.stdout)
        _print_places(out)
    return 0 if found["complete"] else 1


def _print_places(out: Path) -> None:
    from rich.console import Console

    say(Console(), foreign(f"results: {out / 'results.json'}\nreport:  {out / 'report.html'}"))


COMMAND = Compare
