"""The PDDL text of a scene, in the dialect of the ALFWorld release."""

from __future__ import annotations

from collections.abc import Iterable

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

_STATE = {
    "clean": ("cleanable", "isClean"),
    "heat": ("heatable", "isHot"),
    "cool": ("coolable", "isCool"),
}


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
    return (
        f"(define (problem {name})\n(:domain alfred)\n"
        f"(:objects\n{_lines(objects)})\n(:init\n{_lines(facts)})\n(:goal\n{_formula(goal)}\n)\n)\n"
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


def _formula(goal: GoalTemplate) -> str:
    if goal.task_type == "look_at_obj_in_light":
        return _LOOK.format(object=goal.object, target=goal.target)
    if goal.task_type == "pick_two_obj_and_place":
        return _TWO.format(object=goal.object, target=goal.target)
    treatment = TREATMENT.get(goal.task_type)
    if treatment is None:
        return _PICK.format(object=goal.object, target=goal.target)
    able, done = _STATE[treatment]
    return _TREAT.format(object=goal.object, target=goal.target, able=able, done=done)


_PICK = """    (and
        (exists (?r - receptacle)
            (exists (?o - object)
                (and
                    (inReceptacle ?o ?r)
                    (objectType ?o {object}Type)
                    (receptacleType ?r {target}Type)
                )
            )
        )
    )"""

_TREAT = """    (and
        (exists (?r - receptacle)
            (exists (?o - object)
                (and
                    ({able} ?o)
                    (objectType ?o {object}Type)
                    (receptacleType ?r {target}Type)
                    ({done} ?o)
                    (inReceptacle ?o ?r)
                )
            )
        )
    )"""

_LOOK = """    (and
        (exists (?ot - object ?r - receptacle ?a - agent ?l - location)
            (and
                (objectType ?ot {target}Type)
                (toggleable ?ot)
                (isToggled ?ot)
                (receptacleAtLocation ?r ?l)
                (atLocation ?a ?l)
                (inReceptacle ?ot ?r)
            )
        )
        (exists (?o - object ?a - agent)
            (and
                (objectType ?o {object}Type)
                (holds ?a ?o)
            )
        )
    )"""

_TWO = """    (and
        (exists (?r - receptacle)
            (exists (?o1 - object)
                (and
                    (objectType ?o1 {object}Type)
                    (receptacleType ?r {target}Type)
                    (inReceptacle ?o1 ?r)
                    (exists (?o2 - object)
                        (and
                            (not (= ?o1 ?o2))
                            (objectType ?o2 {object}Type)
                            (receptacleType ?r {target}Type)
                            (inReceptacle ?o2 ?r)
                        )
                    )
                )
            )
        )
    )"""
