"""Which tokens a response may take at each of its positions, where these are not all of the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


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
