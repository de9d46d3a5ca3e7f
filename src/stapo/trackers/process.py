"""Starts the processes of trackers beside a run, and gives up those that do not end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stapo.documents import parse_json
from stapo.errors import unknown_name
from stapo.trackers import TRACKERS

FINISH_SECONDS = 10.0
"""How long trackers may take, all together, once a run has ended."""

_COMMAND = (
    "import sys; words, sys.path[:] = sys.argv[1:5], sys.argv[5:]; from stapo.trackers.sender import main; "
    "sys.exit(main(*words[:3], once=words[3] == 'once'))"
)


@dataclass
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    heard: bytes = b""
    failed: bool = False
    done: bool = False


class TrackerProcesses:
    """One process per tracker; nothing that happens in one reaches this process but words.

    Args:
        run: the run directory.
        names: of the trackers.
        once: send what is there and end, and do not follow the run.
    """

    def __init__(self, run: Path, names: Sequence[str], *, once: bool = False) -> None:
        self.run, self.names, self.once = run, tuple(dict.fromkeys(names)), once
        self.failed = False
        self._children: list[_Child] = []
        self._news: list[str] = []

    def start(self) -> None:
        """Start the processes; what cannot be started is told by `news`."""
        for name in self.names:
            target = _target(name)
            words = [name, target or "", str(self.run), "once" if self.once else "follow"]
            try:
                if target is None:
                    raise OSError("it is registered in this process alone; register a class of an importable module")
                process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _COMMAND, *words, *sys.path],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    bufsize=0,
                    start_new_session=True,
                )
            except OSError as err:
                self._fail(name, f"cannot be started: {err}")
                continue
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            self._children.append(_Child(name, process))

    def news(self) -> Iterator[str]:
        """What a person should read, each sentence once; never waits."""
        for child in self._children:
            self._listen(child)
        while self._news:
            yield self._news.pop(0)

    def finish(self, seconds: float | None = None) -> Iterator[str]:
        """Say that the run is over, wait for the processes so long and no longer, and end them; yields the news.

        Args:
            seconds: how long; None for `FINISH_SECONDS`, and where they send once for as long as they need.
        """
        deadline = None if self.once and seconds is None else time.monotonic() + (seconds or FINISH_SECONDS)
        try:
            for child in self._children:
                with suppress(OSError):
                    assert child.process.stdin is not None
                    child.process.stdin.write(b"x")
            while any(child.process.poll() is None for child in self._children):
                if deadline is not None and time.monotonic() > deadline:
                    break
                yield from self.news()
                time.sleep(0.05)
            yield from self.news()
        finally:
            self._end()
        yield from self.news()

    def _end(self) -> None:
        for child in self._children:
            process = child.process
            late = process.poll() is None
            if late:
                with suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=5)
            self._listen(child)
            if not child.done and not child.failed:
                self._fail(child.name, "did not end in time and was given up" if late else "ended early")
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self._children = []

    def _listen(self, child: _Child) -> None:
        assert child.process.stdout is not None
        with suppress(OSError, ValueError):
            while piece := child.process.stdout.read(1 << 16):
                child.heard += piece
        *lines, child.heard = child.heard.split(b"\n")
        for line in lines:
            try:
                what = dict(parse_json(line))
            except (ValueError, TypeError):  # not ours: a library may write anywhere
                continue
            if "opened" in what:
                self._news.append(f"tracker '{child.name}': run {what['opened']}")
            if "remark" in what:
                self._news.append(f"tracker '{child.name}': {what['remark']}")
            if "rows" in what:
                child.done = True
                if self.once:
                    self._news.append(f"tracker '{child.name}': {what['rows']} rows sent")
            if "failed" in what:
                child.failed = True
                self._fail(child.name, f"failed: {what['failed']}")

    def _fail(self, name: str, why: str) -> None:
        self.failed = True
        rest = "" if self.once else f". The run goes on; 'stapo track RUN --to {name}' sends the rest later"
        self._news.append(f"tracker '{name}' {why}{rest}")


def check_names(names: Sequence[str]) -> None:
    """Check that there are trackers of these names; whether they can be used is not asked.

    Raises:
        UnknownNameError: there is none; the closest name is proposed.
    """
    for name in names:
        if name not in TRACKERS.names():
            raise unknown_name("tracker", name, TRACKERS.names())


def _target(name: str) -> str | None:
    """Where another process finds a class that this one has registered; "" for names that it knows; None: nowhere."""
    found = TRACKERS.loaded(name)
    if found is None or name in TRACKERS.own_names():
        return ""
    module, path = getattr(found, "__module__", "__main__"), getattr(found, "__qualname__", "<")
    return None if module == "__main__" or "<" in path else f"{module}:{path}"
