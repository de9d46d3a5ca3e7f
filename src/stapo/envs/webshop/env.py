"""The WebShop environment: an instruction, a shop, at most one purchase, under the public protocol."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from stapo.checks import check_choice, check_flag, check_integer, check_number
from stapo.envs.protocol import CommandShapes, Observation, StepResult, begun, going_on
from stapo.envs.webshop.catalog import Catalog, open_catalog
from stapo.envs.webshop.demonstrator import Demonstrator, ready_queries
from stapo.envs.webshop.expert import best_plan
from stapo.envs.webshop.goals import GoalBook, GoalKind, ShoppingGoal, goal_book
from stapo.envs.webshop.judge import ShopJudge
from stapo.envs.webshop.pages import PAGE_SEPARATOR
from stapo.envs.webshop.reward import noun_extractor as extractor
from stapo.envs.webshop.shop import Visit
from stapo.envs.webshop.sources import GeneratedSource, Source, file_source
from stapo.envs.webshop.splits import SPLIT_RULES, SplitRule, notes_on, splits_of
from stapo.errors import ConfigError, unknown_name
from stapo.progress import note

OBSERVATIONS = ("text", "text_rich", "verl-agent")
SEARCH_COMMAND = "search[<your query>]"
"""How the list of commands shows that the page has a search bar."""


class WebShopEnv:
    """Shopping by instruction, one episode at a time.

    Args:
        products: items_shuffle*.json of the release; None plays in a generated shop.
        attributes: items_ins_v2*.json; None looks beside the products.
        human_goals: items_human_ins.json; None looks beside the products, if it is needed.
        goals: "synthetic" (one per combination of options) or "human" (one per person's instruction).
        observation: "text" (text nodes joined by [SEP]), "text_rich" (marked buttons) or "verl-agent" ("text" without
            the instruction, each part quoted).
        splits: "disjoint" parts the products, those that can be bought for each other together; "original" and
            "verl-agent" part the shuffled goals by position.
        noun_extractor: "builtin" or "spacy"; moves partial scores only.
        reward: "success" rewards a perfect purchase with 1 and every other with nothing, as verl-agent does; "score"
            rewards each with its score, 0 … 1, as the original engine does.
        max_steps: actions after which an episode ends without a purchase.
        page_size: products on a page of results; the original shows 10.
        show_attrs: item pages have a button `Attributes`, which leads to the product's attributes and categories.
        seed: shuffles the goals; used by the splits "original" and "verl-agent".
        price_seed: draws prices out of ranges, and price limits.
        verl_seed: sets both seeds to this number, as each worker of verl-agent does with its own. Workers then have
            other price limits and other splits than their neighbors.
        size: size of the generated shop.
        catalog_products: products of the generated shop; None for the size's own number.
        catalog_seed: another seed, another generated shop.
        goals_per_product: at most so many goals of each product in every split, evenly spaced among them; None keeps
            all. On the 1,000 products 97 % of the goals belong to the half of the products that have options.
        offered_queries: the start page offers three ready searches instead of a search bar: for the thing, for the
            thing with its attributes, and also with its options. For agents that choose from a list.
        demonstrator_haste: share of products that the demonstrator takes for what their title says, without opening
            the pages `Features` and `Description`, which are too long for the prompts of a small policy.

    Raises:
        ConfigError: an option that cannot be used.
        GameFileError: files that cannot be used.
    """

    name = "webshop"
    default_presets: Mapping[str, str] = {"scratch": "webshop-tiny", "pretrained": "smollm2/webshop"}
    has_task_score = True
    chat_settings: Mapping[str, Any] = {
        "prompt": "webshop", "response": "think_action", "fallback_characters": 20, "max_prompt_characters": 13000,
        "max_prompt_tokens": 4096, "max_response_tokens": 512,
    }  # fmt: skip
    command_shapes = CommandShapes(
        grouped=("click",),
        link=("click[", "]"),
        query=("search[", "]"),
        separator=PAGE_SEPARATOR,
        place="in the text version of an online store",
        choice_hint="--env.offered-queries true offers searches to choose from.",
    )

    def __init__(
        self,
        products: str | os.PathLike[str] | None = None,
        attributes: str | os.PathLike[str] | None = None,
        human_goals: str | os.PathLike[str] | None = None,
        goals: str = "synthetic",
        observation: str = "text",
        splits: str = "disjoint",
        noun_extractor: str = "builtin",
        max_steps: int = 15,
        page_size: int = 10,
        show_attrs: bool = False,
        seed: int = 233,
        price_seed: int = 0,
        verl_seed: int | None = None,
        size: str = "standard",
        catalog_products: int | None = None,
        catalog_seed: int = 0,
        goals_per_product: int | None = None,
        demonstrator_haste: float = 0.0,
        offered_queries: bool = False,
        reward: str = "success",
    ) -> None:
        check_choice("goals", goals, get_args(GoalKind))
        check_choice("splits", splits, SPLIT_RULES)
        if verl_seed is not None:
            seed = price_seed = check_integer("verl_seed", verl_seed, 0)
        if catalog_products is not None:
            check_integer("catalog_products", catalog_products, 1)
        check_integer("catalog_seed", catalog_seed, 0)
        check_integer("price_seed", price_seed, 0)
        self._seed = check_integer("seed", seed, 0)
        if goals_per_product is not None:
            check_integer("goals_per_product", goals_per_product, 1)
        self._most_goals = goals_per_product
        self._haste = check_number("demonstrator_haste", demonstrator_haste, 0, 1)
        self._offers_queries = check_flag("offered_queries", offered_queries)
        self._graded = check_choice("reward", reward, ("success", "score")) == "score"
        self.max_steps = check_integer("max_steps", max_steps, 1)
        self.page_size = check_integer("page_size", page_size, 1)
        self.show_attrs = check_flag("show_attrs", show_attrs)
        self.observation = check_choice("observation", observation, OBSERVATIONS)
        self._nouns = extractor(noun_extractor)
        source: Source
        if products is None:
            if attributes is not None or human_goals is not None:
                raise ConfigError("attributes and human_goals belong to products=PATH, which was not given. Add it.")
            source = GeneratedSource(size, catalog_products, catalog_seed)
        else:
            source = file_source(products, attributes, human_goals, need_human=goals == "human")
        self._catalog = open_catalog(source)
        self._book = goal_book(self._catalog, goals, price_seed)  # type: ignore[arg-type]
        self._rule: SplitRule = splits  # type: ignore[assignment]
        self._played: dict[str, Sequence[str]] | None = None
        self._visit: Visit | None = None
        self._steps = 0
        self._done = False

    @property
    def tasks(self) -> Sequence[str]:
        """All task ids, sorted: `ASIN/number`."""
        return self._book.all_ids

    @property
    def splits(self) -> Sequence[str]:
        """Names of the splits that hold at least one task, train first."""
        return tuple(self._parts())

    def tasks_of(self, split: str) -> Sequence[str]:
        """Sorted task ids of one split."""
        parts = self._parts()
        if not isinstance(split, str) or split not in parts:
            raise unknown_name("split", split, parts)
        return parts[split]

    @property
    def notes(self) -> list[str]:
        """What splits have in common, counted; empty where they share no purchase."""
        parts = self._parts()
        key = (self._rule, self._seed, self._most_goals)
        if key not in self._book.notes:
            self._book.notes[key] = notes_on(self._book, self._rule, parts)
        return self._book.notes[key]

    def task_type(self, task_id: str) -> str:
        """Category of the product that the goal was made from."""
        product, _ = self._book.find(task_id)
        return self._catalog.category_of(product)

    def reset(self, task_id: str) -> Observation:
        """Start the episode of a task, on the start page.

        Raises:
            UnknownNameError: no such task.
        """
        goal = self._book.goal(*self._book.find(task_id))
        self._visit = visit = Visit(
            self._catalog, goal, self._book.price, self._nouns, self.page_size, show_attrs=self.show_attrs
        )
        self._steps, self._done = 0, False
        text, blind = self._texts(visit)
        return Observation(text=text, goal=goal.instruction, admissible=self._commands(visit), blind_text=blind)

    def step(self, action: str) -> StepResult:
        """Take one action; what the page does not offer leaves it as it is."""
        visit = going_on(self._visit, self._done)
        effect = visit.act(action) if isinstance(action, str) else False
        self._steps += 1
        bought = visit.score
        truncated = bought is None and self._steps >= self.max_steps
        self._done = bought is not None or truncated
        score = 0.0 if bought is None else bought.total
        won = score == 1
        info: dict[str, Any] = {"truncated": truncated, "effect": effect}
        if self._done:
            info["task_score"] = score
        if bought is not None:
            info["score_details"] = bought.details()
        text, blind = self._texts(visit)
        return StepResult(
            text=text,
            admissible=self._commands(visit),
            reward=score if self._graded else float(won),
            done=self._done,
            won=won,
            info=info,
            blind_text=blind,
        )

    def close(self) -> None:
        """End the episode; the environment can be reset again."""
        self._visit = None

    # -- beyond the protocol ---------------------------------------------------------------------

    @property
    def catalog(self) -> Catalog:
        """The products and their search."""
        return self._catalog

    @property
    def goals(self) -> GoalBook:
        """The goals by number."""
        return self._book

    @property
    def visit(self) -> Visit:
        """The current episode, live. Raises EnvError before reset."""
        return begun(self._visit, "visit")

    @property
    def goal(self) -> ShoppingGoal:
        """The goal of the current episode. Raises EnvError before reset."""
        return self.visit.goal

    def expert_plan(self) -> list[str] | None:
        """Actions from the open page to a purchase that scores 1; see `stapo.envs.webshop.expert.best_plan`.

        Returns:
            The actions, none when that purchase was made; None where there is no way.

        Raises:
            EnvError: before reset.
        """
        return best_plan(self.visit)

    def judge(self) -> ShopJudge:
        """A judge of the steps of the episode just reset; see `stapo.envs.protocol.Judge`.

        Raises:
            EnvError: before reset.
        """
        return ShopJudge(self.visit)

    def demonstrator(self, rng: random.Random) -> Demonstrator:
        """A player for the episode just reset that knows the instruction and the pages it has opened."""
        return Demonstrator(self.visit, rng, self.max_steps, self._haste, ready=self._offers_queries)

    def _commands(self, visit: Visit) -> list[str]:
        """The commands that a page offers, sorted."""
        if self._offers_queries and visit.can_search:
            return [f"search[{query}]" for query in ready_queries(visit)]
        found = [f"click[{text}]" for text in visit.targets]
        return sorted([*found, SEARCH_COMMAND] if visit.can_search else found)

    def _parts(self) -> dict[str, Sequence[str]]:
        if self._played is None:
            key = (self._rule, self._seed)
            if key not in self._book.splits:
                self._book.splits[key] = splits_of(self._book, self._rule, self._seed)
            whole = self._book.splits[key]
            most = self._most_goals
            self._played = whole if most is None else {name: _capped(ids, most) for name, ids in whole.items()}
            for text in self.notes:
                note(text)
        return self._played

    def _texts(self, visit: Visit) -> tuple[str, str]:
        if self.observation == "text_rich":
            return visit.rich_text(), visit.rich_text(blind=True)
        if self.observation == "text":
            return visit.text(), visit.text(blind=True)
        text = visit.text(blind=True)
        if visit.page != "done":
            shown = text.split(PAGE_SEPARATOR)
            text = PAGE_SEPARATOR.join(f"'{part}'" for part in (shown[1:] if visit.page == "start" else shown))
        return text, text


def _capped(task_ids: Sequence[str], most: int) -> list[str]:
    """At most so many task ids of each product, evenly spaced among them, in their order."""
    by_product: dict[str, list[str]] = {}
    for task_id in task_ids:
        by_product.setdefault(task_id.partition("/")[0], []).append(task_id)
    kept = {ids[k * len(ids) // min(most, len(ids))] for ids in by_product.values() for k in range(min(most, len(ids)))}
    return [task_id for task_id in task_ids if task_id in kept]
