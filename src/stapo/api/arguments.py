"""What a program gives the functions of `stapo`: a mistake is one error that names the argument."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from inspect import Parameter, signature
from types import UnionType
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from stapo.documents import plain, shown
from stapo.errors import ConfigError, files_named

P = ParamSpec("P")
R = TypeVar("R")

_WORDS: dict[Any, str] = {
    bool: "True or False", int: "a whole number", float: "a number", str: "a text", type(None): "None",
    os.PathLike: "a path", Mapping: "a mapping",
}  # fmt: skip


def checked(**least: float) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function check its arguments by their annotations before it begins.

    Numbers of NumPy become Python's, and lists tuples. An error of the system about a file becomes one of ours.

    Args:
        least: the smallest number that an argument, or an item of it, may be.

    Raises:
        ConfigError: by the function, where an argument is of another type or too small.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        form = signature(function)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                bound = form.bind(*args, **kwargs)
            except TypeError:
                return function(*args, **kwargs)  # whose own message names the function
            hints = get_type_hints(function)
            for name, value in bound.arguments.items():
                # `Callbacks` checks those, and settings have a schema.
                if name in hints and name != "callbacks" and form.parameters[name].kind != Parameter.VAR_KEYWORD:
                    bound.arguments[name] = fitting(name, value, hints[name], least.get(name))
            with files_named():
                return function(*bound.args, **bound.kwargs)

        return call

    return decorate


def fitting(name: str, value: object, hint: Any, least: float | None = None) -> Any:
    """The value, as its annotation has it.

    Raises:
        ConfigError: it is something else.
    """
    try:
        return _fitting(plain(value), hint, least)
    except (TypeError, OverflowError):
        bound = "" if least is None else f" of {least:g} or more"
        raise ConfigError(f"{name} is {shown(value)}, expected {_words(hint)}{bound}.") from None


def _fitting(value: Any, hint: Any, least: float | None) -> Any:
    kind = get_origin(hint) or hint
    if hint is Any:
        return value
    if kind in (Union, UnionType):
        for option in get_args(hint):
            with suppress(TypeError, OverflowError):
                return _fitting(value, option, least)
    elif kind is Sequence:
        if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
            return tuple(_fitting(plain(item), get_args(hint)[0], least) for item in value)
    elif kind in (int, float):
        if not isinstance(value, bool | str):
            number = operator.index(value) if kind is int else float(value)
            if least is None or (math.isfinite(number) and number >= least):
                return number
    elif isinstance(value, kind) and not (isinstance(value, str | os.PathLike) and "\0" in os.fspath(value)):
        return value
    raise TypeError


def _words(hint: Any) -> str:
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType):
        # None is what leaving the argument out means.
        *others, last = [_words(option) for option in get_args(hint) if option is not type(None)]
        return f"{', '.join(others)} or {last}" if others else last
    if kind is Sequence:
        return f"a list, each item {_words(get_args(hint)[0])}"
    return _WORDS.get(kind, f"a stapo.{getattr(kind, '__name__', kind)}")
