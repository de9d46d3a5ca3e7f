"""One ALFWorld game as data: what the loaders and the generator produce and the engine consumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SPLIT_ORDER = ("train", "valid_seen", "valid_unseen", "heldout")

TaskType = Literal[
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
]

TASK_TYPES: tuple[TaskType, ...] = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)


@dataclass(frozen=True, slots=True)
class Game:
    """A solvable household task.

    Attributes:
        id: unique, stable name of the task.
        split: train, valid_seen, valid_unseen or heldout.
        task_type: one of the six families.
        goal: the task sentence, lower-case, ending in a full stop ("put a clean mug in shelf.").
        pddl_problem: the initial facts and the goal formula as PDDL text, in the dialect of the ALFWorld release.
    """

    id: str
    split: str
    task_type: TaskType
    goal: str
    pddl_problem: str
