"""Blocks between tags, such as ``<answer>…</answer>``, found in one pass over the text.

A pattern such as ``<answer>(.*?)</answer>`` looks through the whole rest of a text again for every opening tag that is
never closed, and models write thousands of those. What reads responses looks for blocks here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a text.

    Attributes:
        kind: the name of its tags, as it was asked for.
        start: where its opening tag begins.
        end: where its closing tag ends.
        text: what stands between the two.
    """

    kind: str
    start: int
    end: int
    text: str


def first_block(text: str, kinds: Sequence[str], ignore_case: bool = False) -> Block | None:
    """The first block of any of these kinds: the earliest opening tag that has a closing tag of its kind behind it.

    It reaches to the next closing tag of its kind, so an opening tag inside it belongs to its text.
    """
    found: Block | None = None
    for kind in kinds:
        opening, closing = (_pattern(tag, ignore_case) for tag in (f"<{kind}>", f"</{kind}>"))
        begin = opening.search(text)
        finish = closing.search(text, begin.end()) if begin else None
        if begin and finish and (found is None or begin.start() < found.start):
            found = Block(kind, begin.start(), finish.end(), text[begin.end() : finish.start()])
    return found


def blocks(text: str, kind: str) -> Iterator[Block]:
    """Every block of a kind, in order; none inside another."""
    opening, closing = f"<{kind}>", f"</{kind}>"
    at = 0
    while True:
        start = text.find(opening, at)
        finish = text.find(closing, start + len(opening)) if start >= 0 else -1
        if finish < 0:
            return
        at = finish + len(closing)
        yield Block(kind, start, at, text[start + len(opening) : finish])


@lru_cache(maxsize=64)
def _pattern(tag: str, ignore_case: bool) -> re.Pattern[str]:
    # Lower-casing the text instead can change its length, and with it every position.
    return re.compile(re.escape(tag), re.IGNORECASE | re.ASCII if ignore_case else 0)
