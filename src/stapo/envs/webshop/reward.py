"""What a purchase is worth.

score = r_type x (matched attributes + matched options + [price within the limit]) / (attributes + options + 1).
Matching is lenient, as in the original: synthetic goals' options are compared as (name, value) pairs, in which a chosen
"large" also matches a wanted "x-large".

The nouns of titles tell how alike two products are. The original asks a spaCy model for them, which has to be installed
by hand; the built-in rule takes every word that is not among a few. The choice moves partial scores of other products
only: the product that a goal was made from always is its kind.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rapidfuzz.fuzz import token_set_ratio
from rapidfuzz.utils import default_process

from stapo.checks import check_choice
from stapo.envs.webshop.goals import ShoppingGoal
from stapo.envs.webshop.product import Product
from stapo.errors import ConfigError
from stapo.retrieval.analyzer import SMALL_WORDS

Nouns = Callable[[str], Sequence[str]]
"""Gives the nouns of a title, lower-case, repeats included."""

CLOSE = 85
"""Two texts are alike if the ratio of their words, rounded, is above this."""

# Characters of the second half of Latin-1 are dropped before comparing, others are kept.
_DROPPED = dict.fromkeys(range(128, 256))


@dataclass(frozen=True, slots=True)
class Score:
    """The worth of a purchase and what it is made of.

    Attributes:
        total: 0 … 1; 1 is success.
        r_type: factor for the kind of product: 1, 0.5, 0.1 or 0.
        r_att: share of the goal's attributes that match.
        r_option: share of the goal's options that match, None where the goal names none.
        r_price: the price is within the limit.
        query_match: found under the same search term.
        category_match: two parts of the category path are shared.
        title_score: share of the goal title's nouns that the bought title has.
        attributes: how many the goal asks for.
        options: how many the goal asks for.
    """

    total: float
    r_type: float
    r_att: float
    r_option: float | None
    r_price: bool
    query_match: bool
    category_match: bool
    title_score: float
    attributes: int
    options: int

    def details(self) -> dict[str, Any]:
        """The parts, under the names that the original gives them; w_* are the shares of each part."""
        parts = self.attributes + self.options + 1
        found: dict[str, Any] = {
            "r_type": self.r_type,
            "r_att": self.r_att,
            "w_att": self.attributes / parts,
            "query_match": self.query_match,
            "category_match": self.category_match,
            "title_score": self.title_score,
        }
        if self.r_option is not None:
            found |= {"r_option": self.r_option, "w_option": self.options / parts}
        return found | {"r_price": self.r_price, "w_price": 1 / parts}


def score(bought: Product, price: float, chosen: Sequence[str], goal: ShoppingGoal, nouns: Nouns) -> Score:
    """Judge a purchase."""
    query_match = bought.query == goal.query
    category_match = len(_parts(bought.product_category) & _parts(goal.product_category)) >= 2
    wanted = nouns(goal.title)
    title_score = len(set(nouns(bought.title)) & set(wanted)) / len(wanted) if wanted else 0.2
    r_type = 1.0 if query_match or category_match or title_score > 0.2 else 0.5
    if title_score < 0.1:
        r_type = 0.1
    if title_score == 0:
        r_type = 0.0
    attributes = sum(_has(bought, attribute) for attribute in goal.attributes)
    options = sum(any(option_matches(value, option) for value in chosen) for option in goal.options)
    r_price = price <= goal.price_upper
    count, asked = len(goal.attributes), len(goal.options)
    return Score(
        total=(attributes + options + r_price) / (count + asked + 1) * r_type,
        r_type=r_type,
        r_att=attributes / count if count else 1.0,
        r_option=options / asked if asked else None,
        r_price=r_price,
        query_match=query_match,
        category_match=category_match,
        title_score=title_score,
        attributes=count,
        options=asked,
    )


def _parts(product_category: str) -> set[str]:
    return {part.strip() for part in product_category.split("›")}


def _has(product: Product, attribute: str) -> bool:
    texts = (product.title, " ".join(product.bullets), product.description)
    return any(_close(own, attribute) for own in product.attributes) or any(attribute in t.lower() for t in texts)


def option_matches(chosen: str, wanted: tuple[str, str] | str) -> bool:
    """Whether a chosen option value counts as a wanted one."""
    return _close(normalized(chosen), _as_text(wanted))


def _as_text(option: tuple[str, str] | str) -> str:
    if isinstance(option, str):
        return normalized(option)
    # A pair counts as a color only where its name or its value is that very word, as in the original.
    return next((color for color in COLORS if color in option), str(option))


def _close(one: str, other: str) -> bool:
    return round(token_set_ratio(comparable(one), comparable(other))) > CLOSE


def comparable(text: str) -> str:
    """A text as the ratio sees it: lower-case words."""
    return str(default_process(text.translate(_DROPPED)))


_WORDS = """
    alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo
    caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream
    crystal dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey heather
    indigo ivory ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha
    multicolor mushroom mustard natural navy nude olive orange peach pewter pink plum purple rainbow red rose royal
    rust sand sapphire seashell silver skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise
    violet walnut wheat white wine yellow
"""

COLORS = tuple(_WORDS.split())
"""In matching order, which is alphabetical."""


def normalized(value: str) -> str:
    """The first color word that is contained in `value`, or `value` itself."""
    return next((color for color in COLORS if color in value), value)


_TITLE_WORD = re.compile(r"[A-Za-z0-9]+")
_OF_TITLES = "from at as its your you our we s t x"
_NO_NOUNS = SMALL_WORDS | frozenset(_OF_TITLES.split())
SPACY_MODEL = "en_core_web_sm"


@lru_cache(maxsize=65_536)
def builtin_nouns(title: str) -> tuple[str, ...]:
    """Lower-case words of two or more characters, with a letter, without common small words."""
    words = (word.lower() for word in _TITLE_WORD.findall(title))
    return tuple(w for w in words if len(w) > 1 and not w.isdigit() and w not in _NO_NOUNS)


def _spacy_nouns() -> Nouns:
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


EXTRACTORS: dict[str, Callable[[], Nouns]] = {
    "builtin": lambda: builtin_nouns,
    "spacy": _spacy_nouns,
}


@lru_cache(maxsize=4)
def noun_extractor(name: str) -> Nouns:
    """The noun extractor called `name`.

    Raises:
        ConfigError: there is none, or it is not installed.
    """
    return EXTRACTORS[check_choice("noun_extractor", name, EXTRACTORS)]()
