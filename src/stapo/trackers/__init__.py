"""Trackers: the numbers in the row files of a run, sent to TensorBoard, W&B, trackio, MLflow or another.

The files of the run stay the truth. Each tracker runs in a process of its own (`sender.py`) that reads them, so a
tracker that hangs, raises, prints or changes the state of its process cannot change or slow the run, and sending a
finished run is the same as sending one that runs. Other packages register theirs in the entry-point group
`stapo.trackers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stapo.registry import Registry
from stapo.trackers.names import Histogram


@dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker is opened for.

    Attributes:
        path: the run directory.
        folder: where the tracker may keep files of its own; made by whoever needs it.
        name: name of the run directory, in characters that every tracker takes.
        config: the resolved configuration as plain data, without secrets.
        first_step: steps from here on come again; 0 for a new run. A tracker that `rewinds` drops what it has of them.
    """

    path: Path
    folder: Path
    name: str
    config: Mapping[str, Any]
    first_step: int = 0


class Tracker(Protocol):
    """A tracker; its class is registered and made without arguments, which imports the library.

    Attributes:
        rewinds: `open` drops the steps from `TrackedRun.first_step` on. Where it is False, no step is sent again that
            was sent once.
    """

    rewinds: bool

    def open(self, run: TrackedRun, resume: str | None) -> str:
        """Begin a run, or resume the one with the id `resume`; returns the id, 1 to 128 of A-Z, a-z, 0-9, ., _ and -.

        Another id than `resume` says that the tracker does not know that run: all of it is sent to the new one.
        """
        ...

    def log(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]) -> None:
        """Take the numbers of one iteration; steps never go back. Evaluations may come in a second call.

        The numbers of SFT come before those of all iterations. Their names begin with `sft/`, and their steps are SFT's
        optimizer steps.
        """
        ...

    def close(self, status: str) -> None:
        """Send what is left; `status` is that of the run: done, stopped, failed, or running."""
        ...


def _wrong(obj: object, name: str) -> str | None:
    missing = [name for name in ("rewinds", "open", "log", "close") if not hasattr(obj, name)]
    return f"not a tracker: it lacks {', '.join(missing)}" if missing or not callable(obj) else None


TRACKERS: Registry[type[Tracker]] = Registry("tracker", "stapo.trackers", _wrong)

__all__ = ["TRACKERS", "Histogram", "TrackedRun", "Tracker"]
