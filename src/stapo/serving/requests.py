"""What is the same for every request: who may send it, how its body is read, how it is refused."""

from __future__ import annotations

import asyncio
from typing import Any

from stapo.serving.gate import Refusal, drained
from stapo.serving.server import is_authorized

# Bodies that are being received, all together.
_HELD_BYTES = 64 << 20


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
