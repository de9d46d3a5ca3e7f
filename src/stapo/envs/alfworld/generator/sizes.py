"""The scene sizes: how much there is in a scene and how well hidden it is."""

from __future__ import annotations

from dataclasses import dataclass, field

from stapo.envs.alfworld.game import TaskType
from stapo.envs.alfworld.generator.rooms import SEARCH, SMALL, STANDARD, TINY, Room
from stapo.errors import ConfigError, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
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
    targets: frozenset[str] | None = None
    families: tuple[int, int] = (16, 8)
    share: dict[TaskType, float] = field(default_factory=dict)


SIZES: dict[str, Size] = {
    "tiny": Size(
        rooms=TINY,
        receptacles=(4, 7),
        objects=(4, 6),
        most_alike=2,
        doors_of_two=1,
        families=(60, 20),
    ),
    "small": Size(
        rooms=SMALL,
        receptacles=(7, 9),
        objects=(6, 10),
        most_alike=2,
        doors_of_two=1,
        families=(20, 8),
    ),
    "standard": Size(
        rooms=STANDARD,
        receptacles=(15, 25),
        objects=(20, 35),
        most_alike=3,
        shared_spot=0.2,
        fixed_front=0.15,
        families=(24, 8),
    ),
    "search": Size(
        rooms=SEARCH,
        receptacles=(10, 14),
        objects=(5, 8),
        most_alike=2,
        usual=None,
        twin=0.0,
        # A target type with one or two pieces, so that the hiding places stay as many as the
        # receptacles.
        targets=frozenset({"CounterTop", "Desk", "SideTable", "Fridge", "Safe", "Shelf", "GarbageCan"}),
        families=(16, 8),
        share={
            "pick_heat_then_place_in_recep": 0.5,
            "pick_cool_then_place_in_recep": 0.5,
            "pick_two_obj_and_place": 0.5,
        },
    ),
}


def size_named(name: str) -> Size:
    """The size called `name`.

    Raises:
        ConfigError: there is no such size.
    """
    if not isinstance(name, str) or name not in SIZES:
        raise ConfigError(
            f"scenes is {name!r}, which is no scene size.{did_you_mean(str(name), SIZES)} "
            f"Sizes: {', '.join(sorted(SIZES))}."
        )
    return SIZES[name]
