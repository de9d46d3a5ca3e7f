"""One visit to the shop: what each action does, page by page, with the quirks of the original.

Actions read `name[argument]`. `search[words]` works from every page; `click[text]` needs a text that the page offers;
everything else leaves the page as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from stapo.envs.webshop.catalog import Catalog
from stapo.envs.webshop.goals import ShoppingGoal
from stapo.envs.webshop.pages import (
    BACK,
    BUY,
    LINK,
    NEXT,
    PAGE_SEPARATOR,
    PREVIOUS,
    SEARCH,
    ItemView,
    Node,
    Option,
    Target,
    as_rich_text,
    as_text,
    done_nodes,
    instruction_nodes,
    results_nodes,
    start_nodes,
    targets_of,
)
from stapo.envs.webshop.reward import Nouns, Score, score

PriceOf = Callable[[int], float]

RESULTS = 50

_SUB_PAGES = ("description", "features", "reviews", "attributes")
_PAGES = ("search_results", "item_page", "item_sub_page", "done")


def parsed(action: str) -> tuple[str, str]:
    r"""Name and lower-case argument of an action.

    As the pattern ``(.+)\[(.+)\]`` at the start finds them, greedy and within the first line: the argument is what
    stands in the last pair of brackets with something in it. Done by hand, because the pattern takes minutes on
    100,000 brackets.
    """
    line = action.partition("\n")[0]
    end = line.rfind("]")
    start = line.rfind("[", 1, max(1, end - 1))
    return (action, "") if start < 0 else (line[:start], line[start + 1 : end].lower())


class Visit:
    """One episode in the shop, from the start page to a purchase.

    Args:
        catalog: what is sold.
        goal: what is to be bought.
        price_of: price in dollars of a product by its number.
        nouns: the noun extractor of the score.
        page_size: products on a page of results; the original shows 10.
        show_attrs: item pages have a button `Attributes`.

    Attributes:
        page: kind of the page: "start", "search_results", "item_page", "item_sub_page" or "done".
        product: number of the product whose page is open, or None.
    """

    def __init__(
        self,
        catalog: Catalog,
        goal: ShoppingGoal,
        price_of: PriceOf,
        nouns: Nouns,
        page_size: int = 10,
        *,
        show_attrs: bool = False,
    ) -> None:
        self.catalog = catalog
        self._show_attrs = show_attrs
        self.goal = goal
        self.page_size = page_size
        self.score: Score | None = None
        self.page = self._sub = ""
        self._nodes: list[Node] | None = None
        self._words: list[str] = []
        self._number = self._total = 0
        self._shown: list[int] = []
        self._links: dict[str, int] = {}
        self.product: int | None = None
        self._options: dict[str, str] = {}
        self._visited: set[str] = set()
        self._price_of = price_of
        self._nouns = nouns
        self._start()

    # -- what the page shows ----------------------------------------------------------------------

    @property
    def options(self) -> dict[str, str]:
        """Options chosen so far, in the order they were first chosen."""
        return dict(self._options)

    @property
    def can_search(self) -> bool:
        """Whether the page has a search bar; searching also works without one."""
        return self.page == "start"

    @property
    def targets(self) -> dict[str, Target]:
        """Lower-case texts that can be clicked, in the order of the original, and what they meet."""
        if self.page == "item_page":
            return self._view().targets
        return targets_of(self._body())

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for equal positions: what the page shows, and what a purchase would be worth."""
        where = (self.page, self._sub, self.product, tuple(self._options.items()))
        return (*where, tuple(self._words), self._number)

    def text(self, *, blind: bool = False) -> str:
        """The page as text nodes joined by " [SEP] "; `blind` leaves the instruction out."""
        if self.page == "start":
            return as_text(start_nodes(None if blind else self.goal.instruction))
        if self.page == "item_page":
            body = self._view().text
        else:
            body = as_text(self._body())
        if blind or self.page == "done":
            return body
        return PAGE_SEPARATOR.join(part for part in (as_text(instruction_nodes(self.goal.instruction)), body) if part)

    def rich_text(self, *, blind: bool = False) -> str:
        """The page with marked buttons; `blind` leaves the instruction out."""
        if self.page == "start":
            nodes = start_nodes(None if blind else self.goal.instruction)
        elif blind or self.page == "done":
            nodes = self._body()
        else:
            nodes = [*instruction_nodes(self.goal.instruction), *self._body()]
        return as_rich_text(nodes, self._address(), self._visited)

    # -- what actions do --------------------------------------------------------------------------

    def act(self, action: str) -> bool:
        """Take one action; whether it changed anything."""
        name, argument = parsed(action)
        before = self.key
        if name == "search" and argument:
            self._search(argument.split(" "), 1)
        elif name == "click" and argument != SEARCH.lower() and (target := self.targets.get(argument)) is not None:
            self._click(argument, target)
        if self.key == before:
            return False
        self._nodes = None
        return True

    def _click(self, text: str, target: Target) -> None:
        # The text decides before the kind of element does: an option value that reads like a button works like it.
        where = self._where()
        if text == BUY.lower():
            self._buy()
        elif text == BACK.lower():
            self._start()
        elif text == NEXT.lower() and where == "search_results":
            self._search(self._words, self._number + 1)
        elif text == PREVIOUS.lower() and where == "search_results":
            self._search(self._words, self._number - 1)
        elif text == PREVIOUS.lower() and where == "item_page":
            self._search(self._words, self._number)
        elif text in _SUB_PAGES:
            self.page, self._sub = "item_sub_page", text
        else:
            self.page, self._sub = "item_page", ""
            if isinstance(target, Option):
                self._options[target.name] = target.value
            elif isinstance(target, Node) and target.kind == LINK:
                self.product = self._links[text]
                self._visited.add(target.text)

    def _start(self) -> None:
        self.page, self._sub = "start", ""
        self._words, self._number, self._total = [], 0, 0
        self._shown, self._links = [], {}
        self.product, self._options, self._visited = None, {}, set()

    def _search(self, words: list[str], number: int) -> None:
        self.page, self._sub = "search_results", ""
        self._words, self._number = words, number
        self.product, self._options = None, {}
        hits = self.catalog.search(" ".join(words), RESULTS)
        self._total = len(hits)
        # Numbers below 1 can be reached and slice from the end, as in the original.
        self._shown = list(hits[(number - 1) * self.page_size : number * self.page_size])
        self._links = {self.catalog.product(i).asin.lower(): i for i in self._shown}

    def _buy(self) -> None:
        bought = self.catalog.product(self._opened)
        price = self._price_of(self._opened)
        self.score = score(bought, price, list(self._options.values()), self.goal, self._nouns)
        self.page, self._sub = "done", ""

    # -- below the page ---------------------------------------------------------------------------

    @property
    def _opened(self) -> int:
        assert self.product is not None
        return self.product

    def _view(self) -> ItemView:
        return self.catalog.view(self._opened, self._show_attrs)

    def _body(self) -> list[Node]:
        """Nodes of the page after the instruction."""
        if self._nodes is None:
            self._nodes = self._page_nodes()
        return self._nodes

    def _page_nodes(self) -> list[Node]:
        if self.page == "start":
            return start_nodes(None)
        if self.page == "search_results":
            return results_nodes(map(self.catalog.product, self._shown), self._number, self._total)
        if self.page == "done":
            assert self.score is not None
            return done_nodes(self.catalog.product(self._opened).asin, self._options, self.score.total)
        view = self._view()
        return view.nodes if self.page == "item_page" else view.subs[self._sub]

    def _where(self) -> str:
        """The kind of page as the original guesses it from the address: the first name that stands anywhere in it."""
        address = self._address()
        return next((name for name in _PAGES if name in address), "")

    def _address(self) -> str:
        words = "+".join(self._words)
        asin = "" if self.product is None else self.catalog.product(self.product).asin
        if self.page == "search_results":
            return f"/search_results/{words}/{self._number}"
        if self.page == "item_page":
            return f"/item_page/{asin}/{words}/{self._number}/{json.dumps(self._options)}"
        if self.page == "item_sub_page":
            return f"/item_sub_page/{asin}/{words}/{self._number}/{self._sub.capitalize()}/{self._options}"
        return "/done" if self.page == "done" else "/"
