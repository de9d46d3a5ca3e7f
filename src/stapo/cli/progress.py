"""What a person sees while a run goes on: progress bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from stapo.texts import counted, duration, escape_control_chars
from stapo.training.callbacks import Callback, EvaluationEvent, StageEvent, UpdateEvent

LINE_EVERY = 30.0
"""Seconds between lines of a stage where there is no terminal."""


@dataclass
class Pace:
    """How fast a stage goes, from where it was first seen: a resumed stage began elsewhere."""

    started: float
    first: int
    said: float

    def left(self, now: float, done: int, total: int) -> float | None:
        """Seconds that are left at this pace; None while nothing is known."""
        if done <= self.first or now <= self.started:
            return None
        return (total - done) * (now - self.started) / (done - self.first)


class Lines:
    """Says in lines how far stages are: the first after half a minute, then one every half a minute."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._paces: dict[str, Pace] = {}

    def stage(self, name: str, done: int, total: int) -> None:
        """Note how far a stage is; what stands in brackets in its name may change. A total of 0 is not known."""
        kind, now = name.split(" (")[0], self._clock()
        pace = self._paces.setdefault(kind, Pace(now, done, now))
        if 0 < total <= done:
            del self._paces[kind]
        elif now - pace.said >= LINE_EVERY:
            pace.said = now
            if not total:
                self._say(f"{name}: {done:,} so far")
                return
            left = pace.left(now, done, total)
            self._say(f"{name}: {done:,} of {total:,}" + ("" if left is None else f", about {duration(left)} left"))


class _Console(Console):
    """A console on which a reader that has left ends nothing."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class ProgressDisplay(Callback):
    """Shows stages as bars, iterations and evaluations as lines.

    Output that cannot be written does not end a run: it goes on in silence.
    """

    def __init__(
        self, *, quiet: bool = False, iterations: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = _Console(stderr=True)
        self.iterations = iterations
        self._clock = clock
        self._pace: Pace | None = None
        self._lines = Lines(self.on_notice, clock)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ProgressDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def on_notice(self, text: str) -> None:
        """Print a line."""
        text = escape_control_chars(text)
        with suppress(OSError):
            self.console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def on_stage(self, event: StageEvent) -> None:
        """Move the bar of a stage, which disappears when it is full; without bars, a line now and then."""
        name, done, total = event.name, event.done, event.total
        if self._progress.disable:
            self._lines.stage(name, done, total)
            return
        kind = name.split(" (")[0]
        if kind not in self._tasks:
            self._tasks[kind] = self._progress.add_task(name, total=total)
        self._progress.update(self._tasks[kind], description=name, completed=done, total=total)
        if done >= total:
            self._progress.remove_task(self._tasks.pop(kind))

    def on_update(self, event: UpdateEvent) -> None:
        """Print the line of an iteration."""
        row, number, now = event.metrics, event.iteration, self._clock()
        # The first line tells how long it took itself; evaluations in between are part of the pace after it.
        self._pace = self._pace or Pace(now - row["seconds"]["total"], number - 1, now)
        left = self._pace.left(now, number, self.iterations)
        self.on_notice(
            f"iteration {number:>4}/{self.iterations}  success {row['success']:.2f}  "
            f"length {row['episode_length']:4.1f}  valid {row['valid_actions']:.2f}  "
            f"entropy {row['entropy']['mean'] or 0:.2f}  outliers {100 * row['outlier']['flagged_share']:.1f}%  "
            f"{row['seconds']['total']:.1f} s" + (f", about {duration(left)} left" if left else "")
        )

    def on_evaluation(self, event: EvaluationEvent) -> None:
        """Print the line of an evaluation."""
        row = event.metrics
        self.on_notice(
            f"evaluation after {counted(row['iteration'], 'iteration')}, {row['mode']}: success {row['success']:.3f} "
            f"({row['protocol']})"
        )
