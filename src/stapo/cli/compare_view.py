"""What a person sees of a comparison: bars while it goes on, a table at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, TextIO

from rich import progress as bars
from rich.console import Console
from rich.table import Table

from stapo.cli.progress import Lines
from stapo.cli.words import foreign, say
from stapo.comparison.cells import Work
from stapo.comparison.jobs import Ended, Job
from stapo.comparison.results import judged
from stapo.texts import counted

_WIDTH = 14  # characters of a label that fit beside the numbers in a line of 80
_LOOK = 1.0  # seconds between looks at what the runs have written


class Progress:
    """A bar for all starts and runs, and one for each that is going on; lines where there is no terminal."""

    def __init__(self, works: Sequence[Work], *, quiet: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = Console(stderr=True)
        self._works = {work.job.name: work for work in works}
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
            transient=True,
        )
        self._clock = clock
        self._lines = Lines(self._say, clock)
        self._ended = {work.job.name for work in works if work.finished}
        self._all = self._bars.add_task("starts and runs", total=len(works), completed=len(self._ended))
        self._tasks: dict[str, bars.TaskID] = {}
        self._looked = clock()

    def __enter__(self) -> Progress:
        self._bars.start()
        if self._ended:
            works = counted(len(self._works), "start or run", "starts and runs")
            self._say(f"done already: {len(self._ended)} of {works}")
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def changed(self, job: Job, state: Ended | Literal["started"]) -> None:
        """Note that a job was started or has ended."""
        work = self._works[job.name]
        if isinstance(state, str):
            self._tasks[job.name] = self._bars.add_task(job.name, total=work.iterations or None)
            self._say(f"{job.name}: started")
            return
        self._ended.add(job.name)
        self._bars.update(self._all, completed=len(self._ended))
        if job.name in self._tasks:
            self._bars.remove_task(self._tasks.pop(job.name))
        self._say(f"{job.name}: {state.status}" + (f": {state.error}" if state.error else ""))
        if state.status == "failed":
            self._say(f"  what it printed: {job.log}")

    def tick(self, running: list[str]) -> None:
        """Read how far the running jobs are, now and then."""
        if self._clock() - self._looked < _LOOK:
            return
        self._looked = self._clock()
        done = {name: self._works[name].iterations_done for name in running}
        for name, iterations in done.items():
            if name in self._tasks and self._works[name].iterations:
                self._bars.update(self._tasks[name], completed=iterations)
        if self._bars.disable:
            self._say_how_far(done)

    def _say_how_far(self, running: dict[str, int]) -> None:
        starts = [name for name, work in self._works.items() if not work.iterations]
        if not any(self._works[name].iterations for name in [*running, *self._ended]):
            # Their time says nothing about that of iterations.
            self._lines.stage("starts", len(self._ended.intersection(starts)), len(starts))
            return
        ended = sum(self._works[name].iterations for name in self._ended)
        planned = sum(work.iterations for work in self._works.values())
        self._lines.stage("iterations of all runs", ended + sum(running.values()), planned)

    def _say(self, text: str) -> None:
        say(self._console, foreign(text))


def show(found: dict[str, Any], file: TextIO) -> None:
    """Print the table of a comparison."""
    console = Console(file=file)
    success = Table(title="success on held-out tasks, after RL")
    scores = ("score",) if judged(found) else ()
    # Where a line is too short for all, labels are folded, numbers stay whole.
    success.add_column("variant", overflow="fold")
    success.add_column("play")
    for heading in ("start", "end", "± sd", *scores):
        success.add_column(heading, justify="right", no_wrap=True)
    success.add_column(foreign(f"minus {_in_lines(found['baseline'])}"), justify="right", overflow="fold")
    success.add_column("95 % interval", justify="right", no_wrap=True)
    cost = Table("variant", title="means per run")
    for heading in ("flagged", "steps", "tokens", "minutes", "runs done"):
        cost.add_column(heading, justify="right")
    for variant in found["variants"]:
        label, totals, failed = foreign(_in_lines(variant["label"])), variant["totals"], variant["failed"]
        for n, mode in enumerate(found["protocols"]):
            gap, end = variant["difference"].get(mode), variant["final"].get(mode) or {}
            success.add_row(
                "" if n else label,
                foreign(mode),
                _form((variant["start"].get(mode) or {}).get("mean"), "{:.3f}"),
                _form(end.get("mean"), "{:.3f}"),
                _form(end.get("sd"), "{:.3f}"),
                *(_form((end.get("task_score") or {}).get("mean"), "{:.3f}") for _ in scores),
                "–" if gap is None else f"{gap['mean']:+.3f}",
                "–" if gap is None else f"{gap['low']:+.3f} … {gap['high']:+.3f}",
                end_section=n == len(found["protocols"]) - 1,
            )
        cost.add_row(
            label,
            _form(totals["flagged_share"], "{:.1%}"),
            _form(totals["environment_steps"], "{:,.0f}"),
            _form(totals["generated_tokens"], "{:,.0f}"),
            _form(None if totals["seconds"] is None else totals["seconds"] / 60, "{:.1f}"),
            f"{variant['done']} of {len(variant['runs'])}" + (f", {failed} failed" if failed else ""),
        )
    if found["protocols"]:
        console.print(success)
    console.print(cost)
    for mode, protocol in found["protocols"].items():
        say(console, foreign(f"{mode}: {protocol}, and so for every seed"), "dim")
    say(console, foreign(found["interval"]), "dim")
    say(console, "± is the standard deviation over seeds", "dim")
    for remark in found["remarks"]:
        say(console, foreign(remark), "yellow")
    for name, start in found["starts"].items():
        if start["status"] in ("failed", "blocked"):
            say(console, foreign(f"start {name} {start['status']}: {start['error']}"), "red")
    for variant in found["variants"]:
        for part in variant["runs"]:
            if part["status"] != "done":
                reason = f": {part['error']}" if part["error"] else ""
                say(console, foreign(f"{variant['label']}, seed {part['seed']}: {part['status']}{reason}"), "red")


def _in_lines(label: str) -> str:
    """A label with each of its settings in a line of its own, long ones in two."""
    parts = label.split(",")
    return ",\n".join(part if len(part) <= _WIDTH else part.replace("=", "=\n") for part in parts)


def _form(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
