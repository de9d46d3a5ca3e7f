"""One session with a server of the OpenEnv protocol: a message there, a message back, each with an end.

The server is not trusted: what it sends is bounded in bytes and in time, and its types are checked. Whatever fails is
an `EnvServerError`, whose kind is counted.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from stapo.documents import parse_json, shown
from stapo.errors import EnvServerError
from stapo.extras import need
from stapo.hosts import is_loopback
from stapo.http_client import key_for, read_address
from stapo.texts import escape_control_chars, replace_surrogates

TOKEN_VARIABLE = "STAPO_OPENENV_TOKEN"
HOST_VARIABLE = "STAPO_OPENENV_HOST"

_SAID = 500
_CONNECT_S, _CLOSE_S = 10.0, 2.0


class ServerSession:
    """A session, opened with the first message.

    `$STAPO_OPENENV_TOKEN` is sent as a bearer token; where `$STAPO_OPENENV_HOST` is set, to that host alone.

    Args:
        url: of the server, http://HOST:PORT, or of its sessions, ws://HOST:PORT/ws; https:// and wss:// as well.
        seconds: that the server may take for an answer.
        most: bytes of an answer.

    Raises:
        ConfigError: this is not an address, it or the token cannot be used, or the package websockets is not installed.
    """

    def __init__(self, url: str, seconds: float, most: int) -> None:
        as_http = "http" + url.removeprefix("ws") if url.startswith(("ws://", "wss://")) else url
        address = read_address(as_http, "environment's server")
        self.name = str(address).rstrip("/").removesuffix("/ws")
        self._where = "ws" + self.name.removeprefix("http") + "/ws"
        self._direct = is_loopback(address.host)
        self._token = key_for(address, TOKEN_VARIABLE, HOST_VARIABLE)
        self._seconds, self._most = seconds, most
        self._client = need("websockets.sync.client", "websockets", "openenv", "the environment 'openenv'")
        self._errors = need("websockets.exceptions", "websockets", "openenv", "the environment 'openenv'")
        self._entered: Any = None
        self._socket: Any = None

    def ask(self, kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """Send a message, and return the data of the observation that comes back.

        Raises:
            EnvServerError: the server cannot be reached, refuses, is too slow, or answers with something else. The
                session is then over; the next message opens another.
        """
        try:
            self._open()
            with suppress(self._errors.ConnectionClosed):
                # A server that ends a session at once has said why before; that is still to be received.
                self._socket.send(replace_surrogates(json.dumps({"type": kind, "data": data}, ensure_ascii=False)))
            return self._read(self._socket.recv(self._seconds))
        except EnvServerError:
            self.close()
            raise
        except TimeoutError:
            self.close()
            raise self._failed(f"did not answer '{kind}' within {self._seconds:g} s", "timeout") from None
        except self._errors.ConnectionClosed as err:
            self.close()
            raise self._closed(err) from None
        except OSError as err:
            self.close()
            raise self._failed(f"was lost: {err.strerror or err}", "closed") from None

    def close(self) -> None:
        """End the session; more than once is fine."""
        entered, opened = self._entered, self._socket
        self._entered = self._socket = None
        if entered is None:
            return
        with suppress(Exception):
            opened.send('{"type": "close"}')
        with suppress(Exception):
            entered.__exit__(None, None, None)

    def _open(self) -> None:
        if self._socket is not None:
            return
        options: dict[str, Any] = {"proxy": None} if self._direct else {}
        if self._token is not None:
            options["additional_headers"] = {"Authorization": f"Bearer {self._token}"}
        try:
            entered = self._client.connect(
                self._where,
                open_timeout=_CONNECT_S,
                close_timeout=_CLOSE_S,
                max_size=self._most,
                compression=None,
                **options,
            )
            self._socket = entered.__enter__()
            self._entered = entered
            # A server that reads nothing would keep a long command waiting; one that refuses is gone by now.
            wait = struct.pack("ll", int(self._seconds), int(self._seconds % 1 * 1e6))
            with suppress(OSError):
                self._socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
        except self._errors.InvalidStatus as err:
            status = err.response.status_code
            token, elsewhere = f"the token goes into ${TOKEN_VARIABLE}", f"it may have no sessions at {self._where}"
            hint = {401: token, 403: f"{token}, or {elsewhere}", 404: elsewhere}.get(status)
            said = f"refused the session with status {status}" + (f"; {hint}" if hint else "")
            raise self._failed(said, f"http_{status}") from None
        except TimeoutError:
            raise self._failed(f"opened no session within {_CONNECT_S:g} s", "timeout") from None
        except (OSError, self._errors.WebSocketException) as err:
            said = escape_control_chars(str(getattr(err, "strerror", None) or err))[:_SAID]
            raise self._failed(f"cannot be reached: {said}", "refused") from None

    def _read(self, raw: str | bytes) -> dict[str, Any]:
        try:
            message = parse_json(raw)
        except ValueError as err:
            raise self._failed(f"answered with a message that is {err}", "malformed") from None
        kind = message.get("type") if isinstance(message, dict) else None
        data = message.get("data") if isinstance(message, dict) else None
        if kind == "error" and isinstance(data, dict):
            raise self._refused(data)
        if kind != "observation" or not isinstance(data, dict) or not isinstance(data.get("observation"), dict):
            raise self._failed(
                f'answered with {shown(message)}; expected {{"type": "observation", "data": {{"observation": ..., '
                '"reward": ..., "done": ...}}',
                "malformed",
            )
        return data

    def _refused(self, data: Mapping[str, Any]) -> EnvServerError:
        """The error of a message in which the server says what is wrong."""
        code, said = str(data.get("code"))[:40], escape_control_chars(str(data.get("message")))[:_SAID]
        hint = ""
        if code == "CAPACITY_REACHED":
            hint = ". A run needs as many sessions as it plays episodes at once (rollout.groups x rollout.group_size)"
        return self._failed(f"answered with {code}: {said.rstrip('.')}{hint}", code.lower())

    def _closed(self, err: Any) -> EnvServerError:
        code = getattr(err.rcvd, "code", None) or getattr(err.sent, "code", None)
        if code == 1009:
            return self._failed(f"sent a message of more than {self._most:,} bytes", "too_large")
        return self._failed("closed the session" + (f" with code {code}" if code else ""), "closed")

    def _failed(self, what: str, kind: str) -> EnvServerError:
        return EnvServerError(f"the environment's server {self.name} {what}.", kind)
