"""Dataclass trees from and to plain data (YAML, JSON): strict, with "did you mean" for unknown keys."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from stapo.algo import AlgorithmConfig, get_algorithm
from stapo.errors import ConfigError, did_you_mean
from stapo.policy import LoraConfig

T = TypeVar("T")


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
        raise ConfigError(f"{where or 'configuration'} is {data!r}, expected a mapping of {cls.__name__} keys.")
    if cls is AlgorithmConfig and "name" in data:
        base = get_algorithm(str(data["name"]))  # type: ignore[assignment]
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in known:
            raise ConfigError(
                f"unknown key '{_join(where, str(key))}'.{did_you_mean(str(key), known)} "
                f"Keys here: {', '.join(sorted(known))}."
            )
        inner = getattr(base, key) if base is not None else _default(known[key])
        values[key] = _convert(hints[key], value, _join(where, key), inner)
    if base is not None:
        return replace(base, **values)  # type: ignore[type-var]
    return cls(**values)


def to_data(value: Any) -> Any:
    """Turn a dataclass tree into plain dicts, lists and scalars that YAML and JSON can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_data(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_data(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_data(v) for v in value]
    return value


def read_yaml(path: Path) -> Any:
    """Read one YAML file (safe loader).

    Raises:
        ConfigError: missing, unreadable or not YAML; file and line are named.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as err:
        raise ConfigError(f"configuration file '{path}' cannot be read: {err.strerror or err}.") from err
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        mark = getattr(err, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(err, "problem", None) or "not UTF-8 text"
        raise ConfigError(f"configuration file '{path}' is not YAML{line}: {problem}.") from err


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
        return _convert(next(o for o in options if o is not type(None)), value, where, base)
    if origin is Literal:
        if value not in get_args(hint):
            raise ConfigError(
                f"{where} is {value!r}, expected one of {', '.join(map(repr, get_args(hint)))}."
                + did_you_mean(str(value), map(str, get_args(hint)))
            )
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} is {value!r}, expected a list.")
        return tuple(_convert(get_args(hint)[0], v, where, None) for v in value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} is {value!r}, expected a mapping.")
        return {**(base or {}), **value}
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and not isinstance(value, bool) and isinstance(value, int | float | str):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except (ValueError, OverflowError):
            pass
    elif hint is Any or (type(value) is hint and hint in (int, bool, str)):
        return value
    raise ConfigError(f"{where} is {value!r}, expected {getattr(hint, '__name__', hint)}.")
