"""The task list of the generated scenes: ids, and the game behind an id, as PDDL of the ALFWorld release.

A scene is a family filled with objects, so that one goal can be reached in it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import indent

from stapo.checks import check_integer
from stapo.envs.alfworld.game import MOST_GAMES, TASK_TYPES, Game, TaskType
from stapo.envs.alfworld.generator.goals import TREATMENT, GoalTemplate, draw_goal
from stapo.envs.alfworld.generator.layouts import SPLITS, Family, Receptacle
from stapo.envs.alfworld.generator.sizes import BASIN_OF, KINDS, ObjectKind, SceneSize, size_named
from stapo.envs.draws import Draws
from stapo.errors import unknown_name

# Six digits, or more without a leading zero: no game has two ids.
_ID = re.compile(
    r"generated-(?P<scenes>[a-z]+)/(?P<split>[a-z]+)/(?P<type>[a-z_]+)/(?P<number>[0-9]{6}|[1-9][0-9]{6,17})"
)

_FACT_OF = {
    "hold": "isReceptacleObject",
    "take": "pickupable",
    "clean": "cleanable",
    "heat": "heatable",
    "cool": "coolable",
    "slice": "sliceable",
    "toggle": "toggleable",
}
_DONE = {"clean": "isClean", "heat": "isHot", "cool": "isCool"}


@dataclass(frozen=True, slots=True)
class Thing:
    """An object of a scene: its kind, its number within the kind and where it lies."""

    kind: ObjectKind
    number: int
    at: Receptacle


class GeneratedGames:
    """Household games made on demand, each a pure function of its id.

    An id reads ``generated-<size>/<split>/<task type>/<number>``. `ids` lists `games_per_type` of
    each type (fewer where the size says so), but every number, however large, has its game.
    """

    def __init__(self, scenes: str = "small", games_per_type: int = 200) -> None:
        """Choose the scene size and how many games `ids` lists.

        Args:
            scenes: small, standard or search.
            games_per_type: listed games of each task type in each split.

        Raises:
            ConfigError: no such size, or `games_per_type` below 1 or above 100,000.
        """
        self.size = size_named(scenes)
        self.scenes = scenes
        self.games_per_type = check_integer("games_per_type", games_per_type, 1, MOST_GAMES)

    def splits(self) -> list[str]:
        """The names of the splits, train first."""
        return list(SPLITS)

    def ids(self, split: str) -> list[str]:
        """The listed task ids of a split, sorted.

        Raises:
            UnknownNameError: there is no such split.
        """
        if split not in SPLITS:
            raise unknown_name("split of the generated games", split, SPLITS)
        return sorted(
            self._id(split, task_type, number) for task_type in TASK_TYPES for number in range(self._listed(task_type))
        )

    def load(self, task_id: str) -> Game:
        """Make the game of an id.

        Raises:
            UnknownNameError: the id is malformed or belongs to another scene size.
        """
        split, task_type, number = self._parse(task_id)
        draws = Draws(task_id)
        family, goal = draw_goal(self.scenes, split, task_type, draws)
        things = furnish(self.size, family, goal, draws)
        name = f"generated_{self.scenes}_{split}_{task_type}_{number}"
        return Game(
            id=task_id,
            split=split,
            task_type=task_type,
            goal=goal.sentence(draws),
            pddl_problem=problem(name, family, things, goal, holds_all=self.size.usual is None),
        )

    def task_type(self, task_id: str) -> TaskType:
        """The family of a game, read off its id.

        Raises:
            UnknownNameError: as for `load`.
        """
        return self._parse(task_id)[1]

    def _listed(self, task_type: TaskType) -> int:
        return max(1, round(self.games_per_type * self.size.share.get(task_type, 1.0)))

    def _id(self, split: str, task_type: TaskType, number: int) -> str:
        return f"generated-{self.scenes}/{split}/{task_type}/{number:06d}"

    def _parse(self, task_id: str) -> tuple[str, TaskType, str]:
        found = _ID.fullmatch(task_id) if isinstance(task_id, str) else None
        if found and found["scenes"] == self.scenes and found["split"] in SPLITS:
            for task_type in TASK_TYPES:
                if found["type"] == task_type:
                    return found["split"], task_type, found["number"]
        raise unknown_name("generated game", str(task_id), self._examples(str(task_id)))

    def _examples(self, task_id: str) -> list[str]:
        """One id per split and type, with the number that `task_id` seems to mean."""
        digits = re.search(r"0*([0-9]{1,17})$", task_id, re.ASCII)
        number = int(digits[1]) if digits else 0
        return [self._id(split, type_, number) for split in SPLITS for type_ in TASK_TYPES]


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


def problem(name: str, family: Family, things: list[Thing], goal: GoalTemplate, *, holds_all: bool) -> str:
    """Write a scene and its goal as a PDDL problem.

    Args:
        name: name of the problem, without blanks.
        family: the furniture.
        things: the objects.
        goal: what must become true.
        holds_all: any receptacle can contain any object, as in scenes that hide objects anywhere.
    """
    kinds = {thing.kind.name: thing.kind for thing in things}
    types = sorted(family.types)
    spots = sorted({0} | {r.spot for r in family.receptacles})
    objects = [
        "agent1 - agent",
        *(f"{kind}Type - otype" for kind in kinds),
        *(f"{type_}Type - rtype" for type_ in types),
        *(f"{_thing_id(thing)} - object" for thing in things),
        *(f"{_receptacle_id(r)} - receptacle" for r in family.receptacles),
        *(f"{_spot_id(spot)} - location" for spot in spots),
    ]
    facts = [
        *(f"(receptacleType {_receptacle_id(r)} {r.type}Type)" for r in family.receptacles),
        *(f"(objectType {_thing_id(thing)} {thing.kind.name}Type)" for thing in things),
        *(
            f"(canContain {type_}Type {kind.name}Type)"
            for kind in kinds.values()
            if "take" in kind.can
            for type_ in types
            if holds_all or type_ in kind.places
        ),
        *(
            f"({fact} {_thing_id(thing)})"
            for ability, fact in _FACT_OF.items()
            for thing in things
            if ability in thing.kind.can
        ),
        *(f"(openable {_receptacle_id(r)})" for r in family.receptacles if r.opens),
        f"(atLocation agent1 {_spot_id(0)})",
        *(f"(inReceptacle {_thing_id(thing)} {_receptacle_id(thing.at)})" for thing in things),
        *(f"(receptacleAtLocation {_receptacle_id(r)} {_spot_id(r.spot)})" for r in family.receptacles),
        *(f"(objectAtLocation {_thing_id(thing)} {_spot_id(thing.at.spot)})" for thing in things),
    ]
    treatment = TREATMENT.get(goal.task_type)
    formula = goal.formula(**({"able": _FACT_OF[treatment], "done": _DONE[treatment]} if treatment else {}))
    return (
        f"(define (problem {name})\n(:domain alfred)\n"
        f"(:objects\n{_lines(objects)})\n(:init\n{_lines(facts)})\n(:goal\n{indent(formula, '    ')}\n)\n)\n"
    )


def _lines(items: Iterable[str]) -> str:
    return "".join(f"    {item}\n" for item in items)


def _thing_id(thing: Thing) -> str:
    return f"{thing.kind.name}_bar_{thing.number:02d}"


def _receptacle_id(receptacle: Receptacle) -> str:
    fixture = BASIN_OF.get(receptacle.type)
    if fixture is None:
        return f"{receptacle.type}_bar_{receptacle.number:02d}"
    return f"{fixture}_bar_{receptacle.number:02d}_bar_{receptacle.type}"


def _spot_id(spot: int) -> str:
    return f"loc_bar_{spot:02d}"
