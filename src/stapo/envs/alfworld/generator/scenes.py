"""Scenes: a family filled with objects, so that one goal can be reached in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from stapo.envs.alfworld.generator.goals import GoalTemplate
from stapo.envs.alfworld.generator.layouts import Family, Receptacle
from stapo.envs.alfworld.generator.sizes import KINDS, ObjectKind, SceneSize
from stapo.envs.draws import Draws


@dataclass(frozen=True, slots=True)
class Thing:
    """An object of a scene: its kind, its number within the kind and where it lies."""

    kind: ObjectKind
    number: int
    at: Receptacle


def furnish(size: SceneSize, family: Family, goal: GoalTemplate, draws: Draws) -> list[Thing]:
    """Put objects into a family: those that the goal needs, then others that live in the room."""
    room = size.rooms[family.room]
    wanted = KINDS[goal.object]
    placed: list[tuple[ObjectKind, Receptacle]] = []

    if goal.task_type == "pick_two_obj_and_place":
        placed += [(wanted, at) for at in _two_places(size, family, goal, draws)]
    else:
        placed.append((wanted, _place(size, wanted, family, draws, goal.target)))
        if draws.chance(size.twin):
            placed.append((wanted, _place(size, wanted, family, draws, goal.target)))
    if goal.target in KINDS:
        lamp = KINDS[goal.target]
        placed.append((lamp, _place(size, lamp, family, draws)))

    count = Counter(kind.name for kind, _ in placed)
    total = draws.between(*size.objects)
    spare = [
        KINDS[name]
        for name in room.objects
        for _ in range(1 if "take" not in KINDS[name].can else size.most_alike)
        # Further objects of the wanted kind would make the search easier than the size says.
        if name not in count and family.types & set(KINDS[name].places)
    ]
    for kind in draws.shuffled(spare)[: max(0, total - len(placed))]:
        placed.append((kind, _place(size, kind, family, draws)))

    # Numbers are dealt in random order, or the object that the goal was built on would always be
    # the same one.
    return _numbered(draws.shuffled(placed))


def _numbered(placed: list[tuple[ObjectKind, Receptacle]]) -> list[Thing]:
    count: Counter[str] = Counter()
    things = []
    for kind, at in placed:
        count[kind.name] += 1
        things.append(Thing(kind, count[kind.name], at))
    return sorted(things, key=lambda thing: (thing.kind.name, thing.number))


def _place(
    size: SceneSize, kind: ObjectKind, family: Family, draws: Draws, avoid: str = "", *, closed: bool = True
) -> Receptacle:
    """Draw where an object lies.

    Never at a receptacle of type `avoid`; in one that is closed only if `closed`.
    """
    free = [r for r in family.receptacles if r.type != avoid and (closed or not r.opens)]
    if size.usual is None and "take" in kind.can:
        return draws.choice(free)
    usual = [r for r in free if r.type in kind.usual]
    other = [r for r in free if r.type in kind.other]
    expected = draws.chance(1.0 if size.usual is None else size.usual)
    return draws.choice((usual or other) if expected else (other or usual))


def _two_places(size: SceneSize, family: Family, goal: GoalTemplate, draws: Draws) -> list[Receptacle]:
    kind = KINDS[goal.object]
    doors = size.doors_of_two - all(r.opens for r in family.receptacles if r.type == goal.target)
    places: list[Receptacle] = []
    for _ in range(2):
        places.append(_place(size, kind, family, draws, goal.target, closed=doors > 0))
        doors -= places[-1].opens
    return places
