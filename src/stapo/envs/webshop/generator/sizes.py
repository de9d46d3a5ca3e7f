"""The sizes of generated shops: how much a page says and how well the wanted product hides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stapo.envs.webshop.generator.product_templates import STANDARD, TINY, Wares
from stapo.errors import ConfigError, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One size of shop.

    Products come in families: one product and its distractors, each of which shares its words and lacks one thing.

    Attributes:
        wares: what is sold.
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

    wares: Wares
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


SIZES: dict[str, Size] = {
    "tiny": Size(
        wares=TINY,
        products=60,
        family=(3, 3),
        lacks=("attribute", "attribute", "option"),
        attributes=(2, 2),
        wanted=(2, 2),
        in_title=2,
        values=(2, 3),
        asked=1.0,
        range_price=0.0,
        no_price=0.0,
        cents=False,
        texts=False,
        brands=("Belwick", "Corvell", "Fenric", "Galmont", "Pelnix", "Tamsso"),
        short_ids=True,
    ),
    "standard": Size(
        wares=STANDARD,
        products=600,
        family=(3, 6),
        lacks=("attribute", "option", "price", "attribute", "kind"),
        attributes=(4, 6),
        wanted=(2, 4),
        in_title=2,
        values=(2, 5),
        asked=0.3,
        range_price=0.12,
        no_price=0.04,
        cents=True,
        texts=True,
        brands=None,
        short_ids=False,
    ),
}


def size_named(name: str) -> Size:
    """The size called `name`.

    Raises:
        ConfigError: there is no such size.
    """
    if not isinstance(name, str) or name not in SIZES:
        known: Sequence[str] = sorted(SIZES)
        raise ConfigError(
            f"the shop's size is {name!r}, which is none.{did_you_mean(str(name), known)} Sizes: {', '.join(known)}."
        )
    return SIZES[name]
