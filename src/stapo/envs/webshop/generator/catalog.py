"""Whole shops: the list of products and the two instruction files, in memory or as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from stapo.envs.draws import Draws
from stapo.envs.webshop.generator.families import ProductFacts, families
from stapo.envs.webshop.generator.records import Record, human, product, synthetic
from stapo.envs.webshop.generator.sizes import Size, size_named
from stapo.errors import ConfigError

MOST_PRODUCTS = 36**6


class Article(NamedTuple):
    """One product of a stream: its records for the three files, and what it was made from.

    Attributes:
        product: for items_shuffle.json.
        synthetic: for items_ins_v2.json, under the product's asin.
        human: for items_human_ins.json, under the product's asin; empty where the product is not asked for.
        facts: the facts behind the words; `facts.lacks` says what a distractor lacks.
    """

    product: Record
    synthetic: Record
    human: list[Record]
    facts: ProductFacts


def generate_catalog(
    products: int | None = None, seed: int = 0, size: str = "standard"
) -> tuple[list[Record], dict[str, Record], dict[str, list[Record]]]:
    """Make a shop.

    Args:
        products: how many; None for the size's own number.
        seed: another seed, another shop. The same arguments give the same shop on every machine and Python version.
        size: "tiny" or "standard"; see `stapo.envs.webshop.generator.sizes`.

    Returns:
        The contents of items_shuffle.json, items_ins_v2.json and items_human_ins.json.

    Raises:
        ConfigError: an argument that cannot be used.
    """
    listed, by_asin, requests = [], {}, {}
    for article in iter_products(products, seed, size):
        asin = article.product["asin"]
        listed.append(article.product)
        by_asin[asin] = article.synthetic
        if article.human:
            requests[asin] = article.human
    return listed, by_asin, requests


def iter_products(products: int | None = None, seed: int = 0, size: str = "standard") -> Iterator[Article]:
    """The same shop one product at a time, in constant memory.

    Raises:
        ConfigError: an argument that cannot be used; raised at the first product.
    """
    chosen = size_named(size)
    count = chosen.products if products is None else products
    for name, value, least in (("products", count, 1), ("seed", seed, 0)):
        if type(value) is not int or not least <= value <= MOST_PRODUCTS:
            raise ConfigError(
                f"{name} is {value!r}, expected a whole number from {least} to {MOST_PRODUCTS}. "
                f"The size '{size}' has {chosen.products} products by itself."
            )
    made = (facts for group in families(chosen, seed) for facts in group)
    for number, facts in enumerate(islice(made, count)):
        asin = _asin(number, count, seed, chosen)
        draws = Draws(f"webshop words {seed} {number}")
        yield Article(product(facts, asin, chosen, draws), synthetic(facts, chosen), human(facts, asin, draws), facts)


def _asin(number: int, count: int, seed: int, size: Size) -> str:
    """An id that no other product of the shop has: numbers are mapped one to one onto a range, out of order."""
    offset = Draws(f"webshop ids {seed}").below(MOST_PRODUCTS)
    if size.short_ids:
        return _short_id(number, count, offset)
    # 1,000,003 is prime and no divisor of 36.
    rest = (number * 1_000_003 + offset) % MOST_PRODUCTS
    letters = ""
    for _ in range(6):
        rest, digit = divmod(rest, 36)
        letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[digit] + letters
    # "G0" at the front: no id of a generated product can be taken for a real one, which begin with "B0".
    return f"G0{letters}00"[:10]


def _short_id(number: int, count: int, offset: int) -> str:
    """Letters and digits in turn, so that a tokenizer that cuts between them has few parts to know."""
    signs = ("ABCDEFGHJKLMNPQRSTUVWXYZ", "0123456789")
    length, room = 3, 24 * 10 * 24
    while room < count:
        room *= len(signs[length % 2])
        length += 1
    # 1,663 is prime and divides no product of 24s and 10s.
    rest, parts = (number * 1_663 + offset) % room, ""
    for place in range(length):
        rest, sign = divmod(rest, len(signs[place % 2]))
        parts += signs[place % 2][sign]
    return parts
