"""Families of products: one that a goal asks for, and distractors that lack one thing each.

Everything about a family is a function of the seed and its number, so a shop of a million products can be made one
family at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from stapo.envs.draws import Draws
from stapo.envs.webshop.generator.sizes import ProductKind, ShopSize

# Goals cap the price at one of the first four multiples of ten above it; a dearer distractor is beyond all of them.
_BEYOND_EVERY_CAP = 6_000


@dataclass(frozen=True, slots=True)
class ProductFacts:
    """One product, before it is put into words.

    Attributes:
        kind: what it is.
        brand: made-up name of who sells it.
        attributes: what is true of it; the first ones stand in the title.
        wanted: those that instructions name.
        options: option name -> values.
        cents: lowest and highest price in cents, equal for a single price; None where it is missing.
        asked: it has an instruction.
        lacks: "" for the first of a family, else what sets a distractor apart.
    """

    kind: ProductKind
    brand: str
    attributes: tuple[str, ...]
    wanted: tuple[str, ...]
    options: dict[str, tuple[str, ...]]
    cents: tuple[int, int] | None
    asked: bool
    lacks: str = ""


def families(size: ShopSize, seed: int) -> Iterator[list[ProductFacts]]:
    """All families of a shop, one after the other, without end."""
    number = 0
    while True:
        yield family(size, seed, number)
        number += 1


def family(size: ShopSize, seed: int, number: int) -> list[ProductFacts]:
    """The family of this number, in the order in which the shop lists it."""
    draws = Draws(f"webshop family {seed} {number}")
    kinds = size.kinds
    # Kinds take turns, from another start in every shop, so that small shops have all of them.
    kind = kinds[(number + Draws(f"webshop start {seed}").below(len(kinds))) % len(kinds)]
    pool = size.pools[kind.category]
    attributes = draws.shuffled(pool)[: draws.between(*size.attributes)]
    first = ProductFacts(
        kind=kind,
        brand=brand(draws, size),
        attributes=tuple(attributes),
        wanted=tuple(draws.shuffled(attributes)[: draws.between(*size.wanted)]),
        options={name: _values(values, size, draws) for name, values in kind.options.items()},
        cents=_price(kind, size, draws),
        asked=True,
    )
    products = [first]
    members = draws.between(*size.family)
    # Where there is nothing to take away, as with no options, the next way to differ is tried.
    ways = [size.lacks[i % len(size.lacks)] for i in range(4 * members)]
    for way in ways:
        if len(products) == members:
            break
        other = _distractor(first, way, size, draws)
        if other is not None:
            products.append(other)
    return draws.shuffled(products)


def brand(draws: Draws, size: ShopSize) -> str:
    """A made-up name."""
    if size.brands is not None:
        return draws.choice(size.brands)
    starts = ("Bel", "Cor", "Dav", "Fen", "Gal", "Hol", "Jun", "Kel", "Lor", "Mar", "Nor", "Pel", "Quin", "Ros", "Sel",
              "Tam", "Ulm", "Ver", "Wen", "Yor", "Zan")  # fmt: skip
    middles = ("", "", "a", "i", "o", "ena", "ivo", "uri")
    ends = ("dra", "fex", "lio", "mont", "nix", "quo", "ric", "sso", "tova", "vell", "wick", "zar")
    return draws.choice(starts) + draws.choice(middles) + draws.choice(ends)


def _values(values: tuple[str, ...], size: ShopSize, draws: Draws) -> tuple[str, ...]:
    count = min(len(values), draws.between(*size.values))
    kept = set(draws.shuffled(values)[:count])
    return tuple(value for value in values if value in kept)


def _price(kind: ProductKind, size: ShopSize, draws: Draws) -> tuple[int, int] | None:
    if draws.chance(size.no_price):
        return None
    low = draws.between(*kind.prices) * 100
    low += draws.choice((0, 49, 95, 99)) if size.cents else 0
    high = low + draws.between(2, 20) * 100 if draws.chance(size.range_price) else low
    return low, high


def _distractor(first: ProductFacts, way: str, size: ShopSize, draws: Draws) -> ProductFacts | None:
    """Like `first`, but without one thing; None where this way is not open."""
    other = replace(first, brand=brand(draws, size), cents=_price(first.kind, size, draws), lacks=way)
    other = replace(other, asked=draws.chance(size.asked))
    if way == "attribute":
        pool = size.pools[first.kind.category]
        lost = draws.choice(first.wanted)
        new = draws.choice([a for a in pool if a not in first.attributes])

        def swap(listed: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(new if a == lost else a for a in listed)

        return replace(other, attributes=swap(first.attributes), wanted=swap(first.wanted))
    if way == "option":
        rich = [name for name, values in first.options.items() if len(values) > 1]
        if not rich:
            return None
        name = draws.choice(rich)
        lost = draws.choice(first.options[name])
        kept = tuple(value for value in first.options[name] if value != lost)
        return replace(other, options={**first.options, name: kept})
    if way == "price":
        if first.cents is None or first.cents[1] + _BEYOND_EVERY_CAP >= 95_000:
            return None
        low = first.cents[1] + _BEYOND_EVERY_CAP
        return replace(other, cents=(low, low))
    alike = [k for k in size.kinds if k.category == first.kind.category and k.query != first.kind.query]
    kind = draws.choice(alike)
    return replace(
        other,
        kind=kind,
        options={name: _values(values, size, draws) for name, values in kind.options.items()},
        cents=_price(kind, size, draws),
    )
