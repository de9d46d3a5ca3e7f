"""The exception tree of the package.

Every error a user can cause derives from `StapoError` and from the standard class it refines, so that both
``except StapoError`` and ``except ValueError`` work. A message says what was found, what was expected and what to
do next; the command line prints it without a stack trace.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from stapo.texts import escape_control_chars, hide_secrets


class StapoError(Exception):
    """Base of all errors that this package raises on purpose. No message of theirs holds a secret that is known."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(hide_secrets(arg) if isinstance(arg, str) else arg for arg in args))


class ConfigError(StapoError, ValueError):
    """A configuration value, key, preset or file that cannot be used."""


class UnknownNameError(StapoError, KeyError):
    """A name that no registry, preset list or task list holds."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class GameFileError(StapoError, ValueError):
    """A game, task or data file that is missing, truncated or malformed."""


class EnvError(StapoError, RuntimeError):
    """An environment used outside its protocol (a step before reset, say), or of another package that failed."""


class ModelError(StapoError, ValueError):
    """A model or tokenizer that cannot be loaded or does not fit."""


class EngineError(StapoError, RuntimeError):
    """An engine (verl, vLLM) that is missing, of another version, or does not do what was agreed with it."""


class NonFiniteError(StapoError, ArithmeticError):
    """A NaN or infinity found before the weights would have moved."""


class RunDirectoryError(StapoError, OSError):
    """A run directory that exists already, is missing or is not one of ours."""


class SaveError(StapoError, OSError):
    """A saved state of a run that could not be written, or that is damaged, incomplete or foreign."""


class CorpusError(StapoError, ValueError):
    """A corpus file that is missing or has a line that is not a passage."""


class IndexFileError(StapoError, OSError):
    """A search index or passage store that is missing, damaged, of another version, or could not be written."""


class _Counted(Exception):
    """A failure of a server; failures are counted by kind.

    Attributes:
        kind: what went wrong, in one word.
    """

    def __init__(self, message: str, kind: str = "failed") -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[_Counted], tuple[str, str]]:
        return type(self), (str(self), self.kind)


class RetrieverError(_Counted, StapoError, ConnectionError):
    """A retriever that could not be reached or answered with something else than passages.

    Attributes:
        kind: what went wrong, in one word: "refused", "timeout", "http_500", "malformed", "empty", "slow", "closed", or
            "failed" where nothing is known.
    """


class EnvServerError(_Counted, StapoError, ConnectionError):
    """A server that plays an environment could not be reached, or answered with something else than the protocol says.

    Attributes:
        kind: what went wrong, in one word: "refused", "timeout", "http_401" and the like, "closed", "malformed",
            "too_large", or a code of the server's in lower case, such as "capacity_reached".
    """


class EndpointError(_Counted, StapoError, ConnectionError):
    """A model's server that cannot be reached or lets nobody in.

    Attributes:
        kind: what went wrong, in one word: "refused", "timeout", "http_401" and the like, or "closed".
    """


class DeadlineError(StapoError, TimeoutError):
    """Something that was awaited did not come in time; the message names it."""


class FailureLimitError(StapoError, RuntimeError):
    """Too many episodes in a row, or all of an evaluation, failed for reasons that are not the policy's."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest known name, or an empty string, also for what is not a text."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5) if isinstance(name, str) else []
    return f" Did you mean '{close[0]}'?" if close else ""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """Build the error for a name that is not among `known`, with the closest one and a short list.

    A name that is not a text is shown as Python writes it, with its type.
    """
    names = sorted(known)
    shown = ", ".join(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else "")
    if not isinstance(name, str):
        found = f"{escape_control_chars(repr(name)[:80])}, which is {type(name).__name__}, not a text"
        return UnknownNameError(f"unknown {kind} {found}. Known: {shown or 'none'}.")
    name = escape_control_chars(name if len(name) <= 80 else f"{name[:79]}…")
    return UnknownNameError(f"unknown {kind} '{name}'.{did_you_mean(name, names)} Known: {shown or 'none'}.")


@contextmanager
def reading(what: str, error: type[StapoError]) -> Iterator[None]:
    """A block that reads `what`; where it cannot, `error` says so, and why."""
    try:
        yield
    except OSError as err:
        raise error(f"{what} cannot be read: {err.strerror or err}.") from err


def first_line(err: BaseException, most: int | None = None) -> str:
    """The first line of what an error of others says, without its full stop; its type where it says nothing."""
    lines = str(err).strip().splitlines()
    return lines[0][:most].rstrip(".") if lines else type(err).__name__


@contextmanager
def writing(what: str, remark: str = "", error: type[StapoError] = RunDirectoryError) -> Iterator[None]:
    """A block that writes `what`; where it cannot, `error` says so, why, and the remark."""
    try:
        yield
    except OSError as err:
        raise error(f"{what} cannot be written: {err.strerror or err}.{remark}") from err


@contextmanager
def files_named() -> Iterator[None]:
    """A block that works with files that a user has named; what the system says of one is an error of ours."""
    try:
        yield
    except OSError as err:
        if isinstance(err, StapoError) or err.filename is None:
            raise
        raise RunDirectoryError(f"'{err.filename}' cannot be used: {err.strerror or err}.") from err
