"""Families: the layouts of the rooms, and which of them belong to train and which to heldout.

A layout says which receptacles a room has, which of them open and which stand at the same spot. Its
own content decides its split (a hash of it), so no layout can occur in both, not even by way of two
rooms that are furnished alike. A family is a layout of a room.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from stapo.envs.alfworld.generator.sizes import OPENABLE, Room, SceneSize, size_named
from stapo.envs.draws import Draws, digest
from stapo.errors import ConfigError

TRAIN, HELDOUT = "train", "heldout"
SPLITS = (TRAIN, HELDOUT)

# Of all layouts that the tables allow, one in this many can only occur in heldout.
HELDOUT_LAYOUTS_ONE_IN = 3

# Draws before a room is taken to have no further layouts.
_PATIENCE = 2000


@dataclass(frozen=True, slots=True)
class Receptacle:
    """A piece of furniture: its type, number within the type, whether it opens, and its spot."""

    type: str
    number: int
    opens: bool
    spot: int


@dataclass(frozen=True, slots=True)
class Family:
    """A layout of a room.

    Attributes:
        split: train or heldout.
        room: name of the room kind.
        receptacles: the furniture, sorted by type and number.
    """

    split: str
    room: str
    receptacles: tuple[Receptacle, ...]

    @property
    def types(self) -> frozenset[str]:
        """The receptacle types that occur."""
        return frozenset(r.type for r in self.receptacles)


def split_of(layout: str) -> str:
    """The only split in which a layout occurs."""
    return HELDOUT if digest("layout " + layout) % HELDOUT_LAYOUTS_ONE_IN == 0 else TRAIN


@lru_cache(maxsize=64)
def families(size_name: str) -> tuple[Family, ...]:
    """All families of a scene size, train and heldout, sorted by room."""
    size = size_named(size_name)
    return tuple(f for room in sorted(size.rooms) for f in _families_of(size_name, size, room))


def _families_of(size_name: str, size: SceneSize, room: str) -> list[Family]:
    draws = Draws(f"families {size_name} {room}")
    wanted = dict(zip(SPLITS, size.families, strict=True))
    found: dict[str, list[Family]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    for _ in range(_PATIENCE):
        if all(len(found[split]) == wanted[split] for split in SPLITS):
            break
        receptacles = _draw_layout(size, size.rooms[room], draws)
        layout = layout_of(receptacles)
        split = split_of(layout)
        if layout not in seen and len(found[split]) < wanted[split]:
            seen.add(layout)
            found[split].append(Family(split, room, receptacles))
    return [family for split in SPLITS for family in found[split]]


def _draw_layout(size: SceneSize, room: Room, draws: Draws) -> tuple[Receptacle, ...]:
    low, high = size.receptacles
    fewest, most = (sum(bound) for bound in zip(*room.furniture.values(), strict=True))
    if most < low or fewest > high:
        raise ConfigError(
            f"a room has {fewest} to {most} receptacles and its size asks for {low} to {high}. "
            f"Change the numbers of its furniture: {', '.join(sorted(room.furniture))}."
        )
    while True:
        counts = {type_: draws.between(*room.furniture[type_]) for type_ in sorted(room.furniture)}
        if low <= sum(counts.values()) <= high:
            break
    receptacles: list[Receptacle] = []
    spot = 0
    for type_, count in counts.items():
        for number in range(1, count + 1):
            joins = number > 1 and draws.chance(size.shared_spot)
            # Spot 0 is the middle of the room, where the agent starts.
            spot += 0 if joins else 1
            stuck = type_ in ("Cabinet", "Drawer") and draws.chance(size.fixed_front)
            receptacles.append(Receptacle(type_, number, type_ in OPENABLE and not stuck, spot))
    return tuple(receptacles)


def layout_of(receptacles: tuple[Receptacle, ...]) -> str:
    """What tells layouts apart: types, doors and shared spots, as one line of text."""
    at = Counter(r.spot for r in receptacles)
    return " ".join(r.type + ("+" if r.opens else "") + (f"@{r.spot}" if at[r.spot] > 1 else "") for r in receptacles)
