"""The process between a pool and one of its workers: when either ends, it ends all that the worker has started.

Environments start programs, and some of those leave their parent (a double fork, a session of their own) so that
nothing ends them. On Linux this process is the one that such programs fall to, so that it can find them. It runs no
code of an environment, and so it is there to clean up however the worker and the trainer end, SIGKILL included.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LOOK_SECONDS = 1.0
_CLEAN_SECONDS = 5.0


def main() -> None:
    """Start the worker, wait for it or for the pool, and leave nothing behind; the worker's end becomes our own.

    The command line holds the descriptor of a pipe that the pool keeps open as long as it wants the worker, and the
    pool's process id.
    """
    pool, parent = int(sys.argv[1]), int(sys.argv[2])
    # Stopping is the pool's business. Handlers, not SIG_IGN: programs that an environment starts would inherit that.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _ignore)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # Its writing end is ours alone: the worker reads its end when we are gone.
    lifeline, ours = os.pipe()
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    before = os.getpid()
    worker = os.fork()
    if worker == 0:
        for end in (pool, ours, woken, wake):
            os.close(end)
        # What an environment sends to its own group must not reach us.
        os.setsid()
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != before:
            os._exit(1)
        # Not before the fork: this process needs nothing of it.
        from stapo.envs.worker import work

        work(lifeline)
        return
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _ignore)
    for end in (0, 1, 2, lifeline):
        os.close(end)
    status = None
    while status is None and os.getppid() == parent:
        status = _collect(worker)
        if status is None:
            ready, _, _ = select.select([pool, woken], [], [], _LOOK_SECONDS)
            if pool in ready:
                break
            if woken in ready:
                os.read(woken, 1 << 10)
    status = _end_all(worker, status)
    _end_as(status)


def _collect(worker: int) -> int | None:
    """Collect children that have ended; returns the worker's status once it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == worker:
                found = status
    return found


def _end_all(worker: int, status: int | None) -> int | None:
    """End every process below this one; also what falls to it meanwhile."""
    until = time.monotonic() + _CLEAN_SECONDS
    while time.monotonic() < until:
        found = _collect(worker)
        status = found if status is None else status
        left = descendants(os.getpid())
        if not left and status is not None:
            break
        for pid in left or [worker]:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    return status


def _end_as(status: int | None) -> None:
    """End in the way that the worker did."""
    if status is None or not os.WIFSIGNALED(status):
        os._exit(1 if status is None else os.waitstatus_to_exitcode(status))
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    number = os.WTERMSIG(status)
    with contextlib.suppress(OSError, ValueError):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and those started by them; none where the kernel does not tell."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            parent = int(path.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _ignore(number: int, frame: Any) -> None:
    """Ignore a signal."""
