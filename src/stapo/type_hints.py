"""Values against the types that functions and classes name for them: what fits, as which value, and what is expected.

Arguments of the public functions and options of environments are checked by it; settings have a schema (`config`).
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from stapo.documents import plain

_WORDS: dict[Any, str] = {
    bool: "True or False", int: "a whole number", float: "a number", str: "a text", NoneType: "None",
    os.PathLike: "a path", Mapping: "a mapping", dict: "a mapping",
}  # fmt: skip
_CHECKED = (bool, str, NoneType, os.PathLike, Mapping, dict)
_LISTS = (Sequence, list, tuple, Iterable)


def fitting(value: object, hint: Any, least: float | None = None) -> Any:
    """The value as the type has it: numbers of NumPy become Python's, and lists tuples.

    Args:
        value: anything.
        hint: a type; classes of other packages than ours are taken to fit every value.
        least: the smallest number that the value, or an item of it, may be.

    Raises:
        TypeError, OverflowError: it does not fit.
    """
    kind, value = _kind(hint), plain(value)
    if kind in (Union, UnionType):
        for option in get_args(hint):
            with suppress(TypeError, OverflowError):
                return fitting(value, option, least)
    elif kind is Literal:
        if value in get_args(hint):
            return value
    elif kind in _LISTS:
        if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
            return tuple(fitting(item, (get_args(hint) or (Any,))[0], least) for item in value)
    elif kind in (int, float):
        if not isinstance(value, bool | str | bytes):
            number = operator.index(value) if kind is int else float(value)  # type: ignore[arg-type]
            if least is None or (math.isfinite(number) and number >= least):
                return number
    elif not (kind in _CHECKED or _is_ours(kind)) or (
        isinstance(value, Mapping if kind is dict else kind)
        and not (isinstance(value, str | os.PathLike) and "\0" in os.fspath(value))
    ):
        return value
    raise TypeError


def expected(hint: Any) -> str:
    """A type in words for a message; None, which stands for leaving the value out, is not among them."""
    kind = _kind(hint)
    if kind in (Union, UnionType):
        words = [expected(option) for option in get_args(hint) if option is not NoneType]
        *others, last = dict.fromkeys(words)
        return f"{', '.join(others)} or {last}" if others else last
    if kind is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    if kind in _LISTS:
        items = get_args(hint)[:1]
        return f"a list, each item {expected(items[0])}" if items and items[0] is not Any else "a list"
    name = getattr(kind, "__name__", str(kind))
    return _WORDS.get(kind, f"a stapo.{name}" if _is_ours(kind) else name)


def takes(hint: Any, *kinds: Any) -> bool:
    """Whether one of these types is the one named, or one of several."""
    options = get_args(hint) if _kind(hint) in (Union, UnionType) else (hint,)
    return any(_kind(option) in kinds for option in options)


def _kind(hint: Any) -> Any:
    return NoneType if hint is None else get_origin(hint) or hint


def _is_ours(kind: Any) -> bool:
    return isinstance(kind, type) and kind.__module__.startswith("stapo.")
