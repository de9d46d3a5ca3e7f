"""Display names: how the ids of the problem file become "desk 1" or "sinkbasin 2"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

_SEPARATOR = "_bar_"


def kind_of(entity: str) -> str:
    """The word that an id is shown under: "cup" for ``cup_bar__plus_00…``."""
    kind, separator, _ = entity.partition(_SEPARATOR)
    return kind + "basin" if separator and "basin" in entity else kind


def display_names(entities: Iterable[str]) -> dict[str, str]:
    """Number the entities of each kind.

    Within a kind the ids are sorted and numbered downwards: the first gets the highest number. Ids
    without coordinates (types, the agent) are not shown and keep their id.

    Args:
        entities: every lower-case id that occurs in the initial facts.
    """
    placed = sorted(e for e in set(entities) if _SEPARATOR in e)
    left = Counter(map(kind_of, placed))
    names: dict[str, str] = {}
    for entity in placed:
        kind = kind_of(entity)
        names[entity] = f"{kind} {left[kind]}"
        left[kind] -= 1
    return names
