"""Checks of values given for options of an environment; each names the option, what was found and what is expected."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from stapo.errors import ConfigError, did_you_mean


def whole(option: str, value: object, least: int) -> int:
    """A whole number of at least `least`; True and False do not count. Raises ConfigError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{option} must be a whole number of at least {least}, found {value!r}.")
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
