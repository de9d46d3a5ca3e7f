"""Games as data: what the loaders and the generator produce and the engine consumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar, get_args

from stapo.errors import unknown_name

SPLIT_ORDER = ("train", "valid_seen", "valid_unseen", "heldout")

MOST_GAMES = 100_000
"""Generated games of each family and split at most."""

TaskType = Literal[
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
]

TASK_TYPES: tuple[TaskType, ...] = get_args(TaskType)


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


class Record(Protocol):
    """What a source keeps of a game until it is loaded."""

    @property
    def split(self) -> str:
        """The split that it belongs to."""
        ...

    @property
    def task_type(self) -> TaskType:
        """Its family."""
        ...


R = TypeVar("R", bound=Record)


class RecordedGames(Generic[R]):
    """A list of games by id.

    Attributes:
        records: what is kept of each game.
        by_split: sorted ids of each split.
    """

    def __init__(self, records: Mapping[str, R]) -> None:
        self.records = records
        self.by_split: dict[str, list[str]] = {}
        for task_id in sorted(records):
            self.by_split.setdefault(records[task_id].split, []).append(task_id)

    def splits(self) -> list[str]:
        """Names of the splits that hold games."""
        return list(self.by_split)

    def ids(self, split: str) -> list[str]:
        """Sorted ids of one split. Raises UnknownNameError."""
        if not isinstance(split, str) or split not in self.by_split:
            raise unknown_name("split", split, self.by_split)
        return self.by_split[split]

    def task_type(self, task_id: str) -> TaskType:
        """The family of one game."""
        return self.record(task_id).task_type

    def record(self, task_id: str) -> R:
        """What is kept of one game. Raises UnknownNameError."""
        if not isinstance(task_id, str) or task_id not in self.records:
            raise unknown_name("task", task_id, self.records)
        return self.records[task_id]
