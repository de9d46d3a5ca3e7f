"""Porter's stemmer, in the form that Lucene runs.

The algorithm is M. F. Porter, "An algorithm for suffix stripping", Program 14(3), 1980, with the two departures that
its author made later and recommends: ``bli`` becomes ``ble`` (the article has ``abli`` to ``able``), and ``logi``
becomes ``log``. Words of one or two letters are left alone. Only lower-case ``a`` to ``z`` have a meaning here; every
other character counts as a consonant, as in Lucene.
"""

from __future__ import annotations

from itertools import pairwise

_VOWELS = frozenset("aeiou")

# Keyed by the last letter but one, longest suffix first where one ends with another.
_DOUBLE_SUFFIXES: dict[str, tuple[tuple[str, str], ...]] = {
    "a": (("ational", "ate"), ("tional", "tion")),
    "c": (("enci", "ence"), ("anci", "ance")),
    "e": (("izer", "ize"),),
    "l": (("bli", "ble"), ("alli", "al"), ("entli", "ent"), ("eli", "e"), ("ousli", "ous")),
    "o": (("ization", "ize"), ("ation", "ate"), ("ator", "ate")),
    "s": (("alism", "al"), ("iveness", "ive"), ("fulness", "ful"), ("ousness", "ous")),
    "t": (("aliti", "al"), ("iviti", "ive"), ("biliti", "ble")),
    "g": (("logi", "log"),),
}
_SHORTENED: tuple[tuple[str, str], ...] = (
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
)
_DROPPED: dict[str, tuple[str, ...]] = {
    "a": ("al",),
    "c": ("ance", "ence"),
    "e": ("er",),
    "i": ("ic",),
    "l": ("able", "ible"),
    "n": ("ant", "ement", "ment", "ent"),
    "o": ("ion", "ou"),
    "s": ("ism",),
    "t": ("ate", "iti"),
    "u": ("ous",),
    "v": ("ive",),
    "z": ("ize",),
}


def _consonant(word: str, i: int) -> bool:
    letter = word[i]
    if letter in _VOWELS:
        return False
    # A y is a consonant at the start and after a vowel; a row of them alternates.
    return letter != "y" or i == 0 or not _consonant(word, i - 1)


def _has_vowel(stem: str) -> bool:
    return any(not _consonant(stem, i) for i in range(len(stem)))


def _measure(stem: str) -> int:
    """How often a consonant follows a vowel: m in the article's [C](VC)^m[V]."""
    kinds = [_consonant(stem, i) for i in range(len(stem))]
    return sum(after and not before for before, after in pairwise(kinds))


def _double_consonant(word: str) -> bool:
    return len(word) > 1 and word[-1] == word[-2] and _consonant(word, len(word) - 1)


def _short_end(word: str) -> bool:
    """Ends with consonant, vowel, consonant, the last not w, x or y: where an e was lost (hop(e), fil(e))."""
    n = len(word)
    return (
        n > 2
        and _consonant(word, n - 1)
        and not _consonant(word, n - 2)
        and _consonant(word, n - 3)
        and word[-1] not in "wxy"
    )


def _plural(word: str) -> str:
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith("ies"):
        return word[:-2]
    if word.endswith("s") and word[-2] != "s":
        return word[:-1]
    return word


def _past_or_gerund(word: str) -> str:
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    stem = word[:-2] if word.endswith("ed") else word[:-3] if word.endswith("ing") else None
    if stem is None or not _has_vowel(stem):
        return word
    if stem.endswith(("at", "bl", "iz")):
        return stem + "e"
    if _double_consonant(stem):
        return stem if stem[-1] in "lsz" else stem[:-1]
    return stem + "e" if _measure(stem) == 1 and _short_end(stem) else stem


def _final_y(word: str) -> str:
    return word[:-1] + "i" if word.endswith("y") and _has_vowel(word[:-1]) else word


def _replace_first(word: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for suffix, replacement in pairs:
        if word.endswith(suffix):
            stem = word[: -len(suffix)]
            return stem + replacement if _measure(stem) > 0 else word
    return word


def _drop_suffix(word: str) -> str:
    for suffix in _DROPPED.get(word[-2:-1], ()):
        if word.endswith(suffix):
            stem = word[: -len(suffix)]
            if suffix == "ion" and not stem.endswith(("s", "t")):
                continue
            return stem if _measure(stem) > 1 else word
    return word


def _tidy(word: str) -> str:
    stem = word
    if word.endswith("e"):
        m = _measure(word[:-1])
        if m > 1 or (m == 1 and not _short_end(word[:-1])):
            stem = word[:-1]
    return stem[:-1] if stem.endswith("ll") and _measure(word) > 1 else stem


def stem(word: str) -> str:
    """Stem one lower-case word, e.g. ``"relational"`` to ``"relat"``; at most two letters come back unchanged."""
    if len(word) < 3:
        return word
    word = _final_y(_past_or_gerund(_plural(word)))
    word = _replace_first(word, _DOUBLE_SUFFIXES.get(word[-2:-1], ()))
    word = _replace_first(word, _SHORTENED)
    return _tidy(_drop_suffix(word))
