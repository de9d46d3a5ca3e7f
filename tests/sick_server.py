"""Servers that misbehave, on real sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def http(status: str, body: bytes, *more: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *more, "", ""]
    return "\r\n".join(head).encode() + body


def answer(passages: list[list[dict]]) -> bytes:
    return http("200 OK", json.dumps({"result": passages}).encode(), "Content-Type: application/json")


class SickServer:
    """Calls `behave(connection, number, body)` for each request; counts them and keeps their bodies."""

    def __init__(self, behave: Callable[[socket.socket, int, dict], None]) -> None:
        self.behave = behave
        self.bodies: list[dict] = []
        self.heads: list[str] = []
        self.stopping = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data:
                block = connection.recv(4096)
                if not block:
                    return
                data += block
            head, _, body = data.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            while len(body) < length:
                body += connection.recv(4096)
            self.heads.append(head.decode())
            self.bodies.append(json.loads(body or b"{}"))
            self.behave(connection, len(self.bodies), self.bodies[-1])

    def drip(self, connection: socket.socket, data: bytes, pause: float = 0.05) -> None:
        """Send a byte at a time until the test is over."""
        for byte in data:
            if self.stopping.is_set():
                return
            connection.sendall(bytes([byte]))
            time.sleep(pause)

    def close(self) -> None:
        self.stopping.set()
        # Wakes the thread that accepts; closing alone would leave it waiting.
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
