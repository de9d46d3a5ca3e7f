"""Tasks of two splits that are the same but for how they are written."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


def plain_text(text: str) -> str:
    """A text without what does not make it another: case, width of letters, blanks, marks at its end."""
    # Folding can undo a composition, so that it is composed again.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    plain = " ".join(folded.split())
    end = len(plain)
    while end and (plain[end - 1].isspace() or unicodedata.category(plain[end - 1]).startswith("P")):
        end -= 1
    # A text of nothing but marks is what it is.
    return plain[:end] or plain
