"""A retriever behind HTTP: ``POST /retrieve`` in both published shapes, ``GET /health``.

Nothing is believed: the size of a body, the number of queries and passages are bounded, and so is the time that a
client takes to send its body. An answer holds passages or one line of error, never a trace. Searches run in threads;
when too many wait, clients are told to come again.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import FrameType
from typing import Any

from stapo.errors import ConfigError
from stapo.retrieval.extras import need
from stapo.retrieval.protocol import Retriever
from stapo.retrieval.wire import answer_of

_LOG = logging.getLogger("stapo.retrieval.server")
_LOCAL_NAMES = ["127.0.0.1", "localhost", "[::1]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Limits of a server.

    Attributes:
        token: clients have to send it as a bearer token; None lets everybody on this machine in.
        threads: searches at a time.
        waiting: requests that may wait for a thread; more are told to come again (status 503).
        max_body: bytes of a request.
        max_queries: queries of a request.
        max_topk: passages per query.
        max_query: characters of a query.
        body_s: seconds that a client may take to send its request.
        stop_s: seconds that requests under way may still take when the server is stopped.
    """

    token: str | None = None
    threads: int = 4
    waiting: int = 256
    max_body: int = 1 << 20
    max_queries: int = 512
    max_topk: int = 100
    max_query: int = 10_000
    body_s: float = 10.0
    stop_s: float = 10.0

    def __post_init__(self) -> None:
        for name in ("threads", "waiting", "max_body", "max_queries", "max_topk", "max_query", "body_s", "stop_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected more than 0.")
        if self.token is not None and (not self.token.isascii() or not self.token.strip()):
            raise ConfigError("the token is blank or has characters outside ASCII, which no client could send.")


class Refusal(Exception):
    """A request that is not answered with passages.

    Attributes:
        status: the HTTP status.
        reason: what the client is told.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for."""

    queries: list[str]
    k: int
    scores: bool


def read_request(data: bytes, options: ServerOptions) -> Request:
    """Read the body of a request, in either shape.

    Raises:
        Refusal: it cannot be answered.
    """
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise Refusal(400, "the body is no JSON") from None
    if not isinstance(body, dict):
        raise Refusal(400, "the body is no JSON object")
    if ("queries" in body) == ("query" in body):
        raise Refusal(400, "expected either 'queries', a list of texts, or 'query', a text")
    queries = body["queries"] if "queries" in body else [body["query"]]
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise Refusal(400, "expected 'queries' to be a list of texts, or 'query' to be a text")
    if not 1 <= len(queries) <= options.max_queries:
        raise Refusal(400, f"{len(queries)} queries, expected 1 to {options.max_queries}")
    if max(map(len, queries)) > options.max_query:
        raise Refusal(400, f"a query of {max(map(len, queries))} characters, expected at most {options.max_query}")
    k = 3 if body.get("topk") is None else body["topk"]
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= options.max_topk:
        raise Refusal(400, f"expected 'topk' to be a whole number from 1 to {options.max_topk}")
    scores = body.get("return_scores", False)
    if not isinstance(scores, bool):
        raise Refusal(400, "expected 'return_scores' to be true or false")
    return Request(queries, k, scores)


class _Service:
    """Answers requests; one per application."""

    def __init__(self, retriever: Retriever, options: ServerOptions) -> None:
        self.retriever = retriever
        self.options = options
        self.pool = ThreadPoolExecutor(options.threads, thread_name_prefix="stapo-search")
        self.under_way = 0

    async def retrieve(self, request: Any) -> bytes:
        """The body of an answer.

        Raises:
            Refusal: there is none.
        """
        self._check_token(request)
        asked = read_request(await self._body(request), self.options)
        if self.under_way >= self.options.threads + self.options.waiting:
            raise Refusal(503, "too many requests at once; try again")
        self.under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, self._search, asked)
        except Exception as err:
            _LOG.error("a search failed", exc_info=err)
            raise Refusal(500, "the search failed; the server's log says why") from None
        finally:
            self.under_way -= 1

    def _search(self, asked: Request) -> bytes:
        found = self.retriever.search(asked.queries, asked.k)
        return json.dumps(answer_of(found, scores=asked.scores), ensure_ascii=False).encode("utf-8", "replace")

    def _check_token(self, request: Any) -> None:
        if self.options.token is None:
            return
        sent = request.headers.get("authorization", "")
        if not hmac.compare_digest(sent.encode(), f"Bearer {self.options.token}".encode()):
            raise Refusal(401, "expected the header 'Authorization: Bearer TOKEN' with the token of this server")

    async def _body(self, request: Any) -> bytes:
        data = bytearray()
        try:
            async with asyncio.timeout(self.options.body_s):
                async for block in request.stream():
                    data += block
                    if len(data) > self.options.max_body:
                        raise Refusal(413, f"the body has more than {self.options.max_body} bytes")
        except TimeoutError:
            raise Refusal(408, f"the body did not come within {self.options.body_s:g} s") from None
        return bytes(data)


def create_app(retriever: Retriever, options: ServerOptions | None = None) -> Any:
    """The ASGI application of a retriever. Closing the retriever stays with the caller.

    Raises:
        ConfigError: starlette is not installed.
    """
    starlette = need("starlette.applications", "starlette", "server", "the retrieval server")
    responses, routing = need_starlette("responses"), need_starlette("routing")
    middleware, hosts = need_starlette("middleware"), need_starlette("middleware.trustedhost")
    options = options or ServerOptions()
    service = _Service(retriever, options)

    def refused(status: int, reason: str) -> Any:
        headers = {503: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(status, {})
        # What is left of the body is not read, so the connection is of no further use.
        closing = {"Connection": "close"} if status in (401, 408, 413) else {}
        return responses.JSONResponse({"error": reason}, status, headers={**headers, **closing})

    async def retrieve(request: Any) -> Any:
        try:
            return responses.Response(await service.retrieve(request), media_type="application/json")
        except Refusal as refusal:
            return refused(refusal.status, refusal.reason)

    async def health(request: Any) -> Any:
        return responses.JSONResponse({"status": "ok"})

    async def missing(request: Any, err: Any) -> Any:
        return refused(err.status_code, f"{err.detail}: this server knows POST /retrieve and GET /health")

    async def failed(request: Any, err: Exception) -> Any:
        return refused(500, "the request failed; the server's log says why")

    # A web page that has its own name point here must not read passages: without a token only local names are served.
    guards = [] if options.token else [middleware.Middleware(hosts.TrustedHostMiddleware, allowed_hosts=_LOCAL_NAMES)]
    return starlette.Starlette(
        routes=[
            routing.Route("/retrieve", retrieve, methods=["POST"]),
            routing.Route("/health", health, methods=["GET"]),
        ],
        middleware=guards,
        exception_handlers={404: missing, 405: missing, Exception: failed},
    )


def need_starlette(module: str) -> Any:
    """A module of starlette."""
    return need(f"starlette.{module}", "starlette", "server", "the retrieval server")


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int, *, token: str | None) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the port is in use, the address is not of this machine, or others could reach it without a token.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"port is {port}, expected 0 to 65535 (0 takes a free one).")
    if not is_loopback(host) and token is None:
        raise ConfigError(
            f"'{host}' can be reached from other machines; that needs a token, which clients have to send. "
            "Set one, or bind 127.0.0.1."
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as err:
        raise ConfigError(f"'{host}' is no address that this machine knows: {err.strerror or err}.") from err
    try:
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
    except OSError as err:
        listening.close()
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {err.strerror or err}. Choose another port (0 takes a free one), "
            "or stop what uses it."
        ) from err
    return listening


def serve(app: Any, listening: socket.socket, options: ServerOptions, ready: Callable[[], None]) -> int | None:
    """Answer requests until SIGTERM or SIGINT; those under way are still answered.

    Args:
        app: from `create_app`.
        listening: from `listen`; it is closed at the end.
        options: limits.
        ready: called once the server is about to answer.

    Returns:
        the signal that stopped it, None if it ended by itself.

    Raises:
        ConfigError: uvicorn is not installed.
    """
    uvicorn = need("uvicorn", "uvicorn", "server", "the retrieval server")
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=options.stop_s,
        h11_max_incomplete_event_size=1 << 16,
        backlog=1024,
    )
    server = uvicorn.Server(config)
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        # uvicorn has handlers of its own while it runs, and repeats at the end what it was sent.
        stopped.append(number)
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ready()
        asyncio.run(server.serve(sockets=[listening]))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listening.close()
    return stopped[0] if stopped else None
