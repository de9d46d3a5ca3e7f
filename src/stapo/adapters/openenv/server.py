"""Any of our environments behind the OpenEnv protocol: sessions over ``/ws``, and the same over plain requests.

A session ends with its socket, after a time without a message, or with the server. Nothing is believed: who asks, how
many sessions there are, the size of a message, and the time for each call are bounded. A client is told what went wrong
in a line, never a trace. Decided elsewhere: whom it listens to (`serving.gate`), what messages may say (`messages`),
what a session does (`sessions`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import stapo
from stapo.adapters.openenv.messages import (
    Code,
    ProtocolError,
    read_command,
    read_message,
    read_object,
    read_reset,
    schemas,
    write_error,
    write_json,
    write_message,
)
from stapo.adapters.openenv.sessions import Session
from stapo.envs.protocol import Env
from stapo.serving.gate import Bodies, Refusal, check_token, error_headers, leaves_rest, refuse_socket
from stapo.serving.server import Limits, application, check_options, need_starlette
from stapo.serving.threads import ThreadCalls

T = TypeVar("T")

_LOG = logging.getLogger("stapo.serve_env")
_STATUS = {
    Code.CAPACITY_REACHED: 503,
    Code.SESSION_ERROR: 404,
    Code.EXECUTION_ERROR: 500,
    Code.FACTORY_ERROR: 500,
}
_NORMAL, _GOING_AWAY, _TRY_AGAIN = 1000, 1001, 1013
_LONGEST_CLOSE = 123  # bytes of the reason in a close frame


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvServerOptions:
    """Limits of a server of an environment.

    Attributes:
        token: clients have to send it; None lets everybody on this machine in.
        split: that tasks are drawn from where a client names none; None for the environment's first.
        seed: of the draw of tasks where a client names neither a task nor a seed; None draws other tasks every time.
        threads: calls of environments at a time. Environments of a process share data, and ours are made for one.
        max_sessions: at once; one more is told CAPACITY_REACHED.
        max_message: bytes of a message.
        max_connections: connections at once, sessions included; fewer where the system allows fewer open files.
        call_s: seconds that a call of an environment may take, and that it may wait for a thread before.
        idle_s: seconds that a session may be without a message.
        write_s: seconds that a client may take to receive a message.
        stop_s: seconds that requests under way may still take when the server is stopped.
    """

    token: str | None = field(default=None, repr=False)
    split: str | None = None
    seed: int | None = None
    threads: int = 1
    max_sessions: int = 256
    max_message: int = 1 << 20
    max_connections: int = 1024
    call_s: float = 60.0
    idle_s: float = 600.0
    write_s: float = 30.0
    stop_s: float = 10.0

    def __post_init__(self) -> None:
        check_options(self, free=("split", "seed"))

    @property
    def limits(self) -> Limits:
        """What of it bounds connections: an answer waits, is computed and is sent."""
        return Limits(
            connections=self.max_connections,
            answer_s=3 * self.call_s + self.write_s,
            stop_s=self.stop_s,
            message=self.max_message,
        )


class _OpenSession:
    """A session with what the server knows of it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.lock = asyncio.Lock()
        self.lost = False
        self.timer: asyncio.TimerHandle | None = None


class _Service:
    """Holds the sessions; one per application."""

    def __init__(self, build: Callable[[], Env], options: EnvServerOptions) -> None:
        self.build = build
        self.options = options
        noun = ("call of the environment", "calls of the environment")
        self.calls = ThreadCalls(options.threads, 2 * options.max_sessions, options.call_s, noun)
        self.bodies = Bodies(options.max_message, options.write_s)
        self.rng = random.Random(options.seed)
        self.sessions: dict[str, _OpenSession] = {}

    async def open(self) -> str:
        """Begin a session.

        Raises:
            ProtocolError: there are too many, or the environment cannot be built.
        """
        if len(self.sessions) >= self.options.max_sessions:
            raise ProtocolError(
                Code.CAPACITY_REACHED,
                f"all {self.options.max_sessions} sessions are in use; end one, or start the server with a larger "
                "--max-sessions.",
            )
        name = secrets.token_urlsafe(16)
        held = self.sessions[name] = _OpenSession(Session(self.build, self.options.split, self.rng))
        try:
            await self.call(name, held.session.open)
        except BaseException:
            await self.close(name)
            raise
        return name

    async def call(self, name: str, work: Callable[[], T]) -> T:
        """Do something with the environment of a session, after all that was asked for before.

        Raises:
            ProtocolError: there is no such session any more, the call took too long, or what it raises.
        """
        held = self.held(name)
        async with held.lock:
            if held.lost or name not in self.sessions:
                raise ProtocolError(Code.SESSION_ERROR, "this session has ended; open another one.")
            try:
                return await self.calls.run(lambda _: work(), threading.Event())
            except Refusal as refusal:
                # The call may still go on in its thread: nobody else may use this environment.
                held.lost = True
                raise ProtocolError(Code.SESSION_ERROR, f"{refusal.reason}; the session has ended.") from None

    def held(self, name: str) -> _OpenSession:
        """A session by its name.

        Raises:
            ProtocolError: there is none.
        """
        held = self.sessions.get(name)
        if held is None:
            raise ProtocolError(Code.SESSION_ERROR, "there is no such session any more; begin with 'reset'.")
        return held

    async def close(self, name: str) -> None:
        """End a session; ending it twice is not an error."""
        held = self.sessions.pop(name, None)
        if held is None:
            return
        if held.timer is not None:
            held.timer.cancel()
        async with held.lock:
            if not held.lost:
                with suppress(Refusal):
                    await self.calls.run(lambda _: held.session.close(), threading.Event())

    def keep(self, name: str) -> None:
        """Let the time of a session without a socket begin again."""
        held, loop = self.held(name), asyncio.get_running_loop()
        if held.timer is not None:
            held.timer.cancel()
        held.timer = loop.call_later(self.options.idle_s, lambda: loop.create_task(self.close(name)))

    async def answer(self, name: str, kind: str, data: dict[str, Any]) -> str | None:
        """The answer to a message over a socket; None for the one that ends the session.

        Raises:
            ProtocolError: there is none.
        """
        session = self.held(name).session
        if kind == "close":
            return None
        if kind == "state":
            return write_message("state", await self.call(name, session.state))
        if kind == "reset":
            asked = read_reset(data)
            return write_message("observation", await self.call(name, lambda: session.reset(asked)))
        command = read_command(data)
        return write_message("observation", await self.call(name, lambda: session.step(command)))

    async def play(self, socket: Any) -> None:
        """Answer the messages of a socket that was accepted, until it or its time ends."""
        try:
            name = await self.open()
        except ProtocolError as error:
            await self.end(socket, error, _TRY_AGAIN)
            return
        try:
            while True:
                try:
                    async with asyncio.timeout(self.options.idle_s):
                        message = await socket.receive()
                except TimeoutError:
                    idle = f"no message came within {self.options.idle_s:g} s; the session has ended."
                    await self.end(socket, ProtocolError(Code.SESSION_ERROR, idle), _GOING_AWAY)
                    return
                if message["type"] == "websocket.disconnect":
                    return
                answer = await self.respond(name, message.get("text"))
                if answer is None or not await self.send(socket, answer):
                    await self.end(socket, None, _NORMAL)
                    return
                if self.held(name).lost:
                    await self.end(socket, None, _GOING_AWAY)
                    return
        finally:
            await self.close(name)

    async def respond(self, name: str, text: str | None) -> str | None:
        """The answer to a message, whatever it is."""
        try:
            if text is None:
                raise ProtocolError(Code.INVALID_JSON, "the message is binary, expected text.")
            return await self.answer(name, *read_message(text))
        except ProtocolError as error:
            return write_error(error)
        except Exception as err:
            _LOG.error("a message could not be answered", exc_info=err)
            return write_error(ProtocolError(Code.EXECUTION_ERROR, "the message could not be answered; see the log."))

    async def send(self, socket: Any, text: str) -> bool:
        """Send a message; False where the client does not take it."""
        try:
            async with asyncio.timeout(self.options.write_s):
                await socket.send_text(text)
        except (TimeoutError, RuntimeError, OSError):
            return False
        return True

    async def end(self, socket: Any, error: ProtocolError | None, code: int) -> None:
        """Say what is wrong, if anything, and close a socket.

        The reason is in the close as well: a client that sends before it reads sees that alone.
        """
        if error is None or await self.send(socket, write_error(error)):
            reason = "" if error is None else error.reason.encode()[:_LONGEST_CLOSE].decode(errors="ignore")
            with suppress(TimeoutError, RuntimeError, OSError):
                async with asyncio.timeout(self.options.write_s):
                    await socket.close(code, reason)


def create_app(build: Callable[[], Env], name: str, about: str, options: EnvServerOptions | None = None) -> Any:
    """The ASGI application of an environment.

    Args:
        build: makes an environment, one for each session.
        name: of the environment.
        about: a sentence on it.
        options: limits.

    Raises:
        ConfigError: starlette is not installed.
    """
    responses, routing = need_starlette("responses"), need_starlette("routing")
    left = need_starlette("websockets").WebSocketDisconnect
    options = options or EnvServerOptions()
    service = _Service(build, options)
    schema = schemas(name)
    about_it = {"name": name, "description": about, "version": stapo.__version__, "readme_content": None}
    about_it |= {"author": None, "documentation_url": None}

    def reply(data: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Any:
        return responses.Response(write_json(data), status, headers=headers, media_type="application/json")

    def header_of(request: Any) -> str:
        return str(request.headers.get("authorization", ""))

    def endpoint(work: Callable[[Any], Any], *, free: bool = False) -> Any:
        async def answer(request: Any) -> Any:
            try:
                if not free:
                    check_token(header_of(request), options.token, unread=request.method == "POST")
                return reply(await work(request))
            except Refusal as refusal:
                close = await leaves_rest(refusal, request)
                return reply({"error": refusal.reason}, refusal.status, error_headers(refusal.status, close=close))
            except ProtocolError as error:
                status = _STATUS.get(error.code, 422)
                headers = error_headers(status, close=False)
                return reply({"error": error.reason, "code": error.code.value}, status, headers)

        return answer

    async def reset(request: Any) -> dict[str, Any]:
        body = await service.bodies.read(request)
        data = read_object(body) if body.strip() else {}
        held = data.pop("session", None)
        asked = read_reset(data)
        session = held if isinstance(held, str) and held in service.sessions else await service.open()
        service.keep(session)
        try:
            result = await service.call(session, lambda: service.held(session).session.reset(asked))
        except ProtocolError:
            if session != held:
                await service.close(session)
            raise
        return {**result, "observation": {**result["observation"], "session": session}}

    async def step(request: Any) -> dict[str, Any]:
        data = read_object(await service.bodies.read(request))
        command, session = read_command(data.get("action")), _session_in(data)
        service.keep(session)
        return await service.call(session, lambda: service.held(session).session.step(command))

    async def state(request: Any) -> dict[str, Any]:
        session = request.query_params.get("session")
        if session is None:
            return {"episode_id": None, "step_count": 0}
        return await service.call(session, service.held(session).session.state)

    async def said(data: dict[str, Any]) -> dict[str, Any]:
        return data

    async def play(socket: Any) -> None:
        try:
            check_token(header_of(socket), options.token)
        except Refusal as refusal:
            await refuse_socket(socket.scope, socket.send, refusal)
            return
        with suppress(left, TimeoutError):
            async with asyncio.timeout(options.write_s):
                await socket.accept()
            await service.play(socket)

    routes = [
        routing.WebSocketRoute("/ws", play),
        routing.Route("/reset", endpoint(reset), methods=["POST"]),
        routing.Route("/step", endpoint(step), methods=["POST"]),
        routing.Route("/state", endpoint(state), methods=["GET"]),
        routing.Route("/schema", endpoint(lambda _: said(schema)), methods=["GET"]),
        routing.Route("/metadata", endpoint(lambda _: said(about_it)), methods=["GET"]),
        routing.Route("/health", endpoint(lambda _: said({"status": "healthy"}), free=True), methods=["GET"]),
    ]
    known = "GET /schema, /metadata, /health, /state, POST /reset, /step, and sessions over /ws"
    return application(routes, options.token, known)


def _session_in(data: dict[str, Any]) -> str:
    """The session that a plain request names.

    Raises:
        ProtocolError: it names none.
    """
    session = data.get("session")
    if not isinstance(session, str):
        raise ProtocolError(
            Code.VALIDATION_ERROR,
            "a plain request for a step has to name its 'session', which the response to POST /reset holds under "
            "'observation'; or play over the WebSocket /ws.",
        )
    return session
