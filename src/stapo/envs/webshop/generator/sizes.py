"""The sizes of generated shops, from shops.yaml: what is sold, how much a page says, how well the wanted product hides.

An attribute is two words (one in the tiny shop) that occur nowhere else in a page: the reward looks for it as a part of
the title, the bullets and the description, so that a product which lacks it must not contain it by chance. Values of
one product's options differ from each other and from every button, since `click[value]` has to mean one thing.
`tests/envs/webshop/test_webshop_generator.py` holds the lists to both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stapo.documents import package_data

Options = dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class ProductKind:
    """One kind of product.

    Attributes:
        noun: in titles, singular.
        query: what a shopper calls it, plural; the field of this name in product files.
        category: one of the five departments.
        path: the field `product_category`, parts separated by " › ".
        options: option name -> values a product of this kind may come in.
        prices: cheapest and dearest, in dollars.
    """

    noun: str
    query: str
    category: str
    path: str
    options: Options
    prices: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopSize:
    """One size of shop.

    Products come in families: one product and its distractors, each of which shares its words and lacks one thing.

    Attributes:
        kinds: kinds of products.
        pools: attributes of each department.
        products: how many there are unless a number is asked for.
        family: fewest and most products of a family.
        lacks: what distractors lack, one each, in turn: `attribute`, `option`, `price` (all is there, but dearer than
            any price limit of the first one's goals), `kind` (the same attributes on another kind of product).
        attributes: fewest and most attributes of a product.
        wanted: fewest and most attributes that an instruction names.
        in_title: attributes that the title names; the others take opening the product.
        values: fewest and most values of an option.
        asked: probability that a distractor has an instruction of its own; the first of a family always has.
        range_price: probability of a price range instead of a single price.
        no_price: probability that the price is missing.
        cents: prices have cents.
        texts: pages have a description and one bullet per attribute; else one short bullet.
        brands: names to choose from; None makes up names of up to three syllables, hundreds of them.
        short_ids: ids are three letters and digits in turn, not ten characters.
    """

    kinds: tuple[ProductKind, ...]
    pools: dict[str, tuple[str, ...]]
    products: int
    family: tuple[int, int]
    lacks: tuple[str, ...]
    attributes: tuple[int, int]
    wanted: tuple[int, int]
    in_title: int
    values: tuple[int, int]
    asked: float
    range_price: float
    no_price: float
    cents: bool
    texts: bool
    brands: tuple[str, ...] | None
    short_ids: bool


_SHOPS = package_data(__package__, "shops.yaml")
SENTENCES: dict[str, tuple[str, ...]] = _SHOPS["sentences"]
"""What pages and requests are worded with."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _kinds(category: str, of: dict[str, Any]) -> list[ProductKind]:
    """Read `noun | query | path below root | options` lines."""
    values = {name: _words(text) for name, text in _SHOPS["values"].items()}
    kinds = []
    for row in of["kinds"].splitlines():
        noun, query, below, options = (part.strip() for part in row.split("|"))
        path = " › ".join([*([of["root"]] if "root" in of else []), *(part.strip() for part in below.split(">"))])
        offered = {name: values[chosen] for name, chosen in of["options"][options].items()}
        kinds.append(ProductKind(noun, query, category, path, offered, of["prices"]))
    return kinds


def _size(departments: dict[str, Any], **numbers: Any) -> ShopSize:
    return ShopSize(
        kinds=tuple(kind for name, department in departments.items() for kind in _kinds(name, department)),
        pools={name: _words(department["attributes"]) for name, department in departments.items()},
        **numbers,
    )


SIZES: dict[str, ShopSize] = {name: _size(**_SHOPS[name]) for name in ("tiny", "standard")}
