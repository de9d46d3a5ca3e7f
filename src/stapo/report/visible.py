"""Text by models and environments, as a page or a terminal can show it."""

from __future__ import annotations

import re
import unicodedata

_SUSPECT = re.compile(r"[^\n\t\x20-\x7e]")
_HIDDEN_CATEGORIES = ("Cc", "Cs", "Co", "Cn")
_DIRECTION_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str) -> str:
    r"""Spell out what would act instead of show: control codes, lone surrogates, changes of direction as \\u{…}."""
    return _SUSPECT.sub(_spelled, text)


def _spelled(match: re.Match[str]) -> str:
    c = match.group()
    if unicodedata.category(c) in _HIDDEN_CATEGORIES or c in _DIRECTION_CONTROLS:
        return f"\\u{{{ord(c):x}}}"
    return c
