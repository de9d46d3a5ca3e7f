"""What is asked for: goals of a catalog, their price limits, and how they are numbered.

The original engine draws prices and price limits with Python's `random` while it loads, in product order, and then
shuffles the list of goals. The same draws are made here without making the goals: a goal is a product, a number within
that product (one combination of option values, or one person's instruction) and that product's limit, and is put into
words when it is played. A catalog with millions of goals costs a few numbers per product.

A goal's id is `ASIN/number`, so it does not depend on any draw.
"""

from __future__ import annotations

import random
import weakref
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from stapo.envs.webshop.product import Product
from stapo.errors import ConfigError, GameFileError, unknown_name

if TYPE_CHECKING:
    from stapo.envs.webshop.catalog import Catalog

GoalKind = Literal["synthetic", "human"]

NO_LIMIT = 1_000_000.0
"""Price limit of goals whose text names none."""

_STEP, _STEPS = 10.0, 99
_CHOICES = 4
MOST_SHUFFLED = 20_000_000
"""Goals that a shuffled order is made for; the original holds them all in memory."""


@dataclass(frozen=True, slots=True)
class ShoppingGoal:
    """One thing to buy.

    Attributes:
        asin: the product that was in mind; others may do.
        title: its title.
        category: its category.
        query: its search term.
        product_category: its path of categories.
        instruction: the task sentence.
        attributes: attributes asked for.
        price_upper: highest price in dollars.
        options: (name, value) pairs of a synthetic goal, values alone of a human one (pairs, if its file names them).
    """

    asin: str
    title: str
    category: str
    query: str
    product_category: str
    instruction: str
    attributes: list[str]
    price_upper: float
    options: list[tuple[str, str]] | list[str]


class TaskIds(Sequence[str]):
    """Sorted ids of the goals of some products, made when they are asked for.

    Args:
        asins: ids of the products, sorted by "asin/".
        counts: goals of each.
        width: digits of the numbers.
    """

    def __init__(self, asins: Sequence[str], counts: np.ndarray, width: int) -> None:
        self._asins = asins
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._counts = counts
        self._width = width

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"task {index} of {len(self)}")
        row = bisect_right(self._ends, at)
        number = at - int(self._ends[row] - self._counts[row])
        return f"{self._asins[row]}/{number:0{self._width}}"


_OPEN: weakref.WeakValueDictionary[tuple[object, ...], GoalBook] = weakref.WeakValueDictionary()


def goal_book(catalog: Catalog, kind: GoalKind, price_seed: int) -> GoalBook:
    """The goals of a catalog; environments of one process share them."""
    key = (id(catalog), kind, price_seed)
    found = _OPEN.get(key)
    # A book keeps its catalog alive, so an id in here is not used a second time.
    if found is None:
        found = _OPEN[key] = GoalBook(catalog, kind, price_seed)
    return found


class GoalBook:
    """The goals of a catalog.

    Args:
        catalog: the products.
        kind: "synthetic" or "human".
        price_seed: seed of the draws that the original makes while loading.
        drawn_before: numbers of 32 bits that something else in the program has drawn from the same generator.

    Attributes:
        counts: goals of each product.
        total: goals of all.
        splits: splits that were made of them, by rule and seed.
        notes: what is to be said about splits, by rule, seed and most goals of a product.

    Raises:
        GameFileError: nobody asks for anything in this catalog.
    """

    def __init__(self, catalog: Catalog, kind: GoalKind, price_seed: int, *, drawn_before: int = 0) -> None:
        self.catalog = catalog
        self.kind = kind
        counts = catalog.column("combinations" if kind == "synthetic" else "requests")
        self._prices, limits = _draw(catalog, kind, price_seed, drawn_before)
        # One limit per asking product, or one per person's instruction.
        self._limits = limits
        self.counts = counts
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.total = int(self._starts[-1])
        if not self.total:
            raise GameFileError(
                f"no {kind} goal in {catalog.source}: "
                + (
                    "no product has an instruction in the attributes file. Give the attributes file of these products."
                    if kind == "synthetic"
                    else "no product has a human instruction. Give human_goals=PATH of items_human_ins.json."
                )
            )
        self.splits: dict[tuple[str, int], dict[str, Sequence[str]]] = {}
        self.notes: dict[tuple[str, int, int | None], list[str]] = {}
        self.width = max(3, len(str(int(counts.max()) - 1)))

    @cached_property
    def all_ids(self) -> TaskIds:
        """Sorted ids of all goals."""
        return self.ids()

    def price(self, product: int) -> float:
        """The price of a product in dollars; one out of its range is drawn once."""
        return float(self._prices[product])

    def ids(self, products: np.ndarray | None = None) -> TaskIds:
        """Sorted ids of the goals of some products (mask over the catalog), or of all."""
        order = self.catalog.column("order")
        asking = self.counts[order] > 0
        if products is not None:
            asking &= products[order]
        rows = order[asking]
        return TaskIds([str(a) for a in self.catalog.column("asins")[rows]], self.counts[rows], self.width)

    def id_of(self, number: int) -> str:
        """Id of the goal with a number in the order of the catalog."""
        product = bisect_right(self._starts, number) - 1
        asin = self.catalog.column("asins")[product]
        return f"{asin}/{number - int(self._starts[product]):0{self.width}}"

    def shuffled(self, seed: int) -> list[int]:
        """Numbers of all goals in the order that the original shuffles them to.

        Raises:
            ConfigError: too many goals.
        """
        if self.total > MOST_SHUFFLED:
            raise ConfigError(
                f"{self.total} goals are too many to shuffle (at most {MOST_SHUFFLED}). Choose splits=disjoint."
            )
        numbers = list(range(self.total))
        random.Random(seed).shuffle(numbers)
        return numbers

    def find(self, task_id: str) -> tuple[int, int]:
        """Product and number of a task id.

        Raises:
            UnknownNameError: there is no such goal.
        """
        asin, _, digits = task_id.rpartition("/") if isinstance(task_id, str) else ("", "", "")
        product = self.catalog.find(asin)
        number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) == self.width else -1
        if product is None or not 0 <= number < self.counts[product]:
            ids = self.all_ids
            raise unknown_name("task", task_id, [ids[0], ids[len(ids) // 2], ids[len(ids) - 1]])
        return product, number

    def goal(self, product: int, number: int) -> ShoppingGoal:
        """One goal, put into words."""
        row = self.catalog.product(product)
        if self.kind == "synthetic":
            limit = float(self._limits[product])
            asked, attributes = row.instruction or "", row.instruction_attributes
            options: Any = _combination(row, number)
            if options:
                asked += " with " + ", and ".join(f"{name}: {value}" for name, value in options)
        else:
            limit = float(self._limits[int(self._starts[product]) + number])
            request = row.requests[number]
            asked, attributes, options = request.instruction.strip("."), request.attributes, request.options
        if limit < NO_LIMIT:
            asked += f", and price lower than {limit:.2f} dollars"
        return ShoppingGoal(
            asin=row.asin,
            title=row.title,
            category=row.category,
            query=row.query,
            product_category=row.product_category,
            instruction=asked,
            attributes=attributes,
            price_upper=limit,
            options=options,
        )


def _combination(product: Product, number: int) -> list[tuple[str, str]]:
    """Option values of a numbered combination: names sorted, the last name's values change fastest."""
    chosen = []
    for name in sorted(product.options, reverse=True):
        number, at = divmod(number, len(product.options[name]))
        chosen.append((name, product.options[name][at]))
    return chosen[::-1]


def _draw(catalog: Catalog, kind: GoalKind, seed: int, drawn_before: int) -> tuple[np.ndarray, np.ndarray]:
    """Prices per product, and limits: per product of synthetic goals, per instruction of human ones."""
    rng = random.Random(seed)
    for _ in range(drawn_before):
        rng.getrandbits(32)
    low, high = catalog.column("low"), catalog.column("high")
    prices = np.array(low)
    # A range is drawn from even where its ends are equal.
    for product in np.flatnonzero(catalog.column("ranged")):
        prices[product] = rng.uniform(float(low[product]), float(high[product]))
    if kind == "synthetic":
        limits = np.full(len(low), NO_LIMIT)
        for product in np.flatnonzero(catalog.column("asked")):
            limits[product] = _limit(rng, float(prices[product]))
        return prices, limits
    requests = catalog.column("requests")
    asking = np.flatnonzero(requests)
    return prices, np.array([_limit(rng, float(prices[p])) for p in asking for _ in range(int(requests[p]))])


def highest_limit(price: float) -> float:
    """The highest price limit that can be drawn for a product of a price."""
    above = _steps_above(price)
    return above[-1] * _STEP if len(above) >= 2 else NO_LIMIT


def _limit(rng: random.Random, price: float) -> float:
    above = _steps_above(price)
    if len(above) < 2:
        return NO_LIMIT
    return max(rng.sample(above, 2)) * _STEP


def _steps_above(price: float) -> range:
    # Steps are 10, 20 … 990 dollars; those above the price, strictly.
    first = max(1, int(price // _STEP) + 1)
    return range(first, _STEPS + 1)[:_CHOICES]
