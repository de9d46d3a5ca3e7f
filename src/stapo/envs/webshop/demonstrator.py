"""A demonstrator that has to find out, as a person would.

It knows what the instruction says and what the pages that it opened have shown, nothing else. It picks a query from the
words of the instruction, opens products whose title and price fit, looks for what the title does not say, goes back
when something is missing, chooses options and buys. What it does can be imitated from prompts that show the same.
"""

from __future__ import annotations

import random
import re

from stapo.envs.webshop.expert import counts_as, query_of, value_for
from stapo.envs.webshop.pages import LINK, Node
from stapo.envs.webshop.product import Product
from stapo.envs.webshop.shop import Visit
from stapo.retrieval.analyzer import SMALL_WORDS

_PRICE_CLAUSE = re.compile(r",? and price lower than [\d.]+ dollars$")
_WORD = re.compile(r"[\w'&.+-]+")
_OF_REQUESTS = (
    "am can could do find from get give i i'd i'm it's its like looking me my need please should some them want what "
    "which would you your"
)
_EMPTY_WORDS = SMALL_WORDS | frozenset(_OF_REQUESTS.split())
_MOST_REJECTED = 4
_PAGES_PER_QUERY = 2


class Demonstrator:
    """Plays one episode at a time; give it every command that is played.

    Args:
        visit: the episode just begun; never acted on here.
        rng: decides which words are searched for.
        max_steps: when few are left, the best that was seen is bought.
        ready: it only searches for `ready_queries`.
        haste: share of products for which it asks no more than title, price and options, and reads nothing.
    """

    def __init__(
        self, visit: Visit, rng: random.Random, max_steps: int, haste: float = 0.0, *, ready: bool = False
    ) -> None:
        self.visit = visit
        self.rng = rng
        self.steps_left = max_steps
        self.haste = haste
        self.ready = ready_queries(visit) if ready else []
        self.query = ""
        self.tried: list[str] = []
        self.found_by: dict[int, str] = {}
        self.trusted: dict[int, bool] = {}
        self.wanted = _wanted_words(visit)
        self.queries = 0
        self.rejected: dict[int, float] = {}
        self.read: dict[int, set[str]] = {}

    def action(self) -> str | None:
        """The next command, or None when the episode is over."""
        page = self.visit.page
        if page == "done":
            return None
        if page == "start":
            settled = self._settled()
            return self._search() if settled is None else self._back_for(settled)
        if page == "search_results":
            return self._look_at_results()
        if page == "item_sub_page":
            return "click[< prev]"
        return self._look_at_item()

    def played(self, command: str, effect: bool) -> None:
        """Note a command that was played."""
        self.steps_left -= 1
        visit = self.visit
        if effect and command.startswith("search["):
            self.query = command[len("search[") : -1]
        if visit.product is not None:
            self.found_by.setdefault(visit.product, self.query)
        if visit.page == "item_sub_page" and visit.product is not None and command.startswith("click["):
            self.read.setdefault(visit.product, set()).add(command[len("click[") : -1])

    # -- results ----------------------------------------------------------------------------------

    def _search(self) -> str:
        self.queries += 1
        if self.ready:
            # Another one each time; which comes first is left to chance, as a hasty shopper would leave it.
            untried = [query for query in self.ready if query not in self.tried] or self.ready
            self.tried.append(untried[int(self.rng.random() * len(untried))])
            return f"search[{self.tried[-1]}]"
        nouns, attributes, options = self.wanted
        # Hasty at first, complete when that was not enough.
        hasty = self.queries == 1
        kept = {w for phrase in attributes if not hasty or self.rng.random() < 0.9 for w in phrase.split()}
        if not hasty or self.rng.random() < 0.7:
            kept |= {w for phrase in options for w in phrase.split()}
        return f"search[{_query(self.visit, kept | nouns)}]"

    def _back_for(self, number: int) -> str:
        """One step on the way back to a product that was seen: pages with results have no search bar."""
        if self.visit.page != "start":
            return "click[back to search]"
        if self.ready:
            return f"search[{self.found_by.get(number) or self.ready[0]}]"
        return f"search[{query_of(self.visit.catalog.product(number).title)}]"

    def _look_at_results(self) -> str:
        shown = [
            self.visit.catalog.product(number)
            for text, target in self.visit.targets.items()
            if isinstance(target, Node) and target.kind == LINK
            and (number := self.visit.catalog.find(target.text)) is not None and text
        ]  # fmt: skip
        settled = self._settled()
        if settled is not None:
            asin = self.visit.catalog.product(settled).asin
            if any(product.asin == asin for product in shown):
                return f"click[{asin.lower()}]"
            return self._back_for(settled)
        rejected = {self.visit.catalog.product(number).asin for number in self.rejected}
        fitting = [
            (self._fit(product.title), -rank, product)
            for rank, product in enumerate(shown)
            if product.asin not in rejected and product.prices[0] <= self.visit.goal.price_upper
        ]
        fitting = [entry for entry in fitting if entry[0] >= self._demand()]
        if fitting:
            return f"click[{max(fitting, key=lambda entry: entry[:2])[2].asin.lower()}]"
        if self.queries > 1 and len(shown) == self.visit.page_size and self._page_number() < _PAGES_PER_QUERY:
            return "click[next >]"
        return "click[back to search]"

    def _page_number(self) -> int:
        found = re.search(r"Page (-?\d+) \(Total", self.visit.text(blind=True))
        return int(found[1]) if found else 1

    def _demand(self) -> float:
        """How well a title must fit to be opened; falls with every query."""
        return max(0.0, 0.5 - 0.2 * self.queries)

    def _fit(self, title: str) -> float:
        """How much a title says of what is asked, 0 … 1; the thing itself counts twice."""
        nouns, attributes, _ = self.wanted
        said = sum(_says(title.lower(), word) for word in nouns) / max(1, len(nouns))
        words = [word for attribute in attributes for word in attribute.split()]
        return (2 * said + sum(_says(title.lower(), word) for word in words) / max(1, len(words))) / 3

    # -- items ------------------------------------------------------------------------------------

    def _look_at_item(self) -> str:
        number = self.visit.product
        assert number is not None
        product, goal = self.visit.catalog.product(number), self.visit.goal
        chosen = list(self.visit.options.values())
        missing = [option for option in goal.options if not counts_as(product, goal, option, chosen)]
        clicks = [(option, value_for(product, goal, option)) for option in missing]
        if self._settled() != number:
            read = self.read.get(number, set())
            said = self._said(product, read)
            if product.prices[0] > goal.price_upper or any(value is None for _, value in clicks):
                return self._reject(number, said - 1)
            if said < 1 and not self._trusts(number):
                unread = [name for name in ("features", "description") if name not in read]
                # The description seldom says much that the features have not.
                if unread and (not read or said >= 0.5):
                    return f"click[{unread[0]}]"
                return self._reject(number, said)
        for _, value in clicks:
            if value is not None:
                return f"click[{value}]"
        return "click[buy now]"

    def _trusts(self, number: int) -> bool:
        """Whether a product is taken for what its title says; decided once for each."""
        if not self.haste:
            return False
        if number not in self.trusted:
            self.trusted[number] = self.rng.random() < self.haste
        return self.trusted[number]

    def _said(self, product: Product, read: set[str]) -> float:
        """Share of the asked attributes that the pages seen so far confirm."""
        asked = self.visit.goal.attributes
        text = product.title
        text += " " + " ".join(product.bullets) if "features" in read else ""
        text += " " + product.description if "description" in read else ""
        seen = text.lower()
        return sum(all(_says(seen, word) for word in a.split()) for a in asked) / len(asked) if asked else 1.0

    def _reject(self, number: int, worth: float) -> str:
        self.rejected[number] = worth
        return "click[< prev]" if self._settled() != number else self._look_at_item()

    def _settled(self) -> int | None:
        """The product to buy in the end, once enough others were looked at or time runs out."""
        if not self.rejected:
            return None
        buying = 3 + len(self.visit.goal.options)
        if len(self.rejected) < _MOST_REJECTED and self.steps_left > buying:
            return None
        return max(self.rejected, key=lambda number: self.rejected[number])


def ready_queries(visit: Visit) -> list[str]:
    """Searches that the instruction suggests, sorted: for the thing, with its attributes, and with its options."""
    nouns, attributes, options = _wanted_words(visit)
    with_attributes = nouns | {w for phrase in attributes for w in phrase.split()}
    with_options = with_attributes | {w for phrase in options for w in phrase.split()}
    return sorted({_query(visit, kept) for kept in (nouns, with_attributes, with_options)})


def _query(visit: Visit, kept: set[str]) -> str:
    """The words of the instruction that are kept, each once, in its order; all of it where none is."""
    asked = _PRICE_CLAUSE.sub("", visit.goal.instruction)
    words = (word for word in _words(asked) if word in kept)
    return query_of(" ".join(dict.fromkeys(words))) or query_of(asked)


def _words(text: str) -> list[str]:
    return [word.strip(".'") for word in _WORD.findall(text.lower()) if word not in _EMPTY_WORDS]


def _says(text: str, word: str) -> bool:
    """Whether a text has a word, its plural or its singular."""
    stem = word[:-1] if len(word) > 3 and word.endswith("s") else word
    return stem in text


def _wanted_words(visit: Visit) -> tuple[set[str], list[str], list[str]]:
    """What the instruction asks for: words of the thing itself, attributes, option values."""
    goal = visit.goal
    options = [option if isinstance(option, str) else option[1] for option in goal.options]
    names = {word for option in goal.options if not isinstance(option, str) for word in option[0].split()}
    text = _PRICE_CLAUSE.sub("", goal.instruction).lower()
    for phrase in (*goal.attributes, *options):
        text = text.replace(phrase.lower(), " ")
    nouns = {word for word in _words(text) if word not in names}
    return nouns, [a.lower() for a in goal.attributes], [o.lower() for o in options]
