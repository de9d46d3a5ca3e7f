"""Tasks of two splits that are the same but for how they are written."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping


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


def in_common(keys: Mapping[str, Iterable[str]]) -> list[tuple[str, str, int, int, list[str]]]:
    """Which splits hold the same tasks.

    Args:
        keys: split -> a key for each of its tasks, equal for equal tasks.

    Returns:
        For each pair of splits with common keys: the first, the second, tasks of the second whose key is in the first,
        all tasks of the second, and up to three of the keys, sorted.
    """
    listed = {split: list(every) for split, every in keys.items()}
    names = list(listed)
    found = []
    for at, first in enumerate(names):
        known = set(listed[first])
        for second in names[at + 1 :]:
            common = [key for key in listed[second] if key in known]
            if common:
                found.append((first, second, len(common), len(listed[second]), sorted(set(common))[:3]))
    return found
