"""HTTP requests with an end to every wait.

A request may wait for a connection, for the next bytes, and in all; whichever ends first ends it. What is worth
another try (a connection that failed, a status of 500 and above, a server that asks for patience) is tried again after
a pause that grows and is never the same for two clients. Everything else is an error at once, and every failure has a
kind that is counted. An answer is never held whole before its size is known: it is read, and unpacked, up to a limit.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import threading
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2

from stapo.checks import check_integer, check_number
from stapo.errors import ConfigError
from stapo.server_errors import pause_asked, reason_in
from stapo.texts import (
    hide_known_secrets,
    hide_secrets,
    remember_secret,
    replace_surrogates,
    secret_in_address,
)

T = TypeVar("T")

_EXAMPLE = "http://127.0.0.1:8000"
_GRACE_S = 5.0
_SAID_BYTES = 64 << 10
_PATIENCE = ("http_408", "http_425", "http_429")
_BLANKS = " \t\r\n\v\f\x85\xa0\ufeff\u200b\u2028\u2029"
_LONGEST_KEY = 8192
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PACKED = {"gzip": 31, "x-gzip": 31, "deflate": 47}


class CallFailed(Exception):
    """A request that came to nothing. Whoever asked turns it into an error of their own.

    Attributes:
        kind: what went wrong, in one word: "refused", "timeout", "slow", "malformed", "closed", or "http_500" and the
            like.
        passes: another try may help; None leaves that to the kind.
    """

    def __init__(self, message: str, kind: str, passes: bool | None = None) -> None:
        super().__init__(hide_secrets(message))
        self.kind = kind
        self.passes = passes

    def may_pass(self) -> bool:
        """Whether the same request may be answered at the next try."""
        if self.passes is not None:
            return self.passes
        return self.kind == "refused" or self.kind.startswith("http_5") or self.kind in _PATIENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """How long to wait, and how often to try.

    Attributes:
        connect_s: seconds to wait for a connection.
        read_s: seconds to wait for the next bytes of an answer.
        total_s: seconds for one request with all its tries and pauses, once it is its turn.
        attempts: how often a request is sent at most.
        backoff_s: the first pause; each further one is twice as long, and all are shortened at random by up to a half.
        backoff_max_s: the longest pause.
        connections: how many requests may be under way at once.
    """

    connect_s: float = 5.0
    read_s: float = 30.0
    total_s: float = 60.0
    attempts: int = 4
    backoff_s: float = 0.25
    backoff_max_s: float = 8.0
    connections: int = 64

    def __post_init__(self) -> None:
        for name in ("connect_s", "read_s", "total_s"):
            check_number(name, getattr(self, name), 0, open_low=True)
        for name in ("backoff_s", "backoff_max_s"):
            check_number(name, getattr(self, name), 0)
        for name in ("attempts", "connections"):
            check_integer(name, getattr(self, name), 1)


def read_address(url: str, what: str) -> httpx2.URL:
    """The address that `url` is.

    Raises:
        ConfigError: it is not an address, or holds a secret; `what` names whose it is. No secret is in the message.
    """
    secret = secret_in_address(url)
    if secret:
        raise ConfigError(
            f"the address of the {what} holds {secret}, and addresses are written down; expected one without. Give "
            "the key as an environment variable instead."
        )
    shown = url if len(url) <= 200 and not re.search("[?#@]", url) else url[:200].split("?")[0].split("#")[0]
    shown = shown.rpartition("@")[2]
    try:
        address = httpx2.URL(url)
    except httpx2.InvalidURL as err:
        raise ConfigError(f"the {what} '{shown}' is not an address ({err}); expected e.g. {_EXAMPLE}.") from err
    if address.scheme not in ("http", "https") or not address.host or not 0 < (address.port or 80) < 65536:
        raise ConfigError(f"the {what} '{shown}' is not an address; expected e.g. {_EXAMPLE}.")
    if address.userinfo or address.fragment:
        part = "user name or password" if address.userinfo else "fragment ('#…')"
        raise ConfigError(f"the address of the {what} has a {part}; expected one without.")
    return address


def key_from(variable: str) -> str | None:
    """The key that an environment variable holds, None where it is missing or empty.

    Raises:
        ConfigError: this is not a name of a variable, or what it holds is not a key. Neither is shown.
    """
    if not _VARIABLE.fullmatch(variable):
        remember_secret(variable)
        raise ConfigError(
            "the name of the environment variable that holds the key is not a name: expected letters, digits and '_', "
            "such as STAPO_API_KEY. Give the name of the variable, not the key itself."
        )
    return checked_key(os.environ.get(variable), f"the environment variable {variable}")


def key_for(address: httpx2.URL, variable: str, host_variable: str) -> str | None:
    """The key of `key_from`, None where `host_variable` holds another host than that of `address`.

    Args:
        address: that the key is sent to.
        variable: environment variable that holds the key.
        host_variable: environment variable with the host that the key is for, "name" or "name:port"; unset or empty for
            any.

    Raises:
        ConfigError: as `key_from`.
    """
    meant, name = os.environ.get(host_variable, "").strip().lower(), address.host.lower()
    port = address.port or (443 if address.scheme == "https" else 80)
    return key_from(variable) if meant in ("", name, f"{name}:{port}", f"[{name}]:{port}") else None


def checked_key(key: str | None, where: str) -> str | None:
    """A key without the blanks around it, None where nothing is left.

    Raises:
        ConfigError: something else than visible ASCII characters, which no header could carry; or quotes, which come
            from a file that was read with them; or more than any key. It is not shown.
    """
    remember_secret(key)
    key = (key or "").strip(_BLANKS)
    remember_secret(key)
    if not key:
        return None
    if len(key) > _LONGEST_KEY:
        raise ConfigError(f"{where} holds {len(key):,} characters, expected a key of at most {_LONGEST_KEY:,}.")
    for what, pattern in (
        ("a line end", r"[\r\n\v\f\x85\u2028\u2029]"),
        ("a blank or a tab", r"[ \t\xa0]"),
        ("a control character", r"[\x00-\x1f\x7f-\x9f]"),
        ("a quote", "[\"'`]"),
        ("a character that is not ASCII", r"[^\x00-\x7f]"),
    ):
        if re.search(pattern, key):
            raise ConfigError(f"{where} holds {what} inside the key, expected the key alone; set it anew.")
    return key


class _Loop:
    """An event loop in a thread of its own, with one client; cancelling there ends a request wherever it is."""

    def __init__(self, options: CallOptions, token: str | None) -> None:
        self.process = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="stapo-calls", daemon=True)
        self._thread.start()
        self.turns = asyncio.Semaphore(options.connections)
        self.client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(options.read_s, connect=options.connect_s, pool=None),
            limits=httpx2.Limits(max_connections=options.connections, max_keepalive_connections=options.connections),
            headers={"Accept-Encoding": "gzip, deflate", **({"Authorization": f"Bearer {token}"} if token else {})},
            follow_redirects=False,
            # Proxies are for the world outside; a server is named by its address.
            trust_env=False,
        )

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
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
    last: CallFailed | None = None
    patience_s: float = 0.0


class Caller:
    """Sends JSON to one server. May be used from several threads, and after a fork.

    Args:
        who: what messages call the server, its address included.
        options: how long to wait, how often to try.
        token: sent as a bearer token. No message holds it, whatever a server answers.
        reasons: quote what a server says of a request that it refuses.
        purpose: what one request is for, in messages.
        largest: bytes of an answer at most, once it is unpacked.
        cut: hand out the first `largest` bytes of a longer answer, instead of failing.
        judge: looks at an answer of status 200 and returns why it cannot be used, if so; that is a failure like others.

    Attributes:
        counts: failures by kind, retried ones included.
    """

    def __init__(
        self,
        who: str,
        options: CallOptions,
        *,
        token: str | None = None,
        reasons: bool = False,
        purpose: str = "one request",
        largest: int = 64 << 20,
        cut: bool = False,
        judge: Callable[[bytes], CallFailed | None] | None = None,
    ) -> None:
        self.who = who
        self.options = options
        self.counts: Counter[str] = Counter()
        self._token = checked_key(token, f"the key for {who}")
        self._cut = cut
        self._judge = judge
        self._reasons = reasons
        self._purpose = purpose
        self._largest = largest
        self._random = random.Random()
        self._guard = threading.Lock()
        self._running: _Loop | None = None
        self._closed = False

    def all(self, url: str, bodies: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """Post every body; one that fails ends them all.

        All are waited for together, `total_s` at most; it is meant for a handful.

        Raises:
            CallFailed: of the first request that failed.
        """
        return self._wait(self._gather(url, bodies), self.options.total_s + _GRACE_S)

    def each(self, url: str, bodies: Sequence[Mapping[str, Any]]) -> list[bytes | CallFailed]:
        """Post every body, `connections` at once; a request that fails has its error in the place of its answer.

        Raises:
            CallFailed: the thread that asks has died, or the caller is closed.
        """
        rounds = -(-len(bodies) // self.options.connections)
        return self._wait(self._separately(url, bodies), rounds * self.options.total_s + _GRACE_S)

    def get(self, url: str) -> bytes:
        """Get an address: one try, which is not counted.

        Raises:
            CallFailed: no answer in time, or none that can be used.
        """
        return self._wait(self._once(url), self.options.total_s + _GRACE_S)

    def count(self, kind: str) -> None:
        """Count an event of this kind."""
        with self._guard:
            self.counts[kind] += 1

    def close(self) -> None:
        """Close all connections; more than once is fine. Requests that are under way fail."""
        with self._guard:
            self._closed = True
            running, self._running = self._running, None
        if running is not None:
            running.stop()

    def _loop(self) -> _Loop:
        with self._guard:
            if self._closed:
                raise CallFailed(f"{self.who} is closed; open it anew.", "closed")
            # Threads do not survive a fork.
            if self._running is None or self._running.process != os.getpid():
                self._running = _Loop(self.options, self._token)
            return self._running

    def _wait(self, coroutine: Coroutine[Any, Any, T], limit_s: float) -> T:
        try:
            answering = self._loop().submit(coroutine)
        except BaseException:
            coroutine.close()
            raise
        try:
            # The loop ends every request by itself; the limit is for a loop that has died.
            return answering.result(timeout=limit_s)
        except TimeoutError as err:
            answering.cancel()
            self.count("timeout")
            raise CallFailed(f"{self.who}: the thread that asks it did not answer; open it anew.", "timeout") from err
        except BaseException:
            answering.cancel()
            raise

    async def _gather(self, url: str, bodies: Sequence[Mapping[str, Any]]) -> list[bytes]:
        return await _together([self._one(url, body) for body in bodies])

    async def _separately(self, url: str, bodies: Sequence[Mapping[str, Any]]) -> list[bytes | CallFailed]:
        turns = self._loop().turns

        async def one(body: Mapping[str, Any]) -> bytes | CallFailed:
            # Waiting for a turn takes nothing from the time of a request.
            async with turns:
                try:
                    return await self._one(url, body)
                except CallFailed as err:
                    return err

        return await _together([one(body) for body in bodies])

    async def _once(self, url: str) -> bytes:
        try:
            async with asyncio.timeout(self.options.total_s):
                return await self._send("GET", url, None, _Progress())
        except TimeoutError as err:
            raise CallFailed(f"{self.who} had not answered after {self.options.total_s:g} s.", "timeout") from err

    async def _one(self, url: str, body: Mapping[str, Any]) -> bytes:
        """One request with its tries; its deadline covers them all."""
        progress, options = _Progress(), self.options
        try:
            async with asyncio.timeout(options.total_s) as deadline:
                for attempt in range(1, options.attempts + 1):
                    try:
                        return await self._send("POST", url, body, progress)
                    except CallFailed as err:
                        self.count(err.kind)
                        progress.last, progress.answering = err, False
                        if not err.may_pass() or attempt == options.attempts:
                            raise CallFailed(f"{err} (try {attempt} of {options.attempts})", err.kind, False) from err
                        left = (deadline.when() or 0.0) - asyncio.get_running_loop().time()
                        if 0 < left <= progress.patience_s:
                            raise CallFailed(
                                f"{err} It asks for a pause of {progress.patience_s:.0f} s; {self._purpose} has "
                                f"{left:.0f} s left, of {options.total_s:g} s in all.",
                                err.kind,
                                False,
                            ) from err
                    pause = min(options.backoff_max_s, options.backoff_s * 2 ** (attempt - 1))
                    await asyncio.sleep(max(progress.patience_s, pause * self._random.uniform(0.5, 1.0)))
        except TimeoutError:
            pass
        if progress.last is not None and not progress.answering:
            raise CallFailed(f"{progress.last} (no more time after {options.total_s:g} s)", progress.last.kind)
        kind = "slow" if progress.answering else "timeout"
        self.count(kind)
        what = "was still answering" if progress.answering else "had not answered"
        raise CallFailed(f"{self.who} {what} after {options.total_s:g} s, the time for {self._purpose}.", kind)

    async def _send(self, method: str, url: str, body: Mapping[str, Any] | None, progress: _Progress) -> bytes:
        client, progress.patience_s = self._loop().client, 0.0
        content = None if body is None else encoded(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            async with client.stream(method, url, content=content, headers=headers) as response:
                progress.answering = True
                progress.patience_s = pause_asked(response.headers)
                if response.status_code != httpx2.codes.OK:
                    raise CallFailed(
                        f"{self.who} answered with status {response.status_code}, expected 200."
                        + (await self._said(response) if self._reasons else ""),
                        f"http_{response.status_code}",
                    )
                data = await _read(response, self._largest)
                if len(data) > self._largest and not self._cut:
                    raise CallFailed(f"{self.who} answered with more than {self._largest >> 20} MiB.", "malformed")
                data = _without_secrets(data[: self._largest])
                refused = None if self._judge is None or method != "POST" else self._judge(data)
                if refused is not None:
                    raise refused
                return data
        except httpx2.TimeoutException as err:
            what = "no connection" if isinstance(err, httpx2.ConnectTimeout) else "nothing came"
            waited = self.options.connect_s if isinstance(err, httpx2.ConnectTimeout) else self.options.read_s
            raise CallFailed(f"{self.who}: {what} for {waited:g} s.", "timeout") from err
        except httpx2.TransportError as err:
            raise CallFailed(
                f"{self.who} cannot be reached ({str(err) or type(err).__name__}). Is it running?", "refused"
            ) from err
        except zlib.error as err:
            raise CallFailed(
                f"{self.who} answered with bytes that are not as encoded as they say.", "malformed"
            ) from err

    async def _said(self, response: httpx2.Response) -> str:
        """The reason that a refusal gives, in the forms in use; "" for none."""
        reason = reason_in((await _read(response, _SAID_BYTES))[:_SAID_BYTES])
        return f" It says: {reason}" if reason else ""


async def _together(work: list[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all; where one fails, or waiting is given up, the others are ended."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def encoded(body: Mapping[str, Any]) -> bytes:
    """The bytes that are sent for a body: JSON in UTF-8, which has no half characters."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return replace_surrogates(text).encode("utf-8")


async def _read(response: httpx2.Response, most: int) -> bytes:
    """The first bytes of an answer, unpacked; more than `most` where there are more.

    Raises:
        zlib.error: they are not packed as the answer says, or not as was asked for.
    """
    data = bytearray()
    async for block in _unpacked(response, most + 1):
        data += block
        if len(data) > most:
            break
    return bytes(data)


async def _unpacked(response: httpx2.Response, most: int) -> AsyncIterator[bytes]:
    """Blocks of an answer; none is larger than `most`, whatever a packed one would unpack to."""
    packed = response.headers.get("content-encoding", "identity").strip().lower()
    if packed in ("", "identity"):
        async for block in response.aiter_raw():
            yield block
        return
    if packed not in _PACKED:
        raise zlib.error(f"packed as {packed}")
    unpacking = zlib.decompressobj(_PACKED[packed])
    async for block in response.aiter_raw():
        yield unpacking.decompress(block, most)
        # Where something is left to unpack, it would go beyond the limit, and the reader has stopped.
        if unpacking.eof:
            return
    if not unpacking.eof:
        raise zlib.error("it ends in the middle")


def _without_secrets(data: bytes) -> bytes:
    """An answer in which the server does not repeat a key that it was sent; unchanged where it does not."""
    text = data.decode("utf-8", "surrogateescape")
    hidden = hide_known_secrets(text)
    return data if hidden == text else hidden.encode("utf-8", "surrogateescape")
