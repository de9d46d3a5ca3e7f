"""Products in words: the records of WebShop's product, attribute and human-instruction files."""

from __future__ import annotations

from typing import Any

from stapo.envs.draws import Draws
from stapo.envs.webshop.generator.families import ProductFacts
from stapo.envs.webshop.generator.sizes import SENTENCES, Size

Record = dict[str, Any]

_TAILS, _OPENINGS, _CLOSINGS, _REQUESTS = (SENTENCES[use] for use in ("tails", "openings", "closings", "requests"))


def title(facts: ProductFacts, size: Size) -> str:
    """The product's name as pages show it."""
    named = " ".join(attribute.title() for attribute in facts.attributes[: size.in_title])
    return f"{facts.brand} {named} {facts.kind.noun}"


def product(facts: ProductFacts, asin: str, size: Size, draws: Draws) -> Record:
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


def synthetic(facts: ProductFacts, size: Size) -> Record:
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


def _pricing(facts: ProductFacts, size: Size) -> str:
    if facts.cents is None:
        return ""
    low, high = (_dollars(cents, size) for cents in facts.cents)
    return low if low == high else f"{low} to {high}"


def _dollars(cents: int, size: Size) -> str:
    return f"${cents / 100:,.2f}" if size.cents else f"${cents // 100}"


def _bullets(facts: ProductFacts, size: Size, draws: Draws) -> list[str]:
    if not size.texts:
        return [" ".join((*facts.attributes, facts.kind.noun.lower()))]
    # The first bullet alone is searched: the title's attributes stay findable, the others take reading.
    return [f"{attribute.capitalize()}: {draws.choice(_TAILS)}" for attribute in facts.attributes]


def _description(facts: ProductFacts, size: Size, draws: Draws) -> str:
    told = facts.attributes[: size.in_title + 1]
    names = {"noun": facts.kind.noun.lower(), "brand": facts.brand}
    middle = f"It is {', '.join(told[:-1])} and {told[-1]}." if len(told) > 1 else ""
    return " ".join((draws.choice(_OPENINGS).format(**names), middle, draws.choice(_CLOSINGS)))
