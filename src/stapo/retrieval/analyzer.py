"""From text to index terms, with the results of Lucene's ``EnglishAnalyzer``.

Words are those of Unicode Standard Annex 29 (https://www.unicode.org/reports/tr29/), emoji included. Then: a possessive
``'s`` goes, letters become lower-case, 33 stop words go, and what is left is stemmed (`stapo.retrieval.porter`).

The annex has moved since Lucene's grammar was written: newer versions break words at a colon. Here ``a:b`` is one
word, as in Lucene. That is why the rules are spelled out instead of asking a library for the boundaries of the day; the
classes of characters they speak of come from the `regex` package.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Protocol

import regex

from stapo.retrieval.porter import stem

_EVERYWHERE = "a an and are be by for in is it of on or that the this to with"
SMALL_WORDS = frozenset(_EVERYWHERE.split())
"""What every list of stop words here has; each adds words of its own."""

_OF_LUCENE = "as at but if into no not such their then there these they was will"
STOP_WORDS = SMALL_WORDS | frozenset(_OF_LUCENE.split())
"""Lucene's English stop words."""

LONGEST_TOKEN = 255
"""Characters of the longest token; what is longer is cut into pieces of this length, as Lucene does."""

# Version 17 of the standard took these out of Extended_Pictographic (a black star, musical notes, chess pieces).
_PICTURES = (
    r"\u2388\u2600-\u2605\u2607-\u2612\u2614-\u2685\u2690-\u2705\u2708-\u2712\u2763-\u2767\U0001F000-\U0001F0FF"
    r"\U0001F10D-\U0001F10F\U0001F12F\U0001F16C-\U0001F171\U0001F1AD-\U0001F1E5\U0001F249-\U0001F3FA"
    r"\U0001F400-\U0001F53D\U0001F546-\U0001F64F\U0001F680-\U0001F6FF\U0001F774-\U0001F77F\U0001F7D5-\U0001F7FF"
    r"\U0001F80C-\U0001F80F\U0001F848-\U0001F84F\U0001F85A-\U0001F85F\U0001F888-\U0001F88F\U0001F8AE-\U0001F8FF"
    r"\U0001F90C-\U0001F93A\U0001F93C-\U0001F945\U0001F947-\U0001FAFF\U0001FC00-\U0001FFFD"
)


class Analyzer(Protocol):
    """Turns a text into terms.

    Attributes:
        name: names the analyzer and its version; an index remembers it and refuses another one's queries.
    """

    @property
    def name(self) -> str:
        """Name and version."""
        ...

    def __call__(self, text: str) -> list[str]:
        """The terms of a text, in order."""
        ...


def _word_pattern() -> str:
    """Rules WB4 to WB16 of the annex as one pattern."""
    follow = r"[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]*"
    letter = rf"[\p{{WB=ALetter}}\p{{WB=Hebrew_Letter}}]{follow}"
    hebrew = rf"\p{{WB=Hebrew_Letter}}{follow}"
    number = rf"\p{{WB=Numeric}}{follow}"
    katakana = rf"\p{{WB=Katakana}}{follow}"
    joiner = rf"\p{{WB=ExtendNumLet}}{follow}"
    # The colons, which newer versions of the annex took out of this class.
    in_word = rf"[\p{{WB=MidLetter}}\p{{WB=MidNumLet}}':：︓﹕]{follow}"
    in_number = rf"[\p{{WB=MidNum}}\p{{WB=MidNumLet}}']{follow}"
    run = (
        rf"(?:{hebrew}\"{follow}(?={hebrew})|{letter}(?:{in_word}(?={letter}))?"
        rf"|{number}(?:{in_number}(?={number}))?|(?<={hebrew})'{follow})+"
    )
    part = rf"(?:{run}|(?:{katakana})+)"
    joiners = rf"(?:{joiner})"
    word = rf"{joiners}*+{part}(?:{joiners}++{part})*{joiners}*+"
    # Scripts without blanks: South East Asian runs stay whole, ideographs and hiragana are single.
    runs = rf"(?:\p{{LB=Complex_Context}}{follow})+"
    single = rf"[\p{{Script=Han}}\p{{Script=Hiragana}}]{follow}"
    # Emoji: flags, key caps, and sequences joined by a ZWJ. U+FE0E asks for the text form, which is not an emoji.
    variant = r"(?!\uFE0E)(?:\uFE0F\u20E3?|\p{Emoji_Modifier})?[\U000E0020-\U000E007F]*"
    picture = rf"[\p{{Extended_Pictographic}}{_PICTURES}]{variant}"
    emoji = rf"[0-9#*]\uFE0F?\u20E3|\p{{RI}}\p{{RI}}{follow}|{picture}(?:\u200D{picture})*{follow}"
    # Joiners that join nothing are passed over at once: a search from each of them would be quadratic.
    return rf"({emoji}|{word}|{runs}|{single})|{joiners}++"


_WORD = regex.compile(_word_pattern())
# The same rules where every character is ASCII: no marks, no scripts, no emoji. Several times faster.
_RUN_ASCII = r"(?:[A-Za-z]+(?:[:.'](?=[A-Za-z]))?|[0-9]+(?:[.,;'](?=[0-9]))?)+"
_WORD_ASCII = regex.compile(rf"(_*+{_RUN_ASCII}(?:_++{_RUN_ASCII})*_*+)|_++")
_APOSTROPHES = "'\u2019\uff07"


def words(text: str) -> Iterator[str]:
    """The words of a text as Lucene's standard tokenizer finds them, case and all."""
    for word in (_WORD_ASCII if text.isascii() else _WORD).findall(text):
        if not word:
            continue
        if len(word) <= LONGEST_TOKEN:
            yield word
        else:
            yield from (word[i : i + LONGEST_TOKEN] for i in range(0, len(word), LONGEST_TOKEN))


def _lower(word: str) -> str:
    """Lower-case character by character, as Java's does: the length stays and a final sigma is a sigma."""
    if word.isascii():
        return word.lower()
    return "".join(character.lower()[0] for character in word)


# Most words of a text have been seen before.
@lru_cache(maxsize=1 << 18)
def _term(word: str) -> str | None:
    """The term of a word, None for a stop word."""
    if len(word) > 1 and word[-1] in "sS" and word[-2] in _APOSTROPHES:
        word = word[:-2]
    word = _lower(word)
    return None if word in STOP_WORDS else stem(word)


class LuceneAnalyzer:
    """Lucene's ``EnglishAnalyzer``: the terms that Anserini and WebShop index and search with."""

    name = "lucene-english-1"

    def __call__(self, text: str) -> list[str]:
        """The terms of a text, in order, repeats included."""
        return [term for term in map(_term, words(text)) if term is not None]
