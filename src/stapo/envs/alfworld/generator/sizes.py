"""What there is in a household, from household.yaml, and the scene sizes of sizes.yaml: rooms, how much is in a scene.

The names are the generic household words of the ALFWorld dialect (goal formulas name them as ``<Name>Type``); which
ones exist here, what can be done with them and where they belong is this project's own design. To add a kind of object,
add a row to household.yaml and name it in a room of sizes.yaml. To add a room, add an entry to a size there: nothing
else needs to change, since the goals that a room offers follow from its furniture and its objects.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stapo.checks import check_choice
from stapo.documents import package_data
from stapo.envs.alfworld.game import TaskType

# Receptacles with a door, lid or front; all of them start closed.
OPENABLE = frozenset({"Cabinet", "Drawer", "Fridge", "Microwave", "Safe"})

# How the dialect writes the id of a basin: the fixture first, the basin as a suffix.
BASIN_OF = {"SinkBasin": "Sink", "BathtubBasin": "Bathtub"}

# The appliance that makes an object clean, hot or cool.
APPLIANCE = {"clean": "SinkBasin", "heat": "Microwave", "cool": "Fridge"}


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """A kind of object.

    Attributes:
        name: the dialect's name without ``Type``.
        can: what can be done with it: take, clean, heat, cool, slice, toggle, hold (it is a
            container itself).
        usual: receptacle types it is normally found at.
        other: further receptacle types it may stand at or be put at.
    """

    name: str
    can: frozenset[str]
    usual: tuple[str, ...]
    other: tuple[str, ...]

    @property
    def places(self) -> tuple[str, ...]:
        """Every receptacle type that can contain it."""
        return self.usual + self.other


def _kind(name: str, can: str = "", usual: str = "", other: str = "") -> ObjectKind:
    return ObjectKind(name, frozenset(can.split()), tuple(usual.split()), tuple(other.split()))


KINDS = {name: _kind(name, **row) for name, row in package_data(__package__, "household.yaml").items()}


@dataclass(frozen=True, slots=True)
class Room:
    """A kind of room.

    Attributes:
        furniture: fewest and most receptacles of each type; a family (see `layouts`) is one way to fill them in.
        objects: names of the object kinds that live here.
    """

    furniture: dict[str, tuple[int, int]]
    objects: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneSize:
    """One scene size.

    Attributes:
        rooms: the room kinds, by name.
        receptacles: fewest and most receptacles of a scene.
        objects: fewest and most objects of a scene.
        most_alike: most objects of one kind; the numbers in names end here.
        usual: probability that an object lies where its kind is usually found; None hides every
            object in any receptacle of the room, all equally likely.
        twin: probability that there is a second object of the kind that the goal asks for.
        shared_spot: probability that a receptacle stands where its neighbor of the same type
            stands.
        fixed_front: probability that a cabinet or drawer does not open, as some in the release do
            not.
        doors_of_two: most closed doors on the way of a pick-two task, which would else have the
            longest plans.
        targets: receptacle types that goals may name, or None for all.
        families: families of each room in train and in heldout.
        share: games of a task type in units of `games_per_type`, where it is not 1.
    """

    rooms: dict[str, Room]
    receptacles: tuple[int, int]
    objects: tuple[int, int]
    most_alike: int
    usual: float | None = 0.8
    twin: float = 0.3
    shared_spot: float = 0.0
    fixed_front: float = 0.0
    doors_of_two: int = 3
    targets: tuple[str, ...] | None = None
    families: tuple[int, int] = (16, 8)
    share: dict[TaskType, float] = field(default_factory=dict)


def _room(objects: str, furniture: dict[str, int | tuple[int, int]]) -> Room:
    counts = {name: (n, n) if isinstance(n, int) else n for name, n in furniture.items()}
    return Room(counts, tuple(objects.split()))


def _size(rooms: dict[str, Any], **others: Any) -> SceneSize:
    return SceneSize(rooms={name: _room(**room) for name, room in rooms.items()}, **others)


SIZES = {name: _size(**given) for name, given in package_data(__package__, "sizes.yaml").items()}


def size_named(name: str) -> SceneSize:
    """The size called `name`.

    Raises:
        ConfigError: there is no such size.
    """
    return SIZES[check_choice("scenes", name, SIZES)]
