"""Dataclass trees from and to plain data (YAML, JSON): strict, with "did you mean" for unknown keys."""

from __future__ import annotations

import json
import math
import os
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from stapo.algo import AlgorithmConfig, get_algorithm
from stapo.documents import parse_yaml, plain, read_text, shown
from stapo.errors import ConfigError, did_you_mean
from stapo.policy import LoraConfig

T = TypeVar("T")

CHOSEN = ("model.dtype", "log.threads")
"""Settings whose `auto` was decided where the run began; asked for again, it means what was decided."""

MOST_YAML_BYTES = 100_000
"""Size of a configuration file; the longest that are written are 10 kB."""

MOST_COUNT = 2**31 - 1
MOST_SEED = 2**63 - 1
_LARGEST, _SMALLEST = 1e12, 1e-30  # inside, a product of two settings is a float32 that is neither inf nor 0
_OPTIONS = re.compile(
    r"(env|envs\.[^.]*)\.options\."
)  # what a number means there, and which are too large, is the environment's to say
_LONGEST_TEXT, _DEEPEST, _MOST_ITEMS = 65_536, 8, 10_000
_BEYOND = 2**64
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,4})?")


def from_data(cls: type[T], data: Any, where: str = "", base: T | None = None) -> T:
    """Build dataclass `cls` from nested mappings.

    Args:
        cls: the dataclass.
        data: mapping of field names to values; nested dataclasses are nested mappings. An algorithm may also be
            given by its preset name, or as a mapping whose `name` picks the preset that the other keys change. No
            adapters at all may be given as null.
        where: dotted path of `data` in the whole, for messages.
        base: values of the keys that `data` leaves out; the field defaults where None.

    Raises:
        ConfigError: an unknown key (the closest one is proposed) or a value of the wrong type.
    """
    if cls is AlgorithmConfig and isinstance(data, str):
        return get_algorithm(data)  # type: ignore[return-value]
    if not isinstance(data, Mapping):
        keys = ", ".join(field.name for field in fields(cls)[:3])  # type: ignore[arg-type]
        what = where or "configuration"
        raise ConfigError(f"{what} is {shown(data)}, expected a mapping with keys such as {keys}.")
    if cls is AlgorithmConfig and "name" in data:
        base = get_algorithm(_scalar(str, data["name"], _join(where, "name")))  # type: ignore[assignment]
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in known:
            raise ConfigError(
                f"unknown key '{_join(where, _key(key))}'.{did_you_mean(_key(key), known)} "
                f"Keys here: {', '.join(sorted(known))}."
            )
        inner = getattr(base, key) if base is not None else _default(known[key])
        values[key] = _convert(hints[key], value, _join(where, key), inner)
    if base is not None:
        return replace(base, **values)  # type: ignore[type-var]
    return cls(**values)


def to_data(value: Any) -> Any:
    """Turn a dataclass tree into plain dicts, lists and scalars that YAML and JSON can hold.

    Paths become text, and scalars of NumPy Python's.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_data(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_data(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_data(v) for v in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else plain(value)


def read_yaml(path: Path) -> Any:
    """Read one YAML file (safe loader).

    Raises:
        ConfigError: missing, not a plain file, too large or not YAML; file and line are named.
    """
    try:
        found = parse_yaml(read_text(path, MOST_YAML_BYTES))
    except OSError as err:
        raise ConfigError(f"configuration file '{path}' cannot be read: {err.strerror or err}.") from err
    except ValueError as err:
        raise ConfigError(f"configuration file '{path}' cannot be used: {err}. Expected a YAML mapping.") from err
    return {} if found is None else found


def _key(key: object) -> str:
    text = key if isinstance(key, str) and key.isprintable() else shown(key)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _convert(hint: Any, value: Any, where: str, base: Any) -> Any:
    origin = get_origin(hint)
    if hint is LoraConfig and value is None:
        return LoraConfig()
    if is_dataclass(hint):
        return from_data(hint, value, where, base)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        options = get_args(hint)
        if value is None and type(None) in options:
            return None
        # A word among numbers, such as auto, stands beside them as a Literal.
        named = next((o for o in options if get_origin(o) is Literal and value in get_args(o)), None)
        return _convert(named or next(o for o in options if o is not type(None)), value, where, base)
    if origin is Literal:
        if value not in get_args(hint):
            raise ConfigError(
                f"{where} is {shown(value)}, expected one of {', '.join(map(repr, get_args(hint)))}."
                + did_you_mean(_key(value), map(str, get_args(hint)))
            )
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} is {shown(value)}, expected a list.")
        return tuple(_convert(get_args(hint)[0], v, where, None) for v in value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} is {shown(value)}, expected a mapping.")
        inner, base = get_args(hint)[1], base or {}
        if is_dataclass(inner):
            return {
                **base,
                **{
                    key: from_data(inner, {} if part is None else part, _join(where, _key(key)), base.get(key))  # type: ignore[arg-type]
                    for key, part in value.items()
                },
            }
        return {**base, **{k: _convert(inner, v, _join(where, _key(k)), None) for k, v in value.items()}}
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and (type(value) in (int, float) or (isinstance(value, str) and _NUMBER.fullmatch(value))):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except OverflowError:
            pass
    elif hint is Any or (type(value) is hint and hint in (int, bool, str)):
        if type(value) is int and abs(value) >= _BEYOND:
            raise ConfigError(f"{where} is {shown(value)}, expected a number of at most 19 digits.")
        return value
    raise ConfigError(f"{where} is {shown(value)}, expected {getattr(hint, '__name__', hint)}.")


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
        _check(name, value, MOST_SEED if name == "seed" else MOST_COUNT, 0)


def _check(name: str, value: Any, most: int, depth: int) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, int | float) and _OPTIONS.match(name):
        return
    if is_dataclass(value) and not isinstance(value, type):
        check_values(value, name)
    elif isinstance(value, int):
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


def setting_paths(data: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Nested settings as dotted path -> value."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        path = f"{where}.{key}" if where else str(key)
        found |= setting_paths(value, path) if isinstance(value, Mapping) and value else {path: value}
    return found


def differing(
    old: Mapping[str, Any], new: Mapping[str, Any], *, decided: bool = False
) -> Iterable[tuple[str, Any, Any]]:
    """Settings that differ: (dotted path, old value, new value); a missing one is None.

    Args:
        old: nested settings.
        new: others.
        decided: `auto` in `new` means what was decided in `old` (see `CHOSEN`).
    """
    one, two = setting_paths(old), setting_paths(new)
    for path in sorted(one.keys() | two.keys()):
        if decided and path in CHOSEN and two.get(path) == "auto":
            continue
        # As text: not a number is not equal to itself.
        if json.dumps(one.get(path), default=str) != json.dumps(two.get(path), default=str):
            yield path, one.get(path), two.get(path)
