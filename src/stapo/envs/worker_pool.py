"""Environments in child processes: for those that block, crash, leak or are slow.

Slot i lives in worker i modulo the number of workers. All workers are asked before any is waited for. When a worker
hangs or dies, the call whose answer was due is to blame, a fresh worker takes its place, and the other episodes of the
old one are lost without a fault of their own.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from stapo import errors
from stapo.checks import check_integer
from stapo.envs.guard import EnvFailure, EpisodeLost, Started, short
from stapo.envs.pool import EnvPool, LocalPool, state_error
from stapo.envs.protocol import StepResult
from stapo.envs.registry import ENVIRONMENTS, build, check_options
from stapo.envs.slot import OF_AN_EPISODE, Question, describe
from stapo.envs.wire import options_for, target_of, unpack
from stapo.envs.worker_process import Asked, WorkerProcess
from stapo.errors import ConfigError, EnvError

_START_SECONDS = 60.0
_CLOSE_SECONDS = 5.0
_LOOK_SECONDS = 1.0


def build_pool(name: str, options: dict[str, Any], workers: int, deadline: float) -> EnvPool:
    """The pool of an environment: in this process with 0 workers, otherwise a `WorkerPool`, which explains the rest.

    Raises:
        UnknownNameError: no environment has this name.
        ConfigError: an environment or options that cannot be handed to a worker.
    """
    if workers == 0:
        return LocalPool(partial(build, name, options), name)
    return WorkerPool(name, options, workers, deadline)


class WorkerPool:
    """Environments in child processes; see `stapo.envs.pool.EnvPool` for what a pool does.

    Workers are started by the first request. What environments write to standard output and error is kept out of the
    way, and shown when their worker dies.

    Args:
        name: a registered environment.
        options: its keyword arguments, in JSON's types.
        workers: number of processes.
        deadline: seconds within which a call has to be answered. Those before it in the same worker do not count.
        start_deadline: seconds within which a worker has to have imported its environment.

    Raises:
        UnknownNameError: no environment has this name.
        ConfigError: an environment or options that cannot be handed to another process.
    """

    def __init__(
        self,
        name: str,
        options: dict[str, Any],
        workers: int,
        deadline: float,
        start_deadline: float = _START_SECONDS,
    ) -> None:
        if os.name != "posix":
            raise ConfigError("environments run in worker processes on Linux and macOS only; set rollout.workers to 0.")
        check_integer(f"the number of workers for environment '{name}'", workers, 1)
        self.name = name
        check_options(name, options)
        setup = {"target": target_of(name, ENVIRONMENTS.get(name)), "options": options_for(name, options)}
        self._workers = [WorkerProcess(setup, deadline, max(deadline, start_deadline)) for _ in range(workers)]
        self._slots = 0
        self._live: set[int] = set()
        self._stale: set[int] = set()

    def grow(self, count: int) -> None:
        """Offer at least `count` slots; see `EnvPool.grow`."""
        self._slots = max(self._slots, count)

    def reset(self, requests: Sequence[tuple[int, str]]) -> list[Started | EnvFailure | EpisodeLost]:
        """Start episodes; see `EnvPool.reset`."""
        asked = [
            Asked(index, slot, "reset", task_id, f"reset({short(task_id)})", slot in self._stale)
            for index, (slot, task_id) in enumerate(requests)
        ]
        self._stale -= {slot for slot, _ in requests}
        return self._exchange(asked)

    def step(self, requests: Sequence[tuple[int, str]]) -> list[StepResult | EnvFailure | EpisodeLost]:
        """Take one action per slot; see `EnvPool.step`."""
        results: list[Any] = [EpisodeLost("its worker had to be replaced, or the slot was not reset")] * len(requests)
        asked = [
            Asked(index, slot, "step", action, f"step({short(action)})")
            for index, (slot, action) in enumerate(requests)
            if slot in self._live
        ]
        for request, out in zip(asked, self._exchange(asked), strict=True):
            results[request.index] = out
        return results

    def ask(self, slot: int, question: Question, argument: Any = None) -> Any | EnvFailure | EpisodeLost:
        """Ask an environment something; see `EnvPool.ask`."""
        if question in OF_AN_EPISODE and slot not in self._live:
            return EpisodeLost("its worker had to be replaced, or the slot was not reset")
        call = describe(question, argument)
        asked = Asked(0, slot, "ask", [question, argument], call, slot in self._stale)
        self._stale.discard(slot)
        (out,) = self._exchange([asked])
        return out if isinstance(out, EnvFailure | EpisodeLost) else out[0]

    def discard(self, slot: int) -> None:
        """Throw the environment of a slot away; see `EnvPool.discard`."""
        # Closing may hang, so it is left to a call that has a deadline: the next reset.
        self._stale.add(slot)
        self._live.discard(slot)

    def state(self) -> list[Any]:
        """What the environments carry; see `EnvPool.state`."""
        asked = [
            Asked(slot, slot, "state", None, "state_dict()")
            for slot in range(self._slots)
            if slot not in self._stale and self._worker(slot).process is not None
        ]
        states: list[Any] = [None] * self._slots
        for request, state in zip(asked, self._exchange(asked), strict=True):
            states[request.slot] = self._traveled(request.slot, state)
        return states

    def restore(self, states: Sequence[Any]) -> None:
        """Give the environments back what they carried; see `EnvPool.restore`."""
        self.grow(len(states))
        asked = [
            Asked(slot, slot, "restore", state, "load_state_dict()", slot in self._stale)
            for slot, state in enumerate(states)
            if state is not None
        ]
        self._stale -= {request.slot for request in asked}
        for request, out in zip(asked, self._exchange(asked), strict=True):
            self._traveled(request.slot, out)

    def close(self) -> None:
        """Let the workers close their environments and exit, and end those that do not within five seconds.

        Raises:
            DeadlineError: the kernel did not end a worker.
        """
        running = [worker for worker in self._workers if worker.process is not None]
        try:
            for worker in running:
                worker.hang_up()
            self._pump(running, time.monotonic() + _CLOSE_SECONDS)
        finally:
            self._kill(running)
            self._slots = 0
            self._live.clear()
            self._stale.clear()

    def _worker(self, slot: int) -> WorkerProcess:
        return self._workers[slot % len(self._workers)]

    def _exchange(self, requests: Sequence[Asked]) -> list[Any]:
        """Ask, and wait for every answer, each within its deadline; results in the order of the requests."""
        results: dict[int, Any] = {}
        try:
            for request in requests:
                self._worker(request.slot).ask(request)
            for worker in self._workers:
                worker.send()
            while waiting := [worker for worker in self._workers if worker.pending]:
                self._turn(waiting, results)
        finally:
            # Interrupted: whoever still owes an answer would give it to the next question.
            self._kill([worker for worker in self._workers if worker.pending])
        return [results[request.index] for request in requests]

    def _turn(self, waiting: list[WorkerProcess], results: dict[int, Any]) -> None:
        """Wait until something happens, and take it in."""
        # Now and then it is looked whether one died: a process that it left behind can keep its pipes open.
        until_due = min(worker.due for worker in waiting) - time.monotonic()
        events = _ready(waiting, min(max(0.0, until_due), _LOOK_SECONDS))
        # Answers that came while others were taken in are not late.
        now = time.monotonic()
        heard = set()
        for worker, what in events:
            if what == "receive":
                heard.add(id(worker))
                self._take(worker, results)
            elif what == "listen":
                worker.listen()
            else:
                worker.send()
        for worker in waiting:
            if worker.pending and id(worker) not in heard:
                if now >= worker.due:
                    self._blame(worker, results, _too_late(worker))
                elif worker.gone:
                    self._take(worker, results)
                    worker.ended = True
            if worker.pending and worker.ended:
                self._blame(worker, results, f"got no answer: its worker {worker.exit_words()}")

    def _take(self, worker: WorkerProcess, results: dict[int, Any]) -> None:
        """Take in the answers that a worker has sent."""
        try:
            for number, packed in worker.receive():
                if packed[0] == "settings":
                    raise _settings_error(*packed[1:])
                if packed[0] == "ready":
                    worker.ready, worker.pid = True, int(packed[1])
                elif number != worker.pending[0].index:
                    raise ValueError(f"answer {number} to request {worker.pending[0].index}")
                else:
                    out = packed[1:] if packed[0] == "answer" else unpack(packed)
                    asked = worker.pending.popleft()
                    results[asked.index] = out
                    if isinstance(out, Started):
                        # Not after the batch: by then the worker may have gone.
                        self._live.add(asked.slot)
        except errors.StapoError:
            raise
        except (ValueError, TypeError, IndexError, RecursionError) as err:
            self._blame(worker, results, f"got something else than an answer from its worker ({short(str(err))})")

    def _blame(self, worker: WorkerProcess, results: dict[int, Any], what: str) -> None:
        """The call whose answer was due failed; its worker goes, and every other episode in it."""
        first, *others = worker.pending
        words = worker.last_words()
        if words:
            what += f"; the last on its standard error: {short(words.splitlines()[-1])}"
        where = f"environment '{self.name}', slot {first.slot}"
        results[first.index] = EnvFailure("environment", f"{where}: {first.call} {what}", words)
        for other in others:
            results[other.index] = EpisodeLost(f"{where} took its worker along")
        self._kill([worker])

    def _kill(self, workers: list[WorkerProcess]) -> None:
        problems: list[Exception] = []
        for worker in workers:
            gone = {slot for slot in self._live | self._stale if self._worker(slot) is worker}
            self._live -= gone
            self._stale -= gone
            try:
                worker.kill()
            except errors.DeadlineError as err:
                problems.append(err)
        if problems:
            raise problems[0]

    @staticmethod
    def _pump(workers: list[WorkerProcess], until: float) -> None:
        """Read what workers still write until all of them are gone."""
        while left := [worker for worker in workers if not worker.gone]:
            remaining = until - time.monotonic()
            if remaining <= 0:
                return
            for worker, what in _ready(left, min(remaining, 0.05)):
                if what == "receive":
                    worker.drain()
                else:
                    worker.listen()

    @staticmethod
    def _traveled(slot: int, out: Any) -> Any:
        if isinstance(out, EnvFailure):
            raise state_error(slot, out)
        if isinstance(out, EpisodeLost):
            raise EnvError(
                f"the state of the environment in slot {slot} is gone: {out.reason}. Resume from the last save."
            )
        return out[0]


def _ready(workers: list[WorkerProcess], seconds: float) -> list[tuple[WorkerProcess, str]]:
    """Workers with a pipe that is ready, or is so within some seconds, and what to do with it."""
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            worker.register(selector)
        return [key.data for key, _ in selector.select(seconds)]


def _too_late(worker: WorkerProcess) -> str:
    if worker.ready:
        return f"gave no answer within {worker.deadline:g} s (rollout.env_deadline)"
    return f"waited in vain for its worker to start and to import the environment within {worker.start_deadline:g} s"


def _settings_error(kind: str, text: str) -> errors.StapoError:
    error: Callable[[str], errors.StapoError] = getattr(errors, kind, ConfigError)
    return error(text)
