"""Which words of a title count as its nouns: they tell how alike two products are.

The original asks a spaCy model, which has to be installed by hand; the built-in rule takes every word that is not among
a few. The choice moves partial scores of other products only: the product that a goal was made from always is its kind.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from stapo.checks import check_choice
from stapo.errors import ConfigError
from stapo.retrieval.analyzer import SMALL_WORDS

_WORD = re.compile(r"[A-Za-z0-9]+")
_OF_TITLES = "from at as its your you our we s t x"
_NO_NOUNS = SMALL_WORDS | frozenset(_OF_TITLES.split())
SPACY_MODEL = "en_core_web_sm"


@lru_cache(maxsize=65_536)
def builtin_nouns(title: str) -> tuple[str, ...]:
    """Lower-case words of two or more characters, with a letter, without common small words."""
    words = (word.lower() for word in _WORD.findall(title))
    return tuple(w for w in words if len(w) > 1 and not w.isdigit() and w not in _NO_NOUNS)


def _spacy_nouns() -> Callable[[str], tuple[str, ...]]:
    try:
        pipeline: Any = importlib.import_module("spacy").load(SPACY_MODEL)
    except (ImportError, OSError) as err:
        raise ConfigError(
            f"noun_extractor=spacy needs spaCy and its model {SPACY_MODEL}, found neither or one alone ({err}). "
            f"Install both (python -m spacy download {SPACY_MODEL}), or choose noun_extractor=builtin."
        ) from err

    @lru_cache(maxsize=65_536)
    def nouns(title: str) -> tuple[str, ...]:
        return tuple(token.text.lower() for token in pipeline(title) if token.pos_ in ("NOUN", "PROPN"))

    return nouns


EXTRACTORS: dict[str, Callable[[], Callable[[str], tuple[str, ...]]]] = {
    "builtin": lambda: builtin_nouns,
    "spacy": _spacy_nouns,
}


@lru_cache(maxsize=4)
def noun_extractor(name: str) -> Callable[[str], tuple[str, ...]]:
    """The noun extractor called `name`.

    Raises:
        ConfigError: there is none, or it is not installed.
    """
    return EXTRACTORS[check_choice("noun_extractor", name, EXTRACTORS)]()
