"""Processes that a test has started, and all that these have started: a mark in their environment tells."""

from __future__ import annotations

import os
import time
from pathlib import Path

NAME = "STAPO_TEST_MARK"


def marked(mark: str) -> dict[str, str]:
    """The environment of a process to be found again."""
    return {**os.environ, NAME: mark}


def processes_of(mark: str, patience: float = 0.0) -> list[str]:
    """Command lines of the processes under a mark that still run after `patience` seconds; sooner, if none does."""
    end = time.monotonic() + patience
    while (found := _running(mark)) and time.monotonic() < end:
        time.sleep(0.2)
    return found


def _running(mark: str) -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if f"{NAME}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return [words for words in found if words]
