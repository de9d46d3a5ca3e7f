"""Which products may be bought for one another: goals that they share must not be parted into training and a test.

Two products are substitutes if buying the one can score 1 on a goal of the other, or if both are asked for in the same
words. Groups are closed: a substitute of a substitute also belongs to them. They do not depend on the seed of the
prices: a product counts as cheap enough if some draw makes it so. Kinds of products are compared with the built-in noun
rule.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from rapidfuzz.fuzz import token_set_ratio
from rapidfuzz.process import cdist

from stapo.envs.overlap import plain_text
from stapo.envs.webshop.goals import GoalBook, ShoppingGoal, highest_limit
from stapo.envs.webshop.product import Product
from stapo.envs.webshop.reward import CLOSE, builtin_nouns, comparable, option_matches, score
from stapo.progress import tell

MOST_WORK = 20_000_000_000
MOST_PRODUCTS = 20_000
"""Characters to look through (attributes times texts) and products that are asked for, about half a minute; beyond
them, only the words of goals are compared. The full catalog of the release is."""

_ROWS = 256
_TOLD = 1_000


@dataclass(frozen=True, slots=True)
class Substitutes:
    """The groups of a catalog.

    Attributes:
        groups: number of the first product of its group, per product; -1 for those that nobody asks for.
        compared: purchases were compared; otherwise only the words of goals.
    """

    groups: np.ndarray
    compared: bool


_KNOWN: weakref.WeakKeyDictionary[GoalBook, Substitutes] = weakref.WeakKeyDictionary()


class _Groups:
    """Products that are put together bit by bit; a group is known by its first one."""

    def __init__(self, products: Sequence[int]) -> None:
        self.of = {product: product for product in products}

    def first(self, product: int) -> int:
        while self.of[product] != product:
            self.of[product] = self.of[self.of[product]]
            product = self.of[product]
        return product

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self.first(one), self.first(other)))
        self.of[second] = first


def substitutes(book: GoalBook) -> Substitutes:
    """The groups of products that a list of goals asks for; made once."""
    found = _KNOWN.get(book)
    if found is None:
        found = _KNOWN[book] = _substitutes(book)
    return found


def _substitutes(book: GoalBook) -> Substitutes:
    asking = np.flatnonzero(book.counts)
    groups = _Groups(asking.tolist())
    said: dict[str, int] = {}
    wanted: dict[str, int] = {}
    length = 0
    for done, product in enumerate(map(int, asking)):
        row = book.catalog.product(product)
        for text, attributes in _asked(book, row):
            groups.join(product, said.setdefault(plain_text(text), product))
            for attribute in attributes:
                wanted.setdefault(attribute, len(wanted))
        length += len(_text(row))
        if done % _TOLD == 0:
            tell("comparing goals", done)
    compared = len(wanted) * length <= MOST_WORK and len(asking) <= MOST_PRODUCTS
    if compared:
        _join_buyable(book, asking, wanted, groups)
    found = np.full(len(book.counts), -1, dtype=np.int64)
    for product in groups.of:
        found[product] = groups.first(product)
    return Substitutes(found, compared)


def _asked(book: GoalBook, row: Product) -> Iterator[tuple[str, Sequence[str]]]:
    """The words of a product's goals, without options and price, and the attributes that they ask for."""
    if book.kind == "synthetic":
        yield row.instruction or "", row.instruction_attributes
    else:
        for request in row.requests:
            yield request.instruction, request.attributes


def _text(row: Product) -> str:
    return "\0".join((row.title, " ".join(row.bullets), row.description)).lower()


def _join_buyable(book: GoalBook, asking: np.ndarray, wanted: dict[str, int], groups: _Groups) -> None:
    """Join products of which a purchase of the one can score 1 on a goal of the other."""
    rows = [book.catalog.product(int(product)) for product in asking]
    has = _attributes(rows, wanted)
    low = np.asarray(book.catalog.column("low"))[asking]
    for at, (product, row) in enumerate(zip(asking.tolist(), rows, strict=True)):
        limit = highest_limit(float(book.catalog.column("high")[product]))
        for goal, wanted_options in _goals(book, product, row):
            maybe = low <= limit
            for attribute in goal.attributes:
                maybe &= has[wanted[attribute]]
            alone = replace(goal, options=[], price_upper=limit)
            for other in np.flatnonzero(maybe).tolist():
                buyable = int(asking[other])
                # In a large shop nearly all of them are together by then.
                if groups.first(buyable) == groups.first(product):
                    continue
                bought = rows[other]
                worth = score(bought, float(low[other]), [], alone, builtin_nouns)
                if worth.total == 1 and _offers(bought, wanted_options):
                    groups.join(buyable, product)
        if at % _TOLD == 0:
            tell("comparing products", at)


def _goals(
    book: GoalBook, product: int, row: Product
) -> Iterator[tuple[ShoppingGoal, Sequence[Sequence[tuple[str, str] | str]]]]:
    """Goals of a product, all combinations of its options as one, with the options that they ask for one of."""
    if book.kind == "synthetic":
        yield book.goal(product, 0), [[(name, value) for value in values] for name, values in row.options.items()]
        return
    for number in range(len(row.requests)):
        goal = book.goal(product, number)
        yield goal, [[option] for option in goal.options]


def _offers(bought: Product, wanted: Sequence[Sequence[tuple[str, str] | str]]) -> bool:
    """Whether a product has, of each list of options, one that counts."""
    values = [value for offered in bought.options.values() for value in offered]
    return all(any(option_matches(value, option) for option in options for value in values) for options in wanted)


def _attributes(rows: Sequence[Product], wanted: dict[str, int]) -> np.ndarray:
    """Which product has which attribute, by the rules of the score: attributes x products."""
    names: dict[str, int] = {}
    owners: list[int] = []
    own: list[int] = []
    for at, row in enumerate(rows):
        for attribute in row.attributes:
            own.append(names.setdefault(comparable(attribute), len(names)))
            owners.append(at)
    has = np.zeros((len(wanted), len(rows)), dtype=bool)
    asked = [comparable(attribute) for attribute in wanted]
    at_row, of_name = np.array(owners, dtype=np.int64), np.array(own, dtype=np.int64)
    for first in range(0, len(asked) if names else 0, _ROWS):
        # Half a point below: the score rounds.
        close = (
            cdist(asked[first : first + _ROWS], list(names), scorer=token_set_ratio, dtype=np.float64) >= CLOSE + 0.5
        )
        for number, line in enumerate(close, start=first):
            has[number, at_row[line[of_name]]] = True
    texts = [_text(row) for row in rows]
    for attribute, number in wanted.items():
        has[number] |= np.fromiter((attribute in text for text in texts), dtype=bool, count=len(texts))
    return has
