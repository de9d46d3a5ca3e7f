"""Stopping a run: by SIGTERM, SIGINT, or a callback that asks for it.

The first signal asks for a stop. Training ends at its next safe point (after the iteration or the evaluation in
progress), with its state saved; if that takes longer than `grace` seconds, what is in progress is given up, and the
last save is where the run goes on. SFT drops the step in progress, which is done again, and saves. A second
signal stops at once. The handlers that were there come back at the end.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class RunInterrupted(KeyboardInterrupt):
    """The run was asked to stop, and did. Not an `Exception`: nothing that isolates failures may swallow it.

    Attributes:
        signum: the signal that asked; None where a callback did.
    """

    def __init__(self, signum: int | None, what: str) -> None:
        super().__init__(what)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """What shells and schedulers expect: 128 plus the number of the signal."""
        return 0 if self.signum is None else 128 + self.signum


class Interrupts:
    """A context that turns the first SIGTERM or SIGINT into a request, which training looks at.

    Args:
        grace: seconds that an iteration in progress may still take.
        announce: told in words what happens now.

    Outside the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self, grace: float, announce: Any = None) -> None:
        self.grace = grace
        self.announce = announce
        self.signum: int | None = None
        self._asked = ""
        self._deadline = 0.0
        self._at_once = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (*SIGNALS, signal.SIGALRM):
                self._before[number] = signal.getsignal(number)
            for number in SIGNALS:
                signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise RunInterrupted(signum, "stopped at once by a second signal")
        self.signum, self._deadline = signum, time.monotonic() + self.grace
        if self._at_once:
            raise RunInterrupted(signum, self._at_once)
        # For what never comes to a checkpoint of its own accord: one long operation, an environment that hangs.
        signal.signal(signal.SIGALRM, lambda *_: self.check())
        signal.setitimer(signal.ITIMER_REAL, max(1e-3, self.grace))
        if self.announce is not None:
            self.announce(
                f"{signal.Signals(signum).name}: stopping after what is in progress, in {self.grace:g} s at the "
                "latest. A second signal stops at once."
            )

    @contextmanager
    def at_once(self, what: str) -> Iterator[None]:
        """A context that a stop ends at once, wherever it is: what is done there costs little, or nothing, to do again.

        Raises:
            RunInterrupted: a stop was asked for, before or meanwhile.
        """
        before, self._at_once = self._at_once, what
        try:
            self.leave(what)
            yield
        finally:
            self._at_once = before

    def request(self, reason: str) -> None:
        """Ask for a stop from within the run; there is no hurry.

        Raises:
            RunInterrupted: what is in progress may be dropped.
        """
        self._asked = self._asked or reason
        if self._at_once:
            self.leave(self._at_once)

    @property
    def requested(self) -> bool:
        """A stop was asked for."""
        return self.signum is not None or bool(self._asked)

    def check(self) -> None:
        """Give up what is in progress if its time is over.

        Raises:
            RunInterrupted: a stop was asked for more than `grace` seconds ago.
        """
        if self.signum is not None and time.monotonic() >= self._deadline - 1e-3:
            raise RunInterrupted(self.signum, f"what was in progress did not end within {self.grace:g} s")

    def leave(self, what: str = "stopped at a safe point, with everything saved") -> None:
        """At a safe point, with everything saved: stop if that was asked for.

        Raises:
            RunInterrupted: it was.
        """
        if self.requested:
            raise RunInterrupted(self.signum, what if self.signum is not None else f"{self._asked}; {what}")
