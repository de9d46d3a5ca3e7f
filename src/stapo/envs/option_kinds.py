"""Options of environments against the types that their classes name: which value is of another kind, in words.

What an environment says of its options itself is better: it knows their range. This is for what it does not look at.
"""

from __future__ import annotations

import inspect
import os
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from stapo.documents import shown

_WORDS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "null",
    os.PathLike: "a path", Mapping: "a mapping", dict: "a mapping",
}  # fmt: skip
_LISTS = (Sequence, list, tuple, Iterable)


def options_of(cls: Any) -> dict[str, inspect.Parameter]:
    """Options of the class of an environment, with their types where its module can say them.

    Raises:
        TypeError, ValueError: the class does not say which options it takes.
    """
    try:
        signature = inspect.signature(cls, eval_str=True)
    except Exception:  # annotations are code of others, and may name what is imported for type checkers alone
        signature = inspect.signature(cls)
    return dict(signature.parameters)


def takes_mapping(option: inspect.Parameter) -> bool | None:
    """Whether an option is a mapping, whose names may be given one by one; None where its type is not known."""
    if option.annotation is option.empty or isinstance(option.annotation, str):
        return None
    return any(_kind(part) in (Mapping, dict) for part in _parts(option.annotation))


def wrong_kind(cls: Any, options: Mapping[str, Any]) -> str:
    """The first option whose value is not of the type that its class names; "" where there is none.

    Types that are not plain (classes of the environment's own) are taken to fit, and so is a default.
    """
    known = options_of(cls)
    for name, value in options.items():
        option = known.get(name)
        if option is None or option.annotation is option.empty or value is option.default:
            continue
        if not _fits(value, option.annotation):
            return f"{name} is {shown(value)}, expected {_in_words(option.annotation)}."
    return ""


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _kind(hint: Any) -> Any:
    return get_origin(hint) or hint


def _fits(value: object, hint: Any) -> bool:
    return any(_fits_part(value, part) for part in _parts(hint))


def _fits_part(value: object, hint: Any) -> bool:
    kind = _kind(hint)
    if kind is Literal:
        return value in get_args(hint)
    if kind is None or kind is type(None):
        return value is None
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    if kind in (str, bool, Mapping, dict, os.PathLike):
        return isinstance(value, Mapping if kind is dict else kind)
    if kind in _LISTS:
        items = get_args(hint)[:1]
        return isinstance(value, list | tuple) and all(_fits(item, items[0]) for item in value if items)
    return True


def _in_words(hint: Any) -> str:
    words = [_word(part) for part in _parts(hint)]
    return " or ".join(dict.fromkeys(words))


def _word(hint: Any) -> str:
    kind = _kind(hint)
    if kind is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    if kind in _LISTS:
        return "a list"
    return _WORDS.get(type(None) if kind is None else kind, getattr(kind, "__name__", str(kind)))
