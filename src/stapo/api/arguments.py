"""What a program gives the functions of `stapo`: a mistake is one error that names the argument."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from typing import Any, ParamSpec, TypeVar, get_type_hints

from stapo import type_hints
from stapo.documents import shown
from stapo.errors import ConfigError, files_named

P = ParamSpec("P")
R = TypeVar("R")


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
        return type_hints.fitting(value, hint, least)
    except (TypeError, OverflowError):
        bound = "" if least is None else f" of {least:g} or more"
        expected = type_hints.expected(hint)
        raise ConfigError(f"{name} is {shown(value)}, expected {expected}{bound}.") from None
