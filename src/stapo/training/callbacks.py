"""Somebody who looks on while a run goes on."""

from __future__ import annotations

from typing import Any, Protocol

from stapo.training.interrupt import Interrupts


class Callback(Protocol):
    """Somebody who looks on: the command line shows progress bars through it."""

    def stage(self, name: str, done: int, total: int) -> None:
        """Called as a long stage proceeds."""
        ...

    def iteration(self, row: dict[str, Any]) -> None:
        """Called with every metrics row."""
        ...

    def evaluation(self, row: dict[str, Any]) -> None:
        """Called with every evaluation row."""
        ...

    def notice(self, text: str) -> None:
        """Called with a sentence that a person should read."""
        ...


class SilentCallback:
    """A watcher that shows nothing."""

    def stage(self, name: str, done: int, total: int) -> None:
        """Ignore progress."""

    def iteration(self, row: dict[str, Any]) -> None:
        """Ignore a metrics row."""

    def evaluation(self, row: dict[str, Any]) -> None:
        """Ignore an evaluation row."""

    def notice(self, text: str) -> None:
        """Ignore a sentence."""


class InterruptCallback:
    """Passes everything on, and lets a stop that was asked for take effect when its time is over.

    Args:
        watcher: who really looks on.
        interrupts: looked at whenever a stage proceeds.
    """

    def __init__(self, watcher: Callback, interrupts: Interrupts) -> None:
        self.watcher = watcher
        self.interrupts = interrupts

    def stage(self, name: str, done: int, total: int) -> None:
        """Pass progress on.

        Raises:
            RunInterrupted: the time of a stop that was asked for is over.
        """
        self.interrupts.check()
        self.watcher.stage(name, done, total)

    def iteration(self, row: dict[str, Any]) -> None:
        """Pass a metrics row on."""
        self.watcher.iteration(row)

    def evaluation(self, row: dict[str, Any]) -> None:
        """Pass an evaluation row on."""
        self.watcher.evaluation(row)

    def notice(self, text: str) -> None:
        """Pass a sentence on."""
        self.watcher.notice(text)
