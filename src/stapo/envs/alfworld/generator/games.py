"""The task list of the generated scenes: ids, and the game behind an id, as PDDL of the ALFWorld release."""

from __future__ import annotations

import re
from collections.abc import Iterable
from textwrap import indent

from stapo.checks import check_integer
from stapo.envs.alfworld.game import MOST_GAMES, TASK_TYPES, Game, TaskType
from stapo.envs.alfworld.generator.goals import TREATMENT, GoalTemplate, draw_goal
from stapo.envs.alfworld.generator.layouts import SPLITS, Family, Receptacle
from stapo.envs.alfworld.generator.scenes import Thing, furnish
from stapo.envs.alfworld.generator.sizes import BASIN_OF, size_named
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
