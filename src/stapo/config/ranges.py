"""What holds for the value of every setting, whatever it means: numbers that arithmetic can bear, text that is text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from stapo.documents import shown
from stapo.errors import ConfigError

MOST_COUNT = 2**31 - 1
MOST_SEED = 2**63 - 1
_LARGEST, _SMALLEST = 1e12, 1e-30  # inside, a product of two settings is a float32 that is neither inf nor 0
_OPTIONS = "env.options."  # what a number means there, and which are too large, is the environment's to say
_LONGEST_TEXT, _DEEPEST, _MOST_ITEMS = 65_536, 8, 10_000


def check_least(config: Any, group: str, **least: int) -> None:
    """Check that whole numbers of a group of settings are not too small.

    Args:
        config: the group.
        group: its dotted path, for messages.
        least: smallest value of each setting.

    Raises:
        ConfigError: one is smaller.
    """
    for name, smallest in least.items():
        if getattr(config, name) < smallest:
            raise ConfigError(f"{group}.{name} is {getattr(config, name)}, expected at least {smallest}.")


def check_values(config: Any, where: str = "") -> None:
    """Check every value in a tree of settings.

    Args:
        config: a dataclass that holds numbers, texts, tuples, mappings and dataclasses.
        where: its dotted path, for messages.

    Raises:
        ConfigError: an integer or a float that is far too large (or a float too small, infinite or NaN), a text with
            control characters or half characters, or a value that a configuration file cannot hold. The message has
            the dotted name.
    """
    for field in fields(config):
        name, value = f"{where}.{field.name}" if where else field.name, getattr(config, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            check_values(value, name)
        else:
            _check(name, value, MOST_SEED if name == "seed" else MOST_COUNT, 0)


def _check(name: str, value: Any, most: int, depth: int) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, int | float) and name.startswith(_OPTIONS):
        return
    if isinstance(value, int):
        if abs(value) > most:
            raise ConfigError(f"{name} is {shown(value)}, expected at most {most:,}.")
    elif isinstance(value, float):
        if not math.isfinite(value) or abs(value) > _LARGEST or 0 < abs(value) < _SMALLEST:
            raise ConfigError(f"{name} is {value}, expected a finite number, 0 or {_SMALLEST:g} to {_LARGEST:g}.")
    elif isinstance(value, str):
        _check_text(name, value)
    elif isinstance(value, list | tuple | Mapping):
        _check_items(name, value, most, depth)
    else:
        raise ConfigError(
            f"{name} is {shown(value)}, which is {type(value).__name__}; expected text, a number, true, false, null, a "
            "list or a mapping."
        )


def _check_items(name: str, value: Any, most: int, depth: int) -> None:
    if depth == _DEEPEST or len(value) > _MOST_ITEMS:
        what = f"nested more than {_DEEPEST} deep" if depth == _DEEPEST else f"{len(value):,} items long"
        raise ConfigError(f"{name} is {what}; expected what a person can write.")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isprintable():
                raise ConfigError(f"{name} has the key {shown(key)}, expected names.")
            _check(f"{name}.{key}", item, most, depth + 1)
    else:
        for place, item in enumerate(value):
            _check(f"{name}[{place}]", item, most, depth + 1)


def _check_text(name: str, text: str) -> None:
    if len(text) > _LONGEST_TEXT:
        raise ConfigError(f"{name} has {len(text):,} characters, expected at most {_LONGEST_TEXT:,}.")
    bad = next((c for c in text if (c < " " and c not in "\n\t") or c == "\x7f" or "\ud800" <= c <= "\udfff"), None)
    if bad is not None:
        raise ConfigError(f"{name} is {shown(text)}, with the character U+{ord(bad):04X}; expected plain text.")
