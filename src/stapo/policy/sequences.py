"""Rows of one episode, read as one sequence where each prompt extends the last.

A row is one step: its prompt, and the response that was sampled. Where a prompt begins with the last prompt and the
last response of its episode, token for token, a causal model that reads the longer row has read the shorter one. Such
rows form a chain: one forward pass over its last row gives the hidden states of all of them. The last token of a
response is predicted and never read, so a prompt need not repeat it: an end token, mostly. Everything that is computed
of rows stays that of rows.

A row also says which tokens its response might have taken, where these are not all of the vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stapo.texts import counted


class FreeTokens:
    """Tokens that a text of the agent's own may take; one object stands for all positions that may take them.

    Args:
        characters: token id -> characters of its text.

    Attributes:
        ids: (M,) the ids, ascending.
    """

    def __init__(self, characters: Mapping[int, int]) -> None:
        self.characters = dict(sorted(characters.items()))
        self.ids = np.fromiter(self.characters, dtype=np.int64, count=len(self.characters))


class Allowed(NamedTuple):
    """Tokens that one position may take.

    Attributes:
        ids: single ones, ascending.
        free: further ones, where the position is in a text of the agent's own.
    """

    ids: tuple[int, ...]
    free: FreeTokens | None = None

    @property
    def choice(self) -> bool:
        """Whether there is more than one."""
        return self.free is not None or len(self.ids) > 1

    def has(self, token: int) -> bool:
        """Whether `token` is among them."""
        return token in self.ids or (self.free is not None and token in self.free.characters)


@dataclass(frozen=True, slots=True)
class RowTokens:
    """Prompt and response of one row, as token ids.

    Attributes:
        prompt_ids: tokens of the prompt.
        response_ids: tokens of the response.
        allowed: the tokens that each position of the response might have taken; None for the whole vocabulary.
        chain: number of the sequence that the row is a part of; None where it is read by itself. Rows of a chain that
            are read together stand next to each other, in the order of their steps; some may be missing.
    """

    prompt_ids: Sequence[int]
    response_ids: Sequence[int]
    allowed: Sequence[Allowed] | None = None
    chain: int | None = None

    @property
    def length(self) -> int:
        """Tokens of the forward pass: the last response token is predicted, never read."""
        return len(self.prompt_ids) + len(self.response_ids) - 1

    @property
    def read(self) -> list[int]:
        """The tokens of the forward pass."""
        return [*self.prompt_ids, *self.response_ids[:-1]]


@dataclass(frozen=True)
class Chains:
    """Which rows are read together.

    Attributes:
        chain_b: number of each row's sequence, from 0, in the order of the rows.
        rows: number of rows, B.
        sequences: number of sequences.
        row_tokens: tokens of the forward passes, every row by itself.
        tokens: tokens of the forward passes, every sequence once.
        breaks: how often a row did not continue its episode's sequence, by what it did not repeat: "prompt" or
            "response".
    """

    chain_b: list[int]
    rows: int
    sequences: int
    row_tokens: int
    tokens: int
    breaks: dict[str, int]


def find_chains(
    rows: Sequence[RowTokens], episodes: Sequence[int], *, merge: bool = True, whole: bool = False
) -> Chains:
    """Find the rows that continue the row before them.

    Args:
        rows: of all episodes, those of one episode next to each other and in order.
        episodes: number of each row's episode.
        merge: whether rows may be joined at all; without, each is a sequence of its own.
        whole: whether a prompt has to repeat the last token of a response as well. A list of tokens with a mask that
            says which were sampled needs it; a forward pass does not.

    Raises:
        ValueError: not one episode for each row.
    """
    if len(rows) != len(episodes):
        raise ValueError(
            f"episodes is of length {len(episodes)}, expected one for each of {counted(len(rows), 'row')}."
        )
    chain_b: list[int] = []
    breaks: Counter[str] = Counter()
    for b, row in enumerate(rows):
        joined = False
        if merge and b and episodes[b] == episodes[b - 1]:
            missing = _not_repeated(rows[b - 1], row, whole)
            joined = missing is None
            breaks.update([missing] if missing else [])
        chain_b.append(chain_b[-1] if joined else chain_b[-1] + 1 if chain_b else 0)
    ends = [b for b in range(len(rows)) if b + 1 == len(rows) or chain_b[b + 1] != chain_b[b]]
    return Chains(
        chain_b,
        len(rows),
        len(ends),
        sum(row.length for row in rows),
        sum(rows[b].length for b in ends),
        dict(sorted(breaks.items())),
    )


def _not_repeated(last: RowTokens, row: RowTokens, whole: bool) -> str | None:
    """What of the last row a prompt does not repeat; None where it extends the row."""
    prompt, said = len(last.prompt_ids), list(last.response_ids if whole else last.response_ids[:-1])
    if list(row.prompt_ids[:prompt]) != list(last.prompt_ids):
        return "prompt"
    return None if list(row.prompt_ids[prompt : prompt + len(said)]) == said else "response"


def chained(places: Sequence[int], chain_b: Sequence[int]) -> list[list[int]]:
    """Group places of rows by chain: chains in order of their first place, places in order of the rows."""
    groups: dict[int, list[int]] = {}
    for place in places:
        groups.setdefault(chain_b[place], []).append(place)
    return [sorted(group) for group in groups.values()]


def micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut row indices into micro-batches of at most `budget` padded tokens, shortest rows first.

    A row longer than the budget gets a micro-batch of its own. The loss carries its divisors along, so the cut does
    not change any number.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    batches: list[list[int]] = []
    for i in order:
        if batches and (len(batches[-1]) + 1) * lengths[i] <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def row_batches(rows: Sequence[RowTokens], budget: int) -> list[list[int]]:
    """`micro_batches` of rows that may be parts of chains: every chain is in one of them, and counts once.

    Args:
        rows: those of one chain in the order of their steps.
        budget: padded tokens of a forward pass.

    Returns:
        indices of rows, those of a chain next to each other.
    """
    numbers = [-1 - i if row.chain is None else row.chain for i, row in enumerate(rows)]
    sequences = chained(range(len(rows)), numbers)
    longest = [rows[sequence[-1]].length for sequence in sequences]
    return [[i for s in batch for i in sequences[s]] for batch in micro_batches(longest, budget)]
