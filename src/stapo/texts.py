"""Text from outside (environments, models, servers, files), made fit for the ways out of this process.

A terminal or a page must show it and not obey it, UTF-8 must be able to hold it, and no message may give away a
secret. Everything that lets such text out calls these functions instead of its own version of them.
"""

from __future__ import annotations

import re
import unicodedata

_SUSPECT = re.compile(r"[^\n\t\x20-\x7e]")
_HIDDEN_CATEGORIES = ("Cc", "Cs", "Co", "Cn")
_DIRECTION_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def escape_control_chars(text: str) -> str:
    r"""Spell out what would act instead of show: control codes, lone surrogates, changes of direction as \\u{…}."""
    return _SUSPECT.sub(_spelled, text)


def replace_surrogates(text: str) -> str:
    """Put a question mark in the place of each lone surrogate, which UTF-8 cannot hold; other text is unchanged."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _spelled(match: re.Match[str]) -> str:
    c = match.group()
    if unicodedata.category(c) in _HIDDEN_CATEGORIES or c in _DIRECTION_CONTROLS:
        return f"\\u{{{ord(c):x}}}"
    return c
