"""Standard output and error as they are found: closed, full, a pipe that nobody reads, or one for another encoding."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from stapo.texts import escape_control_chars

READER_LEFT = 141
"""Exit code where nobody reads the output any more: 128 and SIGPIPE."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
NOT_WRITTEN = 1
"""Exit code where the output could not be written."""


def prepare() -> None:
    """Let every text be printed: what an encoding lacks is spelt out, and what is closed swallows it."""
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (it lives as long as the process)
        elif hasattr(stream, "reconfigure"):
            with suppress(OSError, ValueError):
                stream.reconfigure(errors="backslashreplace")


def complain(text: str) -> None:
    """Print to standard error, which may be gone."""
    with suppress(OSError, ValueError):
        print(escape_control_chars(text), file=sys.stderr, flush=True)


def guarded(command: Callable[[], int]) -> int:
    """The exit code of a command, once all that it printed is written, or could not be.

    A reader that has seen enough (`| head`) ends the command silently, a disk that is full with one line.
    """
    try:
        try:
            code = command()
        except SystemExit as end:
            if isinstance(end.__context__, BrokenPipeError):  # so rich's tables leave
                raise end.__context__ from None
            sys.stdout.flush()
            raise
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _discard()
        return READER_LEFT
    except OSError as err:
        if err.filename is not None or err.errno not in _NO_ROOM:  # files have names, and errors of their own
            raise
        _discard()
        complain(f"error: the output cannot be written: {err.strerror or err}.")
        return NOT_WRITTEN


def _discard() -> None:
    """Nothing more is written to standard output, not even by the interpreter when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        number = sys.stdout.fileno()
        empty = os.open(os.devnull, os.O_WRONLY)
        os.dup2(empty, number)
        os.close(empty)
