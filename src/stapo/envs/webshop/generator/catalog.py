"""Whole shops: the records of WebShop's product, attribute and human-instruction files, in memory or as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from stapo.checks import check_choice
from stapo.envs.draws import Draws
from stapo.envs.webshop.generator.families import ProductFacts, families
from stapo.envs.webshop.generator.sizes import SENTENCES, SIZES, ShopSize
from stapo.errors import ConfigError

MOST_PRODUCTS = 36**6

Record = dict[str, Any]
_TAILS, _OPENINGS, _CLOSINGS, _REQUESTS = (SENTENCES[use] for use in ("tails", "openings", "closings", "requests"))


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
    chosen = SIZES[check_choice("size", size, SIZES)]
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


def _asin(number: int, count: int, seed: int, size: ShopSize) -> str:
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


def title(facts: ProductFacts, size: ShopSize) -> str:
    """The product's name as pages show it."""
    named = " ".join(attribute.title() for attribute in facts.attributes[: size.in_title])
    return f"{facts.brand} {named} {facts.kind.noun}"


def product(facts: ProductFacts, asin: str, size: ShopSize, draws: Draws) -> Record:
    """The product's record in a file such as items_shuffle.json."""
    pictures = f"https://pictures.invalid/{asin.lower()}"
    return {
        "asin": asin,
        "name": title(facts, size),
        "full_description": _description(facts, size, draws) if size.texts else "",
        "small_description": _bullets(facts, size, draws),
        "pricing": _pricing(facts, size),
        "images": [f"{pictures}/0.jpg"],
        "category": facts.kind.category,
        "query": facts.kind.query,
        "product_category": facts.kind.path,
        "average_rating": draws.between(30, 50) / 10 if size.texts else "",
        "customization_options": {
            name: [{"value": value, "image": None, "is_selected": False, "is_available": True} for value in values]
            for name, values in facts.options.items()
        },
    }


def synthetic(facts: ProductFacts, size: ShopSize) -> Record:
    """The product's entry in a file such as items_ins_v2.json."""
    entry: Record = {"attributes": list(facts.attributes)}
    if facts.asked:
        before = (len(facts.wanted) + 1) // 2 if size.texts else len(facts.wanted)
        front, back = facts.wanted[:before], facts.wanted[before:]
        text = f"Find me {', '.join(front)} {facts.kind.query}"
        entry["instruction"] = text + (f" with {', '.join(back)}" if back else "")
        entry["instruction_attributes"] = list(facts.wanted)
    return entry


def human(facts: ProductFacts, asin: str, draws: Draws) -> list[Record]:
    """Requests in free wording, as in items_human_ins.json; none where the product is not asked for."""
    if not facts.asked:
        return []
    chosen = [draws.choice(values).strip().lower() for values in facts.options.values()]
    options = f", in {' and '.join(chosen)}" if chosen else ""
    noun = facts.kind.noun.lower()
    article = "some" if noun.endswith("s") else "a"
    text = draws.choice(_REQUESTS).format(
        article=article, noun=noun, attributes=" and ".join(facts.wanted), options=options
    )
    return [
        {
            "asin": asin,
            "instruction": text,
            "attributes": list(facts.attributes),
            "options": [f"{name.lower()}: {value}" for name, value in zip(facts.options, chosen, strict=True)],
            "instruction_attributes": list(facts.wanted),
            "instruction_options": chosen,
        }
    ]


def _pricing(facts: ProductFacts, size: ShopSize) -> str:
    if facts.cents is None:
        return ""
    low, high = (_dollars(cents, size) for cents in facts.cents)
    return low if low == high else f"{low} to {high}"


def _dollars(cents: int, size: ShopSize) -> str:
    return f"${cents / 100:,.2f}" if size.cents else f"${cents // 100}"


def _bullets(facts: ProductFacts, size: ShopSize, draws: Draws) -> list[str]:
    if not size.texts:
        return [" ".join((*facts.attributes, facts.kind.noun.lower()))]
    # The first bullet alone is searched: the title's attributes stay findable, the others take reading.
    return [f"{attribute.capitalize()}: {draws.choice(_TAILS)}" for attribute in facts.attributes]


def _description(facts: ProductFacts, size: ShopSize, draws: Draws) -> str:
    told = facts.attributes[: size.in_title + 1]
    names = {"noun": facts.kind.noun.lower(), "brand": facts.brand}
    middle = f"It is {', '.join(told[:-1])} and {told[-1]}." if len(told) > 1 else ""
    return " ".join((draws.choice(_OPENINGS).format(**names), middle, draws.choice(_CLOSINGS)))
