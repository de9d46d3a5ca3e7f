"""Which goals belong to which split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from stapo.envs.webshop.goals import GoalBook

SplitRule = Literal["disjoint", "original", "verl-agent"]
SPLIT_RULES: tuple[str, ...] = get_args(SplitRule)

_HELD_OUT = 10
"""One in so many products is held out for validation, and another for the test."""


def splits_of(book: GoalBook, rule: SplitRule, seed: int) -> dict[str, Sequence[str]]:
    """Split name -> sorted task ids, train first, without empty splits.

    Args:
        book: the goals.
        rule: "disjoint" parts the products, so that no product of a test goal is wanted in training. "original" and
            "verl-agent" part the shuffled list of goals by position, as these did: the same product occurs in
            several splits.
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


def _disjoint(book: GoalBook) -> dict[str, Sequence[str]]:
    """Products in the order of a hash of their ids: the first tenth is the test, the next the validation."""
    asking = np.flatnonzero(book.counts)
    asins = book.catalogue.column("asins")[asking]
    keys = np.array([hashlib.sha256(f"webshop split {asin}".encode()).digest()[:8] for asin in asins], dtype="S8")
    ranked = asking[np.argsort(keys, kind="stable")]
    held = len(ranked) // _HELD_OUT if len(ranked) >= _HELD_OUT else int(len(ranked) > 2)
    parts = {"train": ranked[2 * held :], "valid": ranked[held : 2 * held], "test": ranked[:held]}
    found: dict[str, Sequence[str]] = {}
    for name, products in parts.items():
        mask = np.zeros(len(book.counts), dtype=bool)
        mask[products] = True
        found[name] = book.ids(mask)
    return found
