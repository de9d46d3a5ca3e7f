"""Pages as lists of text nodes, and the two ways of writing them down.

A page is what its HTML would show: text nodes in order, some of which are buttons, option labels or product links. The
strings of an item page are made once per product.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from stapo.envs.webshop.product import Product

PAGE_SEPARATOR = " [SEP] "
"""Between the parts of a page, as in the original."""

TEXT, BUTTON, LABEL, LINK = range(4)

BUY, BACK, NEXT, PREVIOUS, SEARCH = "Buy Now", "Back to Search", "Next >", "< Prev", "Search"
SUB_PAGES = ("Description", "Features", "Reviews")
ATTRIBUTES = "Attributes"

_HTML_SPACE = " \t\n\f\r"


class Node(NamedTuple):
    """A text node and the kind of element it stands in."""

    text: str
    kind: int = TEXT


class Option(NamedTuple):
    """An option value on an item page."""

    name: str
    value: str


Target = Node | Option
"""What a click meets: a button, a product link or an option."""


@dataclass(slots=True)
class ItemView:
    """All that an item's pages show, instruction aside.

    Attributes:
        nodes: nodes of the item page after the instruction.
        text: the same in `text` mode.
        targets: text to click -> what it meets, in order.
        subs: name of a sub page -> its nodes after the instruction.
    """

    nodes: list[Node]
    text: str
    targets: dict[str, Target]
    subs: dict[str, list[Node]] = field(default_factory=dict)


def instruction_nodes(instruction: str) -> list[Node]:
    """What every page but the start and the last begins with."""
    return [Node("Instruction:"), Node(instruction)]


def start_nodes(instruction: str | None) -> list[Node]:
    """The start page; without its instruction for None."""
    asked = [] if instruction is None else [Node("Instruction: "), Node(instruction)]
    return [Node("WebShop"), *asked, Node(SEARCH, BUTTON)]


def results_nodes(products: Iterable[Product], number: int, total: int) -> list[Node]:
    """A page of search results, after the instruction."""
    nodes = [Node(BACK, BUTTON), Node(f"Page {number} (Total results: {total})")]
    if number > 1:
        nodes.append(Node(PREVIOUS, BUTTON))
    nodes.append(Node(NEXT, BUTTON))
    for product in products:
        nodes += [Node(product.asin, LINK), Node(product.title), Node(product.price_tag)]
    return nodes


def item_view(product: Product, *, show_attrs: bool = False) -> ItemView:
    """The pages of a product; `show_attrs` adds the button `Attributes`."""
    nodes = [Node(BACK, BUTTON), Node(PREVIOUS, BUTTON)]
    for name, values in product.options.items():
        nodes.append(Node(name))
        nodes += [Node(value, LABEL) for value in values]
    nodes += [Node(product.title), Node(f"Price: {product.price_tag}"), Node("Rating: N.A.")]
    nodes += [Node(name, BUTTON) for name in (*SUB_PAGES, *([ATTRIBUTES] if show_attrs else []), BUY)]
    targets = targets_of(nodes)
    for name, values in product.options.items():
        # A value under two names stands for the later one, and one that reads like a button hides it.
        targets |= {value: Option(name, value) for value in values}
    head = [Node(BACK, BUTTON), Node(PREVIOUS, BUTTON)]
    subs = {
        "description": [*head, Node(product.description)],
        "features": [*head, *(Node(" " + bullet) for bullet in product.bullets)],
        "reviews": head,
        # Without its button an option value of this name still leads here.
        "attributes": [
            *head,
            *(Node(" " + attribute) for attribute in product.attributes),
            *(Node(text) for text in (product.category, product.query, product.product_category)),
        ],
    }
    return ItemView(nodes, as_text(nodes), targets, subs)


def done_nodes(asin: str, options: dict[str, str], score: float) -> list[Node]:
    """The last page. It says little more than the score."""
    nothing = "None"
    texts = ["Thank you for shopping with us!", "Your code: ", nothing, " (Paste it in your MTurk interface.)"]
    texts += ["Purchased", "asin", asin, "options", _html_json(options)]
    texts += [part for name in ("attrs", "category", "query", "product category") for part in (name, nothing)]
    texts += ["Target", "asin", "options", "attrs", "price upper", "instuction text", "category"]
    texts += ["product category", "query", "Goal ", nothing]
    texts += ["Reward", "Your score (min 0.0, max 1.0)", str(score), "Reward Details ", nothing]
    return [Node(text) for text in texts]


def targets_of(nodes: Iterable[Node]) -> dict[str, Target]:
    """What can be clicked among `nodes`, options aside: buttons, then links, by their lower-case text."""
    found = list(nodes)
    return {node.text.lower(): node for kind in (BUTTON, LINK) for node in found if node.kind == kind}


def as_text(nodes: Iterable[Node]) -> str:
    """All nodes, stripped and joined by " [SEP] "."""
    return PAGE_SEPARATOR.join(text.strip() for node in nodes if _shown(text := _parsed(node.text)))


def as_rich_text(nodes: Iterable[Node], address: str, visited: Collection[str]) -> str:
    """One node a line, with buttons marked and those marked again that were clicked.

    Args:
        nodes: the page.
        address: the page's address; an option counts as clicked if its quoted value stands in there.
        visited: ids of products that were opened.
    """
    clicked, lines = "", []
    for node in nodes:
        text = _parsed(node.text)
        if not _shown(text):
            continue
        if node.kind == BUTTON:
            text = f"[button] {text} [button_]"
        elif node.kind == LABEL and f'"{text}"' in address:
            clicked = f"You have clicked {text}.\n{clicked}"
            text = f"  [clicked button] {text} [clicked button_]"
        elif node.kind == LABEL:
            text = f"  [button] {text} [button_]"
        elif node.kind == LINK:
            text = f"\n[clicked button] {text} [clicked button_]" if text in visited else f"\n[button] {text} [button_]"
        lines.append(text + "\n")
    return clicked + "".join(lines)


def _parsed(text: str) -> str:
    """Text as the original's HTML parser reads it: blanks alone become one blank, or one line end if one is there."""
    if text.strip(_HTML_SPACE):
        return text
    return "\n" if "\n" in text else text[:1] and " "


def _shown(text: str) -> bool:
    return text not in ("", "\n")


def _html_json(options: dict[str, str]) -> str:
    """JSON as it is written into HTML: keys sorted, four characters escaped."""
    text = json.dumps(options, sort_keys=True)
    for character in "<>&'":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
