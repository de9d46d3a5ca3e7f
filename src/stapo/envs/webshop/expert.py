"""The all-knowing shopper: the shortest list of actions that it knows from here to a perfect purchase.

It knows which product is meant, so it never has to compare products. Buying the meant product with the asked options
within its price scores 1. `Demonstrator` in `stapo.envs.webshop.demonstrator` is the one to imitate.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from stapo.envs.webshop.goals import ShoppingGoal
from stapo.envs.webshop.pages import LINK, Node
from stapo.envs.webshop.product import Product
from stapo.envs.webshop.reward import score
from stapo.envs.webshop.shop import RESULTS, Visit

_BRACKETS = re.compile(r"[\[\]\s]+")


def best_plan(visit: Visit) -> list[str] | None:
    """Actions from the open page to a purchase that scores 1.

    Returns:
        The actions; none when the purchase was made and scored 1; None where there is no way: something else was
        bought, or neither the instruction nor the title finds the product among the search's results.
    """
    if visit.score is not None:
        return [] if visit.score.total == 1 else None
    meant = visit.catalog.find(visit.goal.asin)
    if meant is None:
        return None
    product = visit.catalog.product(meant)
    chosen = visit.options if visit.product == meant else {}
    rest = _options_to_click(product, visit.goal, list(chosen.values()))
    if rest is None:
        return None
    buying = [*rest, "click[buy now]"]
    if visit.product == meant:
        return buying if visit.page == "item_page" else ["click[< prev]", *buying]
    link = visit.targets.get(product.asin.lower())
    if isinstance(link, Node) and link.kind == LINK:
        return [f"click[{product.asin.lower()}]", *buying]
    way = _way_by_search(visit, meant, product)
    return None if way is None else [*way, f"click[{product.asin.lower()}]", *buying]


def query_of(text: str) -> str:
    """Text as the argument of a search: one line, lower-case, without brackets, which would end it."""
    return _BRACKETS.sub(" ", text).strip().lower()


def value_for(product: Product, goal: ShoppingGoal, option: tuple[str, str] | str) -> str | None:
    """The value of a product's options that counts as the asked one, None where none does. An exact one comes first.

    Even an exact one may not count: the score reads "rectangular" as the color tan, as the original does.
    """
    asked = option if isinstance(option, str) else option[1]
    named = "" if isinstance(option, str) else option[0]
    offered = [(name, value) for name, values in product.options.items() for value in values]
    # Exact ones first, then those of the asked name, in page order.
    offered.sort(key=lambda entry: (entry[1] != asked.lower(), named not in ("", entry[0])))
    return next((value for _, value in offered if counts_as(product, goal, option, [value])), None)


def counts_as(product: Product, goal: ShoppingGoal, option: tuple[str, str] | str, chosen: list[str]) -> bool:
    """Whether one of the chosen values satisfies an asked option, by the rules of the score."""
    options: Any = [option]
    alone = replace(goal, options=options)
    return bool(chosen) and score(product, 0.0, chosen, alone, lambda title: ()).r_option == 1.0


def _options_to_click(product: Product, goal: ShoppingGoal, chosen: list[str]) -> list[str] | None:
    clicks = []
    for option in goal.options:
        if counts_as(product, goal, option, chosen):
            continue
        value = value_for(product, goal, option)
        if value is None:
            return None
        clicks.append(f"click[{value}]")
    return clicks


def _way_by_search(visit: Visit, meant: int, product: Product) -> list[str] | None:
    """The shortest of: on through the open results, searching for the instruction, searching for the title."""
    ways = []
    for text in (visit.goal.instruction, product.title):
        hits = list(visit.catalog.search(query_of(text), RESULTS))
        if meant in hits:
            ways.append([f"search[{query_of(text)}]", *["click[next >]"] * (hits.index(meant) // visit.page_size)])
    return min(ways, key=len, default=None)
