"""What the commands that serve have in common: messages to the terminal, the address, the exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stapo.errors import ConfigError
from stapo.texts import escape_control_chars, hide_known_secrets

if TYPE_CHECKING:
    import socket

    from stapo.serving.server import Limits

LOG_VARIABLE = "STAPO_LOG_FILE"

_LONGEST_LINE = 1_000


class _Lines(logging.Formatter):
    """One line for each record, an exception by its name and text; no stack trace, no secret, no control code."""

    def format(self, record: logging.LogRecord) -> str:
        text, error = record.getMessage(), record.exc_info[1] if record.exc_info else None
        if error is not None:
            text = f"{text.strip()} ({type(error).__name__}: {error})"
        line = " ".join(f"{record.levelname} {record.name}: {text}".split())
        return escape_control_chars(hide_known_secrets(line[:_LONGEST_LINE]))


class _Whole(logging.Formatter):
    """Everything with its time, stack traces included; no secret."""

    def format(self, record: logging.LogRecord) -> str:
        return hide_known_secrets(super().format(record))


def _log() -> None:
    """Let servers write a line to the terminal for what goes wrong, and all of it into the file of $STAPO_LOG_FILE.

    Raises:
        ConfigError: this file cannot be written.
    """
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(logging.WARNING)
    terminal.setFormatter(_Lines())
    handlers: list[logging.Handler] = [terminal]
    if path := os.environ.get(LOG_VARIABLE):
        try:
            file = logging.FileHandler(Path(path).expanduser(), encoding="utf-8", errors="backslashreplace")
        except OSError as err:
            raise ConfigError(
                f"${LOG_VARIABLE} names '{path}', which cannot be written: {err.strerror or err}."
            ) from err
        file.setFormatter(_Whole("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(file)
        logging.getLogger("stapo").setLevel(logging.DEBUG)
    logging.basicConfig(level=logging.WARNING, handlers=handlers)


def token_of(given: str | None, variable: str) -> str | None:
    """The token that clients have to send: that of `--token`, or else that of an environment variable; None for none.

    Raises:
        ConfigError: `--token` is blank, or holds what no header can carry. Whoever gives a token wants one.
    """
    from stapo.http_client import checked_key, key_from

    if given is None:
        return key_from(variable)
    token = checked_key(given, "--token")
    if token is None:
        raise ConfigError(f"--token is blank, expected the token that clients send; leave it out to use ${variable}.")
    return token


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

    _log()
    address, port = listening.getsockname()[:2]
    place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    signum = serve(app, listening, limits, lambda: ready(place))
    if signum is None:
        return 0
    if last_words:
        print("stopped", file=sys.stderr)
    return 128 + signum
