"""Words that a text shares with the goal, marked: the comparison that a policy from scratch would have to learn first.

A pretrained model matches "rose gold" in a goal with "Rose Gold" on a page without being told. A policy of a million
parameters that saw a thousand products knows them by heart instead. A star behind each shared word is something it can
count; it chose options better for being told which are asked for, and products that it had not seen no better
(docs/results/webshop.md).
"""

from __future__ import annotations

import re
from functools import lru_cache

MARK = "*"
_WORD = re.compile(r"[^\W_]+")
# Words without a subject of their own, and those that every task of the shipped worlds has.
_LISTED = (
    "a an and are as at be by can dollars find for from i if in is it like looking lower me my need no not of on "
    "or please price some than that the them these this to want with would you your"
)
_EMPTY_WORDS = frozenset(_LISTED.split())


def mark_shared(text: str, goal: str) -> str:
    """Put `MARK` behind every word of `text` that `goal` has as well.

    Case and a final "s" make no difference; words such as "the" or "price" are never marked.
    """
    wanted = _words_of(goal)
    return _WORD.sub(lambda found: found[0] + MARK if _plain(found[0]) in wanted else found[0], text)


def covers(goal: str, text: str) -> bool:
    """Whether `goal` has every word of `text`, of which at least one is worth marking."""
    words = _words_of(text)
    return bool(words) and words <= _words_of(goal)


def first_mention(goal: str, text: str) -> int:
    """Index of the word of `goal` at which `text` begins, else of the first that is in `text`, else past its last."""
    said, words = ([_plain(word) for word in _WORD.findall(part)] for part in (goal, text))
    places = range(len(said))
    together = (place for place in places if said[place : place + len(words)] == words)
    return next(together, next((place for place in places if said[place] in words), len(said)))


@lru_cache(maxsize=4096)
def _words_of(goal: str) -> frozenset[str]:
    return frozenset(_plain(word) for word in _WORD.findall(goal) if word.casefold() not in _EMPTY_WORDS)


def _plain(word: str) -> str:
    word = word.casefold()
    return word[:-1] if len(word) > 3 and word.endswith("s") else word
