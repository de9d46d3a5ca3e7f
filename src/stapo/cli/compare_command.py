"""`stapo compare [PRESET or FILE] --algorithms A B --seeds 0 1 2 ...`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from stapo.cli.arguments import parse_run_config
from stapo.cli.words import foreign, say, write_line
from stapo.config.presets import load_config, name_of, preset_names
from stapo.documents import parse_json
from stapo.errors import ConfigError, RunDirectoryError, unknown_name

if TYPE_CHECKING:
    from stapo.comparison.jobs import Ended
    from stapo.comparison.plan import Plan

_RUNS = Path("runs")
_HELP = """usage: stapo compare [PRESET or FILE.yaml] --algorithms A B ... [--seeds 0 1 2] [--overrides ...]

Train every algorithm with every seed, and say what the differences are worth. All algorithms of a seed begin with the
same policy, see the same tasks in the same order, and play the same evaluation tasks; differences are taken episode by
episode. Each run is a run directory of its own. Killed or stopped at any moment, the same command goes on: finished
runs are kept, unfinished ones resume from their newest save, and the table is the same.

arguments:
  PRESET or FILE       a shipped preset ({presets}; default: tiny) or your own YAML file
  --algorithms A B     any of 'stapo algorithms'
  --seeds 0 1 2        of the runs (default: 0 1 2)
  --starts W      different starts; seed s begins with start s modulo W (default: one per seed, at most 3). A model
                       of your own (--model.path) without SFT is the start of all.
  --vary SETTING=V,V   more variants: each algorithm with each value, e.g. --vary algorithm.outlier.lam=1.0,1.5,3.0;
                       several settings give every combination, and those joined by + take each value
                       together
  --episodes N         evaluation episodes at start and end, the same as --eval.episodes
  --jobs N             runs at a time, one thread each (default: the cores that are idle)
  --out DIR            folder of the comparison; default runs/compare-PRESET-DATE
  --baseline LABEL     variant that the others are compared with (default: the first)
  --dry-run            print starts, runs, episodes and commands, and stop
  --quiet              no progress bars
  --json               print the results as one JSON document

examples:
  stapo compare --algorithms grpo gigpo stapo --seeds 0 1 2 --out runs/compare
  stapo compare --out runs/compare                                 go on with what is there
  stapo compare --algorithms stapo --vary algorithm.outlier.lam=1.0,1.5,3.0 --dry-run
  stapo compare tiny --algorithms grpo stapo --seeds 0 1 2 3 4 --optim.iterations 20 --jobs 2

Called with more algorithms or seeds, a comparison is extended; other settings are refused, with the difference.
In DIR: report.html, results.json (every number), compare.json (the plan), logs/, settings/, and run directories in
warm/ and runs/.

Settings (as in 'stapo train'; values shown are those of the preset):
"""


def run(argv: list[str]) -> int:
    """Run the command; returns the exit code: 1 where a run failed."""
    if any(a in ("-h", "--help") for a in argv):
        print(_HELP.format(presets=", ".join(preset_names())))
        parse_run_config(load_config("tiny"), ["--help"], "stapo compare")
    from stapo.cli.compare_request import plan_from, read_request
    from stapo.comparison.plan import FILE_NAME, extended, read_plan, require_place

    request = read_request(argv)
    command = shlex.join(["stapo", "compare", *argv])
    there = request.out is not None and (request.out / FILE_NAME).is_file()
    if request.goes_on_only and there and request.out is not None:
        plan = read_plan(request.out)
        out, first = request.out, plan.variants[0].label
    else:
        plan = plan_from(request, command)
        out, first = request.out or _folder(name_of(request.source or "tiny"), plan), plan.variants[0].label
        require_place(out)
        if (out / FILE_NAME).is_file():
            plan = extended(read_plan(out), plan, out)
    labels = [v.label for v in plan.variants]
    if request.baseline is not None and request.baseline not in labels:
        raise unknown_name("variant", request.baseline, labels)
    _check_tasks(plan)
    jobs = request.jobs or idle_cores()
    if request.dry:
        _print_plan(plan, out, jobs)
        return 0
    return _compare(plan, out, jobs, request.baseline or first, quiet=request.quiet, as_json=request.as_json)


def idle_cores() -> int:
    """Cores that this process may use and that nothing else has kept busy in the last minute; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, cores - round(busy))


def _folder(name: str, plan: Plan) -> Path:
    """The default folder: that of an unfinished comparison with the same plan, else a new one."""
    from stapo.comparison.plan import read_plan
    from stapo.comparison.results import FILE_NAME as RESULTS
    from stapo.errors import StapoError
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
    from stapo.comparison.plan import require_place, write_plan
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
