"""Which goals belong to which split."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from stapo.envs.overlap import in_common, plain_text
from stapo.envs.webshop.goals import GoalBook
from stapo.envs.webshop.substitutes import substitutes
from stapo.texts import counted

SplitRule = Literal["disjoint", "original", "verl-agent"]
SPLIT_RULES: tuple[str, ...] = get_args(SplitRule)

_HELD_OUT = 10
"""One in so many products is held out for validation, and another for the test."""
_MOST_COUNTED = 200_000
"""Goals that are put into words to count what splits have in common."""


def splits_of(book: GoalBook, rule: SplitRule, seed: int) -> dict[str, Sequence[str]]:
    """Split name -> sorted task ids, train first, without empty splits.

    Args:
        book: the goals.
        rule: "disjoint" parts the products, so that neither a product of a test goal nor one that can be bought in its
            stead is wanted in training. "original" and "verl-agent" part the shuffled list of goals by position, as
            these did: the same product occurs in several splits.
        seed: of the shuffle; "disjoint" does not use it.
    """
    if rule == "disjoint":
        found = _disjoint(book)
    else:
        order = book.shuffled(seed)
        ends = {"test": 500, "dev": 1_500} if rule == "original" else {"eval": 500}
        found, first = {}, 0
        for name, end in {**ends, "train": book.total}.items():
            found[name] = sorted(book.id_of(number) for number in order[first:end])
            first = end
        found = {"train": found.pop("train"), **found}
    return {name: ids for name, ids in found.items() if len(ids)}


def notes_on(book: GoalBook, rule: SplitRule, parts: Mapping[str, Sequence[str]]) -> list[str]:
    """What is in common to training and what is held out, a sentence for each; none where nothing is."""
    if rule == "disjoint":
        if substitutes(book).compared:
            return []
        return [
            f"{book.catalog.source} has too many products to compare purchases: products whose goals are in the same "
            "words are on one side of the splits, others that can be bought for each other may be on both."
        ]
    if sum(map(len, parts.values())) > _MOST_COUNTED:
        return [f"goals are parted one by one (splits={rule}, as published), too many to count what splits share."]
    goals = {split: [book.find(task) for task in ids] for split, ids in parts.items()}
    worded = {split: [plain_text(book.goal(*goal).instruction) for goal in each] for split, each in goals.items()}
    groups = substitutes(book).groups
    wanted = {split: [str(groups[product]) for product, _ in each] for split, each in goals.items()}
    return [
        *(
            f"'{first}' holds {same:,} of {counted(of, 'task')} of '{held}' word for word (splits={rule}, as "
            "published)."
            for first, held, same, of, _ in in_common(worded)
        ),
        *(
            f"'{first}' asks for the products of {same:,} of {counted(of, 'task')} of '{held}', or for ones that can "
            f"be bought in their stead (splits={rule}, as published). splits=disjoint has neither."
            for first, held, same, of, _ in in_common(wanted)
            if first == "train"
        ),
    ]


def _disjoint(book: GoalBook) -> dict[str, Sequence[str]]:
    """Groups of substitutes in the order of a hash of their products' ids; a tenth of the products each are held out.

    A group that does not fit into what is left of its part goes to the next one, and to train in the end.
    """
    asking = np.flatnonzero(book.counts)
    asins = book.catalog.column("asins")[asking]
    keys = np.array([hashlib.sha256(f"webshop split {asin}".encode()).digest()[:8] for asin in asins], dtype="S8")
    ranked = asking[np.argsort(keys, kind="stable")]
    held = len(ranked) // _HELD_OUT if len(ranked) >= _HELD_OUT else int(len(ranked) > 2)
    groups: dict[int, list[int]] = {}
    for product, group in zip(ranked.tolist(), substitutes(book).groups[ranked].tolist(), strict=True):
        groups.setdefault(group, []).append(product)
    left = list(groups.values())
    test, left = _held_out(left, held)
    valid, left = _held_out(left, held)
    found: dict[str, Sequence[str]] = {}
    for name, products in {"train": left, "valid": valid, "test": test}.items():
        mask = np.zeros(len(book.counts), dtype=bool)
        mask[[product for group in products for product in group]] = True
        found[name] = book.ids(mask)
    return found


def _held_out(groups: list[list[int]], most: int) -> tuple[list[list[int]], list[list[int]]]:
    """Groups of at most so many products together, and the rest of them; a smallest one where all are larger."""
    taken: list[list[int]] = []
    rest: list[list[int]] = []
    for group in groups:
        fits = sum(map(len, taken)) + len(group) <= most
        (taken if fits else rest).append(group)
    if most and not taken and len(rest) > 1:
        smallest = min(rest, key=len)
        if 2 * len(smallest) < sum(map(len, rest)):
            rest.remove(smallest)
            taken = [smallest]
    return taken, rest
