"""Checks of values that a user sets; each error names the setting, what was found and what is expected."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from stapo.documents import plain, shown
from stapo.errors import ConfigError, did_you_mean

MOST = 2**63 - 1
"""Largest whole number that a setting may be: what arrays of numbers hold."""

DAY_S = 86_400.0
"""Seconds that a setting may be at most: clocks and sockets take no more than some years."""


def check_integer(name: str, value: Any, low: int, high: int = MOST) -> int:
    """A whole number from `low` to `high`; True and False do not count. Raises ConfigError."""
    value = plain(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and low <= value <= high:
        return int(value)
    bounded = high != MOST or (whole and value > high)
    expected = f"from {low} to {high:,}" if bounded else f"of {low} or more"
    raise ConfigError(f"{name} is {shown(value)}, expected a whole number {expected}.")


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    null: bool = False,
) -> float:
    """A finite number from `low` to `high`; True and False do not count. Raises ConfigError.

    With `open_low` or `open_high` the end itself is not in the range. `null` says that the setting may be null, which
    the caller has looked at.
    """
    value = plain(value)
    finite = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if finite and (value > low if open_low else value >= low) and (value < high if open_high else value <= high):
        return float(value)
    if high == math.inf:
        words = "a finite number" if low == -math.inf else f"a number above {low:g}" if open_low else ""
        words = words or f"a number of {low:g} or more"
    elif open_low:
        words = f"a number between {low:g} and {high:,g}" if open_high else f"a number above {low:g}, at most {high:,g}"
    else:
        words = f"a number from {low:g} to {'below ' if open_high else ''}{high:,g}"
    raise ConfigError(f"{name} is {shown(value)}, expected {words}{', or null' if null else ''}.")


def check_choice(name: str, value: object, known: Iterable[str]) -> str:
    """One of the known names. Raises ConfigError; the message proposes the closest one."""
    names = list(known)
    if not isinstance(value, str) or value not in names:
        raise ConfigError(f"{name} is {shown(value)}, expected one of {', '.join(names)}.{did_you_mean(value, names)}")
    return value


def check_flag(name: str, value: object) -> bool:
    """True or False. Raises ConfigError."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {shown(value)}, expected true or false.")
    return value


def check_text(name: str, value: object, expected: str) -> str:
    """A text that is not blank. Raises ConfigError; `expected` says what it should be."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{name} is {shown(value)}, expected {expected}.")
    return value


def check_least(config: Any, group: str, **least: int) -> None:
    """Check that whole numbers of a group of settings are not too small. Raises ConfigError."""
    for name, low in least.items():
        check_integer(f"{group}.{name}", getattr(config, name), low)


def check_numbers(config: Any, group: str, *names: str, low: float = -math.inf, **limits: Any) -> None:
    """Check numbers of a group of settings that have one range; see `check_number`. Raises ConfigError."""
    for name in names:
        check_number(f"{group}.{name}", getattr(config, name), low, **limits)


def check_choices(config: Any, group: str, **kinds: Any) -> None:
    """Check settings of a group that are names out of a `Literal` each. Raises ConfigError."""
    for name, kind in kinds.items():
        check_choice(f"{group}.{name}", getattr(config, name), get_args(kind))


def user_path(given: str | os.PathLike[str]) -> Path:
    """The path meant, with `~` and `$VARIABLES` filled in."""
    return Path(os.path.expandvars(os.fspath(given))).expanduser()
