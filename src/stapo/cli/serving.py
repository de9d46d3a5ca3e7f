"""What the commands that serve have in common: messages to the terminal, the address, the exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

    from stapo.serving.server import Limits


def serve_until_stopped(
    app: Any, listening: socket.socket, limits: Limits, ready: Callable[[str], None], *, last_words: bool = True
) -> int:
    """Answer requests until a signal; returns the exit code.

    Args:
        app: what answers.
        listening: from `stapo.serving.server.listen`.
        limits: of its connections.
        ready: called with HOST:PORT once the server is about to answer.
        last_words: say that it has stopped.
    """
    from stapo.serving.server import serve

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    address, port = listening.getsockname()[:2]
    place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    signum = serve(app, listening, limits, lambda: ready(place))
    if signum is None:
        return 0
    if last_words:
        print("stopped", file=sys.stderr)
    return 128 + signum
