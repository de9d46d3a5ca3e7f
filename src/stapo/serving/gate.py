"""Whom a server of ours listens to; how it reads the body of a request, and how it refuses one.

It listens to programs of this machine, or to clients with its token, and to no web pages of others. A page that
somebody has open in a browser can send requests to this machine. It cannot hide its origin, cannot set the content type
of JSON without asking first, and reaches a local server under a name of its own at best; all three are looked at before
a request is read.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from stapo.hosts import is_loopback

_CLOSE = (b"connection", b"close")
_MOST_DRAINED, _DRAINING_S = 8 << 20, 5.0
# Bodies that are being received, all together.
_HELD_BYTES = 64 << 20


class Refusal(Exception):
    """A request that is not answered with what it asks for.

    Attributes:
        status: the HTTP status.
        reason: what the client is told.
        unread: there may be more of its body to come.
    """

    def __init__(self, status: int, reason: str, *, unread: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.unread = unread


def check_head(
    method: str, headers: list[tuple[bytes, bytes]], *, local_names_only: bool, linked: bool = False
) -> None:
    """Look at the headers of a request, names in lower case.

    Args:
        method: of the request.
        headers: of the request.
        local_names_only: refuse a Host that is not a name of this machine.
        linked: a page of another origin may hold a link to this address, which somebody follows.

    Raises:
        Refusal: it is a web page's, or not clearly one request of JSON.
    """
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1").strip())
    host = ",".join(found.get("host", []))
    if local_names_only and not is_loopback(_name_of(host)):
        raise Refusal(400, "expected the header 'Host' to name this machine: 127.0.0.1, [::1] or localhost")
    if "transfer-encoding" in found and "content-length" in found:
        raise Refusal(400, "the request gives its length in two ways")
    origins = found.get("origin", [])
    if any(origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}") for origin in origins):
        raise Refusal(403, "requests of web pages of other origins are not answered")
    followed = linked and method == "GET" and found.get("sec-fetch-dest") == ["document"]
    if not followed and any(site not in ("same-origin", "none") for site in found.get("sec-fetch-site", [])):
        raise Refusal(403, "requests of web pages of other origins are not answered")
    if method == "POST":
        _check_content(found, from_page=bool(origins) or any(name.startswith("sec-fetch-") for name in found))


def _check_content(found: Mapping[str, list[str]], *, from_page: bool) -> None:
    types = found.get("content-type", [])
    kinds = {part.partition(";")[0].strip().lower() for part in types}
    # Scripts that send none are as old as the protocol; a page may leave it out as well, but names its origin.
    if (types or from_page) and (len(kinds) != 1 or not all(_is_json(kind) for kind in kinds)):
        raise Refusal(415, "expected the header 'Content-Type: application/json'")
    if any(encoding.lower() != "identity" for encoding in found.get("content-encoding", [])):
        raise Refusal(415, "the body is compressed; expected it as it is")


def _is_json(kind: str) -> bool:
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        return name if "]" in host and (not rest or rest.startswith(":")) else ""
    return host.partition(":")[0].rstrip(".").lower()


Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]


@dataclass(eq=False)
class Gate:
    """An ASGI application around another one: refuses what `check_head` refuses, and answers when the server stops.

    Args:
        app: the other one.
        local_names_only: see `check_head`.
        linked: paths of pages that links on pages of other origins may open.
    """

    app: App
    _: KW_ONLY
    local_names_only: bool
    linked: Collection[str] = ()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "websocket":
            # A browser opens sockets to other origins without asking anybody; only the header Origin tells.
            try:
                check_head("GET", scope["headers"], local_names_only=self.local_names_only)
            except Refusal as refusal:
                await refuse_socket(scope, send, refusal)
                return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            linked = scope["path"] in self.linked
            check_head(scope["method"], scope["headers"], local_names_only=self.local_names_only, linked=linked)
        except Refusal as refusal:
            whole = await drained(scope["headers"], receive)
            await send_refusal(send, refusal, close=not whole)
            return
        try:
            await self.app(scope, receive, watched)
        except asyncio.CancelledError:
            # The server stops, and has waited for this request for long enough.
            if not begun:
                await send_refusal(send, Refusal(503, "the server stops"), close=True)


async def send_refusal(send: Send, refusal: Refusal, *, close: bool, kind: str = "http") -> None:
    """Answer with a status and one line."""
    body = json.dumps({"error": refusal.reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [_CLOSE] if close else []
    await send({"type": f"{kind}.response.start", "status": refusal.status, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": body})


async def refuse_socket(scope: Any, send: Send, refusal: Refusal) -> None:
    """Answer the request for a WebSocket with a status and one line instead of opening it."""
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await send_refusal(send, refusal, close=False, kind="websocket.http")
    else:
        await send({"type": "websocket.close", "code": 1008})


async def drained(headers: list[tuple[bytes, bytes]], receive: Receive) -> bool:
    """Read what is left of a body that nobody wants; True if that was all of it.

    A connection that is closed with bytes unread is reset, and its client sees that instead of the answer.
    """
    known = dict(headers)
    # A client that waits for a go-ahead has sent nothing yet; where a body of two lengths ends is anybody's guess.
    if b"expect" in known or (b"transfer-encoding" in known and b"content-length" in known):
        return False
    length = known.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 12 or int(length) > _MOST_DRAINED:
        return False
    seen = 0
    try:
        async with asyncio.timeout(_DRAINING_S):
            while seen <= _MOST_DRAINED:
                message = await receive()
                if message["type"] != "http.request":
                    return False
                seen += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return True
    except TimeoutError:
        pass
    return False


def is_authorized(header: str, token: str) -> bool:
    """Whether an Authorization header has the token, compared in a time that tells nothing of it.

    As a bearer token, or as the password of any user: an address can hold one (http://user:TOKEN@HOST), and some
    clients take nothing but an address.
    """
    kind, _, sent = header.partition(" ")
    if kind.lower() == "basic":
        try:
            sent = base64.b64decode(sent, validate=True).decode().partition(":")[2]
        except ValueError:
            return False
        return hmac.compare_digest(sent.encode(), token.encode())
    return hmac.compare_digest(header.encode(), f"Bearer {token}".encode())


class Bodies:
    """Reads the bodies of requests, within limits; one per application.

    Args:
        most: bytes of a body.
        seconds: that a client may take to send one.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._held = 0

    async def read(self, request: Any) -> bytes:
        """The body of a request.

        Raises:
            Refusal: it is too large, too slow, or one of too many at once.
        """
        data = bytearray()
        try:
            async with asyncio.timeout(self._seconds):
                more = True
                while more:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "the client has left")
                    more = message.get("more_body", False)
                    block = message.get("body", b"")
                    self._held += len(block)
                    data += block
                    if len(data) > self._most:
                        raise Refusal(413, f"the body has more than {self._most} bytes", unread=more)
                    if self._held > max(_HELD_BYTES, 2 * self._most):
                        raise Refusal(503, "too many large requests at once; try again", unread=more)
        except TimeoutError:
            raise Refusal(408, f"the body did not come within {self._seconds:g} s", unread=True) from None
        finally:
            self._held -= len(data)
        return bytes(data)


def check_token(header: str, token: str | None, *, unread: bool = True) -> None:
    """Check an Authorization header.

    Args:
        header: what it says; "" where there is none.
        token: of this server; None lets everybody in.
        unread: the request has a body that nobody has read.

    Raises:
        Refusal: it is another one, or none.
    """
    if token is not None and not is_authorized(header, token):
        raise Refusal(
            401, "expected the header 'Authorization: Bearer TOKEN' with the token of this server", unread=unread
        )


def error_headers(status: int, *, close: bool) -> dict[str, str]:
    """Headers of a response that says what is wrong."""
    headers = {503: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(status, {})
    return {**headers, "Connection": "close"} if close else headers


async def leaves_rest(refusal: Refusal, request: Any) -> bool:
    """Read what is left of the body of a refused request, so that the client gets to hear why; True if some remains."""
    late = refusal.status == 408
    return refusal.unread and (late or not await drained(request.scope["headers"], request.receive))
