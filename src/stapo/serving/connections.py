"""Connections of a server, each with an end to whatever it waits for.

uvicorn ends a connection that is idle between two requests, and nothing else: a client that never finishes its
headers, its body, or the reading of its answer would keep its connection for ever. Here each of these has a deadline,
which further bytes do not move. When there are as many connections as the system allows, the one that has been idle or
unfinished for the longest makes room for the next.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Mapping
from typing import Any

from stapo.extras import need

_CLOSING_S = 2.0
_LEAST_CONNECTIONS = 8
# What the process itself has open: the corpus, files of an index, the listening socket, standard streams.
_OWN_DESCRIPTORS = 48


def connections_for(most: int) -> tuple[int, int]:
    """How many connections there may be, and how many may be accepted at once, so that descriptors do not run out."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in (resource.RLIM_INFINITY, -1):
        return most, 256
    at_once = max(4, min(256, soft // 16))
    # Those that were accepted and are not counted yet, and those that make room for them, are open for a moment more.
    return max(_LEAST_CONNECTIONS, min(most, soft - 4 * at_once - _OWN_DESCRIPTORS)), at_once


def connection_class(deadlines: Mapping[str, float], most: int) -> type:
    """The class that uvicorn makes a connection of; for its setting `http`.

    Args:
        deadlines: seconds for each stage: "head", from the first byte of a request to the end of its headers; "body",
            from there to the end of its body; "answer", from there until the client has taken the answer; "idle",
            between two requests.
        most: connections at once.

    Raises:
        ConfigError: uvicorn is not installed.
    """
    base: Any = need("uvicorn.protocols.http.h11_impl", "uvicorn", "server", "a server").H11Protocol
    h11 = need("h11", "h11", "server", "a server")
    seconds = {**deadlines, "closing": _CLOSING_S}

    class Connection(base):  # type: ignore[misc]
        """One connection."""

        stage: tuple[str, int] = ("head", 0)
        since = 0.0
        refused = False
        upgraded = False
        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            if len(self.connections) >= most and not self.make_room():
                self.refused = True
                transport.write(_short_answer("503 Service Unavailable", "Retry-After: 1"))
                transport.close()
                self.loop.call_later(_CLOSING_S, transport.abort)
                return
            super().connection_made(transport)
            # Writing pauses while anything is left to send, so that its end is noticed.
            transport.set_write_buffer_limits(0)
            self.enter(("head", 0))

        def make_room(self) -> bool:
            """Close the connection that has waited for a request for the longest; False if all are being answered."""
            waiting = [one for one in self.connections if isinstance(one, Connection) and one.stage[0] in _WAITING]
            if not waiting:
                return False
            oldest = min(waiting, key=lambda one: one.since)
            self.connections.discard(oldest)
            oldest.transport.abort()
            return True

        def data_received(self, data: bytes) -> None:
            if not self.refused and not self.transport.is_closing():
                super().data_received(data)
                self.watch()

        def handle_websocket_upgrade(self, event: Any) -> None:
            # From here on it is a socket, which lives as long as its session; the application sees to that.
            self.upgraded = True
            if self.timer is not None:
                self.timer.cancel()
            self.transport.set_write_buffer_limits()
            super().handle_websocket_upgrade(event)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self.watch()

        def resume_writing(self) -> None:
            super().resume_writing()
            self.watch()

        def connection_lost(self, exc: Exception | None) -> None:
            if self.timer is not None:
                self.timer.cancel()
            if not self.refused:
                super().connection_lost(exc)

        def shutdown(self) -> None:
            try:
                super().shutdown()
            except h11.LocalProtocolError:
                self.transport.abort()

        def send_400_response(self, msg: str) -> None:
            try:
                super().send_400_response(msg)
            except h11.LocalProtocolError:
                # The answer to an earlier part of the same request is under way.
                self.transport.abort()

        def watch(self) -> None:
            """See what is being waited for now; the time for it begins when it is something else than before."""
            if self.upgraded:
                return
            if self.stage[0] == "answer" and self.transport.get_write_buffer_size():
                return  # for uvicorn an answer is complete once it is written to the buffer
            theirs, ours = self.conn.their_state, self.conn.our_state
            if self.transport.is_closing() or theirs is h11.ERROR or ours in (h11.MUST_CLOSE, h11.CLOSED, h11.ERROR):
                name = "closing"
            elif theirs is h11.IDLE:
                name = "head" if self.conn.trailing_data[0] or self.stage == ("head", 0) else "idle"
            elif theirs is h11.SEND_BODY:
                name = "body"
            else:
                name = "answer"
            # Requests that follow one another without a pause are told apart by their answers.
            stage = (name, id(self.cycle) if self.cycle is not None else 0)
            if stage != self.stage:
                self.enter(stage)

        def enter(self, stage: tuple[str, int]) -> None:
            self.stage, self.since = stage, self.loop.time()
            if self.timer is not None:
                self.timer.cancel()
            self.timer = self.loop.call_later(seconds[stage[0]], self.end)

        def end(self) -> None:
            """The time is over."""
            name = self.stage[0]
            if name in _WAITING and not self.transport.is_closing():
                if name == "head" and self.conn.trailing_data[0]:
                    self.transport.write(_short_answer("408 Request Timeout"))
                self.transport.close()
                self.timer = self.loop.call_later(_CLOSING_S, self.transport.abort)
            else:
                self.transport.abort()

    return Connection


_WAITING = ("head", "idle")


def _short_answer(status: str, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Length: 0", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode("ascii")
