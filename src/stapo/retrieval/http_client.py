"""A retriever on the other end of HTTP, with an end to every wait.

A request may wait for a connection, for the next bytes, and in all; whichever ends first ends it. What is worth
another try (a connection that failed, a status of 500 and above) is tried again after a pause that grows and is never
the same for two clients. Everything else is an error at once, and every failure has a kind that is counted.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, get_args

import httpx2

from stapo.errors import ConfigError, RetrieverError
from stapo.retrieval.protocol import Closing, Passage, check_k
from stapo.retrieval.wire import Shape, read_answer, requests_of

TOKEN_VARIABLE = "STAPO_RETRIEVER_TOKEN"

_LARGEST_ANSWER = 64 << 20
_GRACE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """How to ask, and how long to wait.

    Attributes:
        shape: "batch" sends all queries in one request, as Search-R1 does; "single" sends one per query, as verl-agent
            does.
        connect_s: seconds to wait for a connection.
        read_s: seconds to wait for the next bytes of an answer.
        total_s: seconds for one search with all its tries and pauses.
        attempts: how often a request is sent at most.
        backoff_s: the first pause; each further one is twice as long, and all are shortened at random by up to a half.
        backoff_max_s: the longest pause.
        connections: how many requests may be under way at once.
        token: sent as a bearer token; by default `$STAPO_RETRIEVER_TOKEN`.
    """

    shape: Shape = "batch"
    connect_s: float = 5.0
    read_s: float = 30.0
    total_s: float = 60.0
    attempts: int = 4
    backoff_s: float = 0.25
    backoff_max_s: float = 8.0
    connections: int = 64
    token: str | None = None

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ConfigError(f"shape is {self.shape!r}, expected one of {', '.join(get_args(Shape))}.")
        for name in ("connect_s", "read_s", "total_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected a number of seconds above 0.")
        for name in ("backoff_s", "backoff_max_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected a number of seconds from 0.")
        for name in ("attempts", "connections"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1.")


class _Loop:
    """An event loop in a thread of its own, with one client; cancelling there ends a request wherever it is."""

    def __init__(self, options: HttpOptions) -> None:
        token = options.token or os.environ.get(TOKEN_VARIABLE)
        self.process = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="stapo-retriever", daemon=True)
        self._thread.start()
        self.client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(options.read_s, connect=options.connect_s, pool=None),
            limits=httpx2.Limits(max_connections=options.connections, max_keepalive_connections=options.connections),
            headers={"Authorization": f"Bearer {token}"} if token else {},
            follow_redirects=False,
            # Proxies are for the world outside; a retriever is named by its address.
            trust_env=False,
        )

    def submit(self, coroutine: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def stop(self) -> None:
        if self.process != os.getpid():
            return
        try:
            self.submit(self.client.aclose()).result(_GRACE_S)
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(_GRACE_S)
            if not self._thread.is_alive():
                self.loop.close()


@dataclass(slots=True)
class _Progress:
    """How far a request has come when its time is over."""

    answering: bool = False
    last: RetrieverError | None = None


class HttpRetriever(Closing):
    """Asks a retrieval server. May be used from several threads, and after a fork.

    Attributes:
        url: where requests go.
        options: how to ask, and how long to wait.
        counts: failures by kind, retried ones included, and "answered" requests.
    """

    def __init__(self, url: str, options: HttpOptions | None = None, **settings: Any) -> None:
        """Remember where to ask; nothing is sent yet.

        Args:
            url: "http://host:port", to which "/retrieve" is added, or a whole address.
            options: how to ask, and how long to wait.
            **settings: the fields of `HttpOptions`, instead of `options`.

        Raises:
            ConfigError: no such address, or options out of range.
        """
        try:
            address = httpx2.URL(url)
        except httpx2.InvalidURL as err:
            raise ConfigError(f"retriever '{url}' is no address ({err}); expected e.g. http://127.0.0.1:8000.") from err
        if address.scheme not in ("http", "https") or not address.host or not 0 < (address.port or 80) < 65536:
            raise ConfigError(f"retriever '{url}' is no address; expected e.g. http://127.0.0.1:8000.")
        self.url = str(address.copy_with(path="/retrieve") if address.path in ("", "/") else address)
        self.options = options or HttpOptions(**settings)
        self.counts: Counter[str] = Counter()
        self._random = random.Random()
        self._guard = threading.Lock()
        self._running: _Loop | None = None
        self._closed = False

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """For each query at most k passages, the best first.

        Raises:
            ConfigError: k below 1.
            RetrieverError: no answer in time, or none that can be used; its `kind` says which.
        """
        check_k(k)
        if not queries:
            return []
        bodies = requests_of(queries, k, self.options.shape)
        answering = self._loop().submit(self._all(bodies))
        try:
            # The loop ends every search by itself; the limit is for a loop that has died.
            answers: list[bytes] = answering.result(timeout=self.options.total_s + _GRACE_S)
        except TimeoutError as err:
            answering.cancel()
            self._count("timeout")
            raise RetrieverError(
                f"retriever {self.url}: the thread that asks it did not answer; open it anew.", "timeout"
            ) from err
        except BaseException:
            answering.cancel()
            raise
        found: list[list[Passage]] = []
        for body, data in zip(bodies, answers, strict=True):
            try:
                found += read_answer(data, len(body.get("queries", [0])), k, self.url)
            except RetrieverError as err:
                self._count(err.kind)
                raise
            self._count("answered")
        return found

    def close(self) -> None:
        """Close all connections; more than once is fine. Searches that are under way fail."""
        with self._guard:
            self._closed = True
            running, self._running = self._running, None
        if running is not None:
            running.stop()

    def _loop(self) -> _Loop:
        with self._guard:
            if self._closed:
                raise RetrieverError(f"retriever {self.url} is closed; open it anew.", "closed")
            # Threads do not survive a fork.
            if self._running is None or self._running.process != os.getpid():
                self._running = _Loop(self.options)
            return self._running

    def _count(self, kind: str) -> None:
        with self._guard:
            self.counts[kind] += 1

    async def _all(self, bodies: list[dict[str, Any]]) -> list[bytes]:
        tasks = [asyncio.ensure_future(self._one(body)) for body in bodies]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _one(self, body: dict[str, Any]) -> bytes:
        """One request with its tries; its deadline covers them all."""
        progress, options = _Progress(), self.options
        try:
            async with asyncio.timeout(options.total_s):
                for attempt in range(1, options.attempts + 1):
                    try:
                        return await self._send(body, progress)
                    except RetrieverError as err:
                        again = err.kind == "refused" or err.kind.startswith("http_5")
                        self._count(err.kind)
                        progress.last, progress.answering = err, False
                        if not again or attempt == options.attempts:
                            raise RetrieverError(f"{err} (try {attempt} of {options.attempts})", err.kind) from err
                    pause = min(options.backoff_max_s, options.backoff_s * 2 ** (attempt - 1))
                    await asyncio.sleep(pause * self._random.uniform(0.5, 1.0))
        except TimeoutError:
            pass
        if progress.last is not None and not progress.answering:
            raise RetrieverError(f"{progress.last} (no more time after {options.total_s:g} s)", progress.last.kind)
        kind = "slow" if progress.answering else "timeout"
        self._count(kind)
        what = "was still answering" if progress.answering else "had not answered"
        raise RetrieverError(f"retriever {self.url} {what} after {options.total_s:g} s, the time for one search.", kind)

    async def _send(self, body: dict[str, Any], progress: _Progress) -> bytes:
        client = self._loop().client
        try:
            async with client.stream("POST", self.url, json=body) as response:
                progress.answering = True
                if response.status_code != httpx2.codes.OK:
                    raise RetrieverError(
                        f"retriever {self.url} answered with status {response.status_code}, expected 200.",
                        f"http_{response.status_code}",
                    )
                data = bytearray()
                async for block in response.aiter_bytes():
                    data += block
                    if len(data) > _LARGEST_ANSWER:
                        raise RetrieverError(
                            f"retriever {self.url} answered with more than {_LARGEST_ANSWER >> 20} MiB.", "malformed"
                        )
                return bytes(data)
        except httpx2.TimeoutException as err:
            what = "no connection" if isinstance(err, httpx2.ConnectTimeout) else "nothing came"
            waited = self.options.connect_s if isinstance(err, httpx2.ConnectTimeout) else self.options.read_s
            raise RetrieverError(f"retriever {self.url}: {what} for {waited:g} s.", "timeout") from err
        except httpx2.TransportError as err:
            raise RetrieverError(
                f"retriever {self.url} cannot be reached ({str(err) or type(err).__name__}). Is it running?", "refused"
            ) from err
        except httpx2.DecodingError as err:
            raise RetrieverError(
                f"retriever {self.url} answered with bytes that are not as encoded as they say.", "malformed"
            ) from err
