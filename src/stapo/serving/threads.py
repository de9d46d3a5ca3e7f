"""Calls that a server makes in threads: a few at a time, a bounded number waiting, each with an end.

A thread cannot be stopped from outside. Work that comes in portions looks in between whether anybody still waits; a
call that does not come back at all loses its thread, which another one takes the place of.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from stapo.serving.gate import Refusal

T = TypeVar("T")

GiveUp = Callable[[], bool]
"""Says whether to give up."""

_HANGING_PER_THREAD = 4


class ThreadCalls:
    """Threads that work; used from one event loop.

    Args:
        threads: calls at a time.
        waiting: calls that may wait for a thread.
        seconds: for one call, and for its waiting before.
        noun: what a call is, for messages: one and several.
    """

    def __init__(self, threads: int, waiting: int, seconds: float, noun: tuple[str, str] = ("call", "calls")) -> None:
        self._threads = threads
        self._waiting = waiting
        self._seconds = seconds
        self._one, self._several = noun
        self._running = 0
        self._hanging = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._idle: list[_Worker] = []

    async def run(self, work: Callable[[GiveUp], T], gone: threading.Event) -> T:
        """Do the work in a thread.

        Args:
            work: the call.
            gone: set once nobody waits for the answer.

        Raises:
            Refusal: too many calls at once, or this one took too long.
            Exception: whatever the work raises.
        """
        await self._turn()
        try:
            if gone.is_set():
                raise Refusal(400, "the client has left")
            return await self._run(work, gone)
        finally:
            self._release()

    def _release(self) -> None:
        self._running -= 1
        while self._queue and self._running < self._threads:
            waiter = self._queue.popleft()
            if not waiter.done():
                self._running += 1
                waiter.set_result(None)

    async def _turn(self) -> None:
        if self._hanging >= _HANGING_PER_THREAD * self._threads:
            raise Refusal(503, f"{self._hanging} {self._several} have not come back; try again later")
        if self._running < self._threads and not self._queue:
            self._running += 1
            return
        if len(self._queue) >= self._waiting:
            raise Refusal(503, "too many requests at once; try again")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(waiter)
        try:
            async with asyncio.timeout(self._seconds):
                await waiter
        except BaseException as err:
            if waiter.done() and not waiter.cancelled():
                # It was its turn in the same moment; the next one takes it.
                self._release()
            with suppress(ValueError):
                self._queue.remove(waiter)
            if isinstance(err, TimeoutError):
                said = f"no thread for the {self._one} was free within {self._seconds:g} s; try again"
                raise Refusal(503, said) from None
            raise

    async def _run(self, work: Callable[[GiveUp], T], gone: threading.Event) -> T:
        try:
            worker = self._idle.pop() if self._idle else _Worker()
        except RuntimeError:
            raise Refusal(503, "no thread can be started; try again later") from None
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        end = time.monotonic() + self._seconds
        worker.begin(lambda: work(lambda: gone.is_set() or time.monotonic() > end), answer, loop)
        # Work that looks in between gives up by itself, a moment later than this.
        done, _ = await asyncio.wait([answer], timeout=self._seconds + 0.25)
        if done:
            self._idle.append(worker)
            return answer.result()
        self._hanging += 1
        answer.add_done_callback(self._back)
        worker.finish()
        raise Refusal(504, f"the {self._one} took more than {self._seconds:g} s and was given up")

    def _back(self, answer: asyncio.Future[Any]) -> None:
        self._hanging -= 1
        if not answer.cancelled():
            # Nobody asks for it any more.
            answer.exception()


class _Worker:
    """A thread that does one piece of work after the other; it never keeps the process from ending."""

    def __init__(self) -> None:
        self._inbox: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any], asyncio.AbstractEventLoop] | None] = (
            SimpleQueue()
        )
        threading.Thread(target=self._work, name="stapo-call", daemon=True).start()

    def begin(self, work: Callable[[], T], answer: asyncio.Future[T], loop: asyncio.AbstractEventLoop) -> None:
        self._inbox.put((work, answer, loop))

    def finish(self) -> None:
        """End once the present work is done."""
        self._inbox.put(None)

    def _work(self) -> None:
        while (item := self._inbox.get()) is not None:
            work, answer, loop = item
            result, raised = None, None
            try:
                result = work()
            except BaseException as err:
                raised = err
            # The loop may be over by now.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_set_result, answer, result, raised)
            del work, answer, loop, item, result, raised


def _set_result(answer: asyncio.Future[Any], result: Any, raised: BaseException | None) -> None:
    if answer.done():
        return
    if raised is None:
        answer.set_result(result)
    elif isinstance(raised, Exception) and not isinstance(raised, StopIteration):
        answer.set_exception(raised)
    else:
        answer.set_exception(RuntimeError(f"the call ended with {type(raised).__name__}"))
