"""A server of this machine: where it listens, how long anything may take, how it stops.

What it answers is an ASGI application of its caller; whom it listens to is decided in `gate`.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from types import FrameType
from typing import Any

from stapo.checks import check_number
from stapo.errors import ConfigError
from stapo.extras import need
from stapo.hosts import is_loopback
from stapo.serving.connections import connection_class, connections_for
from stapo.serving.gate import Gate

# Connections that the system keeps until they are accepted.
_QUEUE = 1024
_PURPOSE = "a server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds the connections of a server.

    Attributes:
        connections: at once; fewer where the system allows fewer open files.
        head_s: seconds that a client may take to send the headers of a request.
        body_s: seconds that a client may take to send the body of a request.
        answer_s: seconds from there until the client has taken the answer.
        idle_s: seconds that a connection may stay open without a request.
        stop_s: seconds that requests under way may still take when the server is stopped.
        message: bytes of a message over a WebSocket at most; None opens no WebSockets.
    """

    connections: int = 1024
    head_s: float = 10.0
    body_s: float = 20.0
    answer_s: float = 150.0
    idle_s: float = 30.0
    stop_s: float = 10.0
    message: int | None = None


def check_options(options: Any, free: Collection[str] = ()) -> None:
    """Check the limits of a server, a dataclass, and its token.

    Args:
        options: its fields but `token` and the free ones are numbers above 0.
        free: fields that may be anything.

    Raises:
        ConfigError: a number that is NaN, infinite, or not above 0; a token that no client could send.
    """
    for name in (one.name for one in fields(options) if one.name not in ("token", *free)):
        check_number(name, getattr(options, name), 0, open_low=True)
    token = options.token
    if token is not None and (not token.isascii() or not token.strip()):
        raise ConfigError("the token is blank or has characters outside ASCII, which no client could send.")


def need_starlette(module: str) -> Any:
    """A module of starlette."""
    return need(f"starlette.{module}", "starlette", "server", _PURPOSE)


def application(routes: list[Any], token: str | None, known: str) -> Any:
    """The ASGI application of some routes, behind the gate; errors are one line of JSON, never a trace.

    Args:
        routes: of starlette.
        token: of this server. Without one, only local names are served: a web page that has its own name point here
            must not read anything, and does not know the token.
        known: what there is, for whoever asks for something else.
    """
    responses, middleware = need_starlette("responses"), need_starlette("middleware")

    async def missing(request: Any, err: Any) -> Any:
        return responses.JSONResponse({"error": f"{err.detail}: this server knows {known}"}, err.status_code)

    async def failed(request: Any, err: Exception) -> Any:
        return responses.JSONResponse({"error": "the request failed; the server's log says why"}, 500)

    return need_starlette("applications").Starlette(
        routes=routes,
        middleware=[middleware.Middleware(Gate, local_names_only=token is None)],
        exception_handlers={404: missing, 405: missing, Exception: failed},
    )


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
            "Give one with --token, or listen on 127.0.0.1."
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as err:
        raise ConfigError(f"'{host}' is not an address that this machine knows: {err.strerror or err}.") from err
    try:
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_QUEUE)
    except OSError as err:
        listening.close()
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {err.strerror or err}. Choose another port (0 takes a free one), "
            "or stop what uses it."
        ) from err
    return listening


def server_of(app: Any, limits: Limits) -> Any:
    """The server of uvicorn for an application, within limits.

    Raises:
        ConfigError: uvicorn is not installed, or what WebSockets need is not.
    """
    if limits.message is not None:
        need("websockets", "websockets", "server", _PURPOSE)
    uvicorn = need("uvicorn", "uvicorn", "server", _PURPOSE)
    most, at_once = connections_for(limits.connections)
    deadlines = {"head": limits.head_s, "body": limits.body_s, "answer": limits.answer_s, "idle": limits.idle_s}

    base: Any = uvicorn.Server

    class Server(base):  # type: ignore[misc]
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            # uvicorn takes one number for how many are accepted in one go and how many may queue up for that.
            for one in sockets or []:
                one.listen(_QUEUE)

    config = uvicorn.Config(
        app,
        http=connection_class(deadlines, most),
        ws="none" if limits.message is None else "websockets-sansio",
        ws_max_size=limits.message or 0,
        # A few bytes may unpack to any number of them.
        ws_per_message_deflate=False,
        # Its loggers are the caller's to show; its own handlers write stack traces to the terminal.
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        timeout_keep_alive=math.ceil(limits.idle_s),
        timeout_graceful_shutdown=math.ceil(limits.stop_s),
        h11_max_incomplete_event_size=1 << 16,
        backlog=at_once,
    )
    return Server(config)


def serve(app: Any, listening: socket.socket, limits: Limits, ready: Callable[[], None]) -> int | None:
    """Answer requests until SIGTERM or SIGINT; those under way are still answered.

    Args:
        app: what answers.
        listening: from `listen`; it is closed at the end.
        limits: of its connections.
        ready: called once the server is about to answer.

    Returns:
        the signal that stopped it, None if it ended by itself.

    Raises:
        ConfigError: uvicorn is not installed.
    """
    server = server_of(app, limits)
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
