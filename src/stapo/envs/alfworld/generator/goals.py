"""Which goals a family offers, which of them heldout keeps to itself, and how a goal is worded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from stapo.documents import package_data
from stapo.envs.alfworld.game import TaskType
from stapo.envs.alfworld.generator.layouts import TRAIN, Family, families
from stapo.envs.alfworld.generator.sizes import APPLIANCE, KINDS, ObjectKind, SceneSize, size_named
from stapo.envs.draws import Draws, digest
from stapo.errors import ConfigError

# Of all (object, target) pairs, about one in this many is never a goal in train.
HELDOUT_PAIRS_ONE_IN = 5

# The first salt with which every object and every target of a task type still occurs in train.
_SALT = 23

_TASKS: dict[TaskType, dict[str, Any]] = package_data(__package__, "goals.yaml")

# What must be done to the object on the way, by task type.
TREATMENT: dict[TaskType, str] = {name: task["treatment"] for name, task in _TASKS.items() if "treatment" in task}


@dataclass(frozen=True, slots=True)
class GoalTemplate:
    """What a task asks for.

    Attributes:
        task_type: one of the six families.
        object: the object kind to handle.
        target: the receptacle type it must end at, or the kind of lamp to look at it under.
    """

    task_type: TaskType
    object: str
    target: str

    def sentence(self, draws: Draws) -> str:
        """The task sentence, in one of the two wordings of its type, each equally likely."""
        wording = draws.choice(_TASKS[self.task_type]["wordings"])
        return str(wording).format(object=self.object.lower(), target=self.target.lower())

    def formula(self, **words: str) -> str:
        """The goal in PDDL, with the predicates `able` and `done` of a treatment filled in where there is one."""
        return str(_TASKS[self.task_type]["formula"]).format(object=self.object, target=self.target, **words)


def is_held_out(object_: str, target: str) -> bool:
    """Whether train never asks for this (object, target) pair, in any task type."""
    return digest(f"pair {_SALT} {object_} {target}") % HELDOUT_PAIRS_ONE_IN == 0


class Offer(NamedTuple):
    """A goal together with the families of one room that it can be asked for in."""

    goal: GoalTemplate
    families: tuple[Family, ...]


@lru_cache(maxsize=256)
def offers(size_name: str, split: str, task_type: TaskType, held_out: bool) -> tuple[tuple[Offer, ...], ...]:
    """What a split can ask for, room by room: goals of one type, kept for heldout or not."""
    size = size_named(size_name)
    rooms: dict[str, dict[GoalTemplate, list[Family]]] = {}
    for family in families(size_name):
        if family.split == split:
            for goal in _goals(size, family, task_type):
                if is_held_out(goal.object, goal.target) == held_out:
                    rooms.setdefault(family.room, {}).setdefault(goal, []).append(family)
    return tuple(tuple(Offer(goal, tuple(where)) for goal, where in room.items()) for room in rooms.values())


def draw_goal(size_name: str, split: str, task_type: TaskType, draws: Draws) -> tuple[Family, GoalTemplate]:
    """A goal and a family for it; half of heldout's goals are pairs that train never asks for.

    First the room, then the goal, then the family: neither rooms with many pairs nor pairs that
    fit many families crowd out the others.
    """
    new_pair = split != TRAIN and draws.chance(0.5)
    rooms = offers(size_name, split, task_type, new_pair)
    if not rooms:
        pairs = "pairs kept for heldout" if new_pair else "pairs asked in train"
        raise ConfigError(
            f"no room of '{size_name}' offers a {task_type} goal in {split} with {pairs}. "
            "Add objects or receptacles that allow one to its tables."
        )
    goal, where = draws.choice(draws.choice(rooms))
    return draws.choice(where), goal


def _goals(size: SceneSize, family: Family, task_type: TaskType) -> list[GoalTemplate]:
    kinds = [KINDS[name] for name in size.rooms[family.room].objects]
    carried = [k for k in kinds if "take" in k.can]
    types = sorted(family.types)
    if task_type == "look_at_obj_in_light":
        lamps = [k for k in kinds if "toggle" in k.can and family.types & set(k.places)]
        return [GoalTemplate(task_type, k.name, lamp.name) for k in carried for lamp in lamps if _can_start(k, family)]
    treatment = TREATMENT.get(task_type)
    if treatment is not None:
        carried = [k for k in carried if treatment in k.can]
        # As in the release, nothing is to be left in the appliance that treats it.
        types = [t for t in types if t != APPLIANCE[treatment]]
        if APPLIANCE[treatment] not in family.types:
            return []
    few_doors = task_type == "pick_two_obj_and_place" and size.doors_of_two < 3
    return [
        GoalTemplate(task_type, k.name, target)
        for k in carried
        for target in types
        if target in k.places
        and (size.targets is None or target in size.targets)
        and _can_start(k, family, target, in_the_open=few_doors)
    ]


def _can_start(kind: ObjectKind, family: Family, target: str = "", *, in_the_open: bool = False) -> bool:
    """Whether the object has a place here other than its target, on demand one without a door."""
    return any(r.type in kind.places and r.type != target and not (in_the_open and r.opens) for r in family.receptacles)
