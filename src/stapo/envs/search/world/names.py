"""Names of a made-up world, put together from syllables; every kind of name has endings of its own."""

from __future__ import annotations

import random
from collections.abc import Iterator

_HEADS = (
    "al", "ar", "bel", "bor", "cal", "cor", "dar", "del", "dor", "el", "fal", "fen", "gar", "gil", "hal", "hel", "ib",
    "jal", "jor", "kal", "ker", "kor", "lam", "len", "lor", "mal", "mer", "mor", "nal", "ner", "nor", "ol", "or", "pel",
    "por", "quil", "ral", "ren", "ros", "sal", "sel", "sor", "tal", "tem", "tor", "ul", "val", "ven", "vor", "wal",
    "wen", "yal", "yor", "zal", "zen",
)  # fmt: skip
_MIDDLES = ("", "a", "an", "da", "e", "en", "i", "is", "la", "mi", "o", "ri", "so", "ti", "u", "va")
_TAILS = {
    "first": ("a", "ia", "o", "us", "ette", "in", "ys", "ard"),
    "family": ("sk", "ov", "ham", "kin", "dal", "mont", "stra", "ner"),
    "town": ("wick", "mere", "holt", "ford", "stead", "by", "haven", "combe"),
    "company": ("ex", "tec", "corp", "works", "line", "ium", "soft", "gram"),
    "river": ("isk", "ane", "wen", "ash", "onne", "ude", "imar", "ell"),
}
TRADES = (
    "baker", "carpenter", "painter", "doctor", "farmer", "pilot", "tailor", "weaver", "miller", "potter", "smith",
    "teacher", "fisher", "gardener", "glazier", "printer",
)  # fmt: skip


def words(kind: str, count: int, rng: random.Random, taken: set[str]) -> list[str]:
    """Draw `count` new names of a kind, shortest syllables first, and add them to `taken`.

    Args:
        kind: "first", "family", "town", "company" or "river".
        count: at most some thousands.
        rng: decides which.
        taken: names that exist already, lower-case.
    """
    found: list[str] = []
    for word in _endless(kind, rng):
        if word not in taken:
            taken.add(word)
            found.append(word.capitalize())
        if len(found) == count:
            break
    return found


def _endless(kind: str, rng: random.Random) -> Iterator[str]:
    tails = _TAILS[kind]
    # One middle syllable at a time: small worlds have short names, large ones take as many as they need.
    for middle in (*_MIDDLES, *(a + b for a in _MIDDLES[1:] for b in _MIDDLES[1:])):
        layer = [head + middle + tail for head in _HEADS for tail in tails]
        rng.shuffle(layer)
        yield from layer
