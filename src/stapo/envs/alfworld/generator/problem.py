"""The PDDL text of a scene, in the dialect of the ALFWorld release."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import indent

from stapo.envs.alfworld.generator.goals import TREATMENT, GoalTemplate
from stapo.envs.alfworld.generator.household import BASIN_OF
from stapo.envs.alfworld.generator.layouts import Family, Receptacle
from stapo.envs.alfworld.generator.scenes import Thing

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
