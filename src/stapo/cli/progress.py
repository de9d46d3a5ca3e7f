"""What a person sees while a run goes on: progress bars on a terminal, lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class ConsoleWatcher:
    """Shows stages as bars, iterations and evaluations as lines.

    Args:
        quiet: no bars, lines only.
        iterations: length of the run.
    """

    def __init__(self, *, quiet: bool = False, iterations: int = 0) -> None:
        self.console = Console(stderr=True)
        self.iterations = iterations
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ConsoleWatcher:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def notice(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stage(self, name: str, done: int, total: int) -> None:
        """Move the bar of a stage; it disappears when it is full."""
        kind = name.split(" (")[0]
        if kind not in self._tasks:
            self._tasks[kind] = self._progress.add_task(name, total=total)
        self._progress.update(self._tasks[kind], description=name, completed=done, total=total)
        if done >= total:
            self._progress.remove_task(self._tasks.pop(kind))

    def iteration(self, row: dict[str, Any]) -> None:
        """Print the line of an iteration."""
        outlier = row["outlier"]
        self.notice(
            f"iteration {row['iteration']:>4}/{self.iterations}  success {row['success']:.2f}  "
            f"length {row['episode_length']:4.1f}  valid {row['valid_actions']:.2f}  "
            f"entropy {row['entropy']['mean'] or 0:.2f}  outliers {100 * outlier['flagged_share']:.1f}%  "
            f"{row['seconds']['total']:.1f} s"
        )

    def evaluation(self, row: dict[str, Any]) -> None:
        """Print the line of an evaluation."""
        self.notice(
            f"evaluation after {row['iteration']} iterations, {row['mode']}: success {row['success']:.3f} "
            f"({row['protocol']})"
        )
