"""Checks of values given for options of an environment; each names the option, what was found and what is expected."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from stapo.documents import shown
from stapo.errors import ConfigError, did_you_mean

MOST = 2**63 - 1
"""Largest whole number that an option may be: what arrays of numbers hold."""

DAY_S = 86_400.0
"""Seconds that an option may be at most: clocks and sockets take no more than some years."""


def whole(option: str, value: object, least: int, most: int = MOST) -> int:
    """A whole number from `least` to `most`; True and False do not count. Raises ConfigError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{option} must be a whole number of at least {least}, found {shown(value)}.")
    if value > most:
        raise ConfigError(f"{option} must be a whole number from {least} to {most:,}, found {shown(value)}.")
    return value


def positive(option: str, value: object, most: float) -> float:
    """A number above 0, up to `most`; True and False do not count. Raises ConfigError."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= most:
        raise ConfigError(f"{option} is {shown(value)}, expected a number above 0, at most {most:,.0f}.")
    return float(value)


def text(option: str, value: object, expected: str) -> str:
    """A text that is not blank. Raises ConfigError; `expected` says what it should be."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{option} is {shown(value)}, expected {expected}.")
    return value


def share(option: str, value: object) -> float:
    """A number from 0 to 1; True and False do not count. Raises ConfigError."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ConfigError(f"{option} is {value!r}, expected a number from 0 to 1.")
    return float(value)


def switch(option: str, value: object) -> bool:
    """True or False. Raises ConfigError."""
    if not isinstance(value, bool):
        raise ConfigError(f"{option} must be true or false, found {value!r}.")
    return value


def one_of(option: str, value: object, known: Iterable[str]) -> str:
    """One of the known names. Raises ConfigError; the message proposes the closest one."""
    names = list(known)
    if not isinstance(value, str) or value not in names:
        raise ConfigError(
            f"{option} is {value!r}, expected one of {', '.join(names)}.{did_you_mean(str(value), names)}"
        )
    return value


def user_path(given: str | os.PathLike[str]) -> Path:
    """The path meant, with `~` and `$VARIABLES` filled in."""
    return Path(os.path.expandvars(os.fspath(given))).expanduser()
