"""A child process that plays environments for a pool: the parent's side of its pipes and of its life."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from stapo.envs.supervisor import descendants
from stapo.envs.wire import dump, load
from stapo.errors import DeadlineError

# -P and -c: nothing in the working folder may stand in for a module of this package or of Python.
_COMMAND = "import sys; sys.path[:] = sys.argv[3:]; from stapo.envs.supervisor import main; main()"
_STDERR_KEPT = 4_096
_READ = 1 << 16
_REAP_SECONDS = 10.0
_CLEAN_SECONDS = 6.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request on its way.

    Attributes:
        index: its place in the batch.
        slot: which environment it asks.
        operation: "reset", "step", "ask", "state" or "restore".
        argument: task id, action, question with its argument, or state.
        call: the request as a message names it.
        fresh: throw the environment that is there away first.
    """

    index: int
    slot: int
    operation: str
    argument: Any
    call: str
    fresh: bool = False


class WorkerProcess:
    """One worker; it is started by the first request.

    Attributes:
        pending: requests that are not answered yet, in the order in which they will be.
        due: when the next sign of life is due, on the clock of `time.monotonic`.
        stderr: the last that it wrote to standard error.
        process: its supervisor, which ends as the worker ends, and takes along what the worker has started.
        pid: of the worker itself, once it is ready; 0 before.

    Args:
        setup: what the child needs to know: "target" and "options".
        deadline: seconds for an answer.
        start_deadline: seconds from the start of the process until its environment is imported.
    """

    def __init__(self, setup: dict[str, Any], deadline: float, start_deadline: float) -> None:
        self.setup = setup
        self.deadline = deadline
        self.start_deadline = start_deadline
        self.pending: deque[Asked] = deque()
        self.due = 0.0
        self.stderr = b""
        self.process: subprocess.Popen[bytes] | None = None
        self.pid = 0
        self.ready = False
        self.ended = False
        self._lifeline = -1
        self._owner = os.getpid()
        self._to_send = bytearray()
        self._received = bytearray()

    def __del__(self) -> None:
        # A pool that nobody closed: Python keeps the pipes of a running child, which would then wait for ever. Not in
        # a forked copy of this process, which owns no workers.
        if self.process is not None and self._owner == os.getpid():
            with contextlib.suppress(Exception):
                self.kill()

    def ask(self, asked: Asked) -> None:
        """Queue a request, starting the process if there is none."""
        if self.process is None:
            self._start()
        if not self.pending:
            self.due = time.monotonic() + (self.deadline if self.ready else self.start_deadline)
        self.pending.append(asked)
        self._to_send += dump([asked.index, asked.slot, asked.operation, asked.argument, asked.fresh])

    def register(self, selector: selectors.BaseSelector) -> None:
        """Watch the pipes; the data of each key is (this worker, what to call when the pipe is ready)."""
        process = self.process
        if process is None or process.stdin is None or process.stdout is None or process.stderr is None:
            return
        if not self.ended:
            selector.register(process.stdout, selectors.EVENT_READ, (self, "receive"))
        if not process.stderr.closed:
            selector.register(process.stderr, selectors.EVENT_READ, (self, "listen"))
        if self._to_send and not process.stdin.closed:
            selector.register(process.stdin, selectors.EVENT_WRITE, (self, "send"))

    def send(self) -> bool:
        """Write what the pipe takes; returns whether everything is written."""
        stdin = self.process.stdin if self.process else None
        if stdin is None:
            return True
        try:
            while self._to_send:
                del self._to_send[: os.write(stdin.fileno(), self._to_send[:_READ])]
        except BlockingIOError:
            return False
        except BrokenPipeError:
            # It is gone; the end of its answers says so.
            self._to_send.clear()
        return True

    def receive(self) -> list[tuple[int, list[Any]]]:
        """Read what is there; returns the answers as (number, packed answer).

        Raises:
            ValueError: what came is not an answer.
        """
        stdout = self.process.stdout if self.process else None
        if stdout is None:
            return []
        came = False
        while chunk := _read(stdout.fileno()):
            self._received += chunk
            came = came or b"\n" in chunk
        self.ended = chunk == b""
        if not came:
            return []
        *lines, self._received = self._received.split(b"\n")
        self.due = time.monotonic() + self.deadline
        return [_answer(bytes(line)) for line in lines]

    def drain(self) -> None:
        """Throw away what it still answers."""
        stdout = self.process.stdout if self.process else None
        if stdout is not None:
            self.ended = _read(stdout.fileno()) == b""

    def listen(self) -> bool:
        """Keep the last that was written to standard error; returns whether more may come."""
        stderr = self.process.stderr if self.process else None
        if stderr is None or stderr.closed:
            return False
        chunk = _read(stderr.fileno())
        if chunk == b"":
            stderr.close()
            return False
        self.stderr = (self.stderr + (chunk or b""))[-_STDERR_KEPT:]
        return chunk is not None

    def last_words(self) -> str:
        """The last that it wrote to standard error, as text."""
        while self.listen():
            pass
        return self.stderr.decode("utf-8", "replace").strip()

    @property
    def gone(self) -> bool:
        """The process has ended, or was never started."""
        return self.process is None or self.process.poll() is not None

    def exit_words(self) -> str:
        """How it ended, in words; "" while it runs."""
        code = None if self.process is None else self.process.poll()
        if code is None and self.ended and self.process is not None:
            # Its pipes close a moment before it can be collected.
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self.process.wait(timeout=1.0)
        if code is None:
            return "closed its connection" if self.ended else ""
        if code >= 0:
            return f"exited with code {code}"
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"

    def hang_up(self) -> None:
        """Tell it that there are no more requests: it closes its environments and exits."""
        self._to_send.clear()
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()

    def kill(self) -> None:
        """End the process and the processes that it started, and forget what was asked; harmless where there is none.

        Raises:
            DeadlineError: the kernel did not end it.
        """
        process, self.process = self.process, None
        self.pending.clear()
        self._to_send.clear()
        self._received.clear()
        if process is None:
            return
        try:
            if process.poll() is None:
                with contextlib.suppress(OSError):
                    # The supervisor cleans up; so does one that somebody has stopped.
                    os.kill(process.pid, signal.SIGCONT)
                    os.write(self._lifeline, b"x")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=_CLEAN_SECONDS)
            for pid in [process.pid, *descendants(process.pid)] if process.poll() is None else []:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            process.wait(timeout=_REAP_SECONDS)
        except subprocess.TimeoutExpired as err:
            raise DeadlineError(
                f"worker process {process.pid} did not end within {_REAP_SECONDS:g} s of SIGKILL; expected it to end "
                "at once. It waits for a device: look at the disk or network file system that the environment uses."
            ) from err
        finally:
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
            os.close(self._lifeline)

    def _start(self) -> None:
        self.stderr, self.pid, self.ready, self.ended = b"", 0, False, False
        reading, self._lifeline = os.pipe()
        # Until the child has handlers of its own, a Ctrl-C at the terminal must not end it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        command = [sys.executable, "-u", "-P", "-X", "faulthandler", "-c", _COMMAND, str(reading), str(os.getpid())]
        try:
            self.process = subprocess.Popen(
                [*command, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                pass_fds=(reading,),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(reading)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
        self._to_send = bytearray(dump(self.setup))


def _answer(line: bytes) -> tuple[int, list[Any]]:
    number, packed = load(line)
    return number, packed


def _read(descriptor: int) -> bytes | None:
    """What is there to read: b"" at the end, None for nothing yet."""
    try:
        return os.read(descriptor, _READ)
    except BlockingIOError:
        return None
