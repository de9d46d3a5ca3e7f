"""Levels by number: which split a room belongs to, and what is kept of them in a process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from stapo.envs.draws import digest
from stapo.envs.seeded import SeededTasks
from stapo.envs.sokoban.board import State
from stapo.envs.sokoban.expert import distances
from stapo.envs.sokoban.generator import Level, draw_level
from stapo.errors import ConfigError

HELDOUT_SHARE = 10
"""One in so many rooms is held out; and so many times fewer levels are in that split."""
MOST_ATTEMPTS = 10_000


@dataclass(frozen=True)
class Sizes:
    """What decides about every level.

    Attributes:
        size: rows, and cells of a row, with the border.
        boxes: how many.
        depth: moves of the reverse play at most.
        levels: of the split train; heldout has a tenth.
    """

    size: int
    boxes: int
    depth: int
    levels: int


def tasks_with(sizes: Sizes) -> SeededTasks:
    """The tasks of both splits."""
    return SeededTasks({"train": sizes.levels, "heldout": max(1, sizes.levels // HELDOUT_SHARE)})


@lru_cache(maxsize=4096)
def level_of(sizes: Sizes, task_id: str) -> Level:
    """The level of a task.

    A room belongs to a split by what it looks like, whichever way it is turned or mirrored: no room of heldout is in
    train. Rooms are drawn until one belongs to the task's split, each from a stream of its own.

    Raises:
        UnknownNameError: there is no such task.
        ConfigError: no such room was found.
    """
    split, _ = tasks_with(sizes).place_of(task_id)
    for attempt in range(MOST_ATTEMPTS):
        name = f"sokoban {sizes.size} {sizes.boxes} {sizes.depth} {task_id} {attempt}"
        level = draw_level(name, size=sizes.size, boxes=sizes.boxes, depth=sizes.depth)
        if level is not None and is_heldout(level) == (split == "heldout"):
            return level
    raise ConfigError(
        f"no room of {sizes.size} by {sizes.size} cells with {sizes.boxes} boxes was found in {MOST_ATTEMPTS:,} "
        "attempts; give a larger size or search_depth, or fewer boxes."
    )


@lru_cache(maxsize=256)
def distances_of(sizes: Sizes, task_id: str) -> dict[State, int]:
    """What `distances` finds for the level of a task."""
    return distances(level_of(sizes, task_id).board)


def is_heldout(level: Level) -> bool:
    """Whether a room belongs to the split heldout."""
    return digest(min(looks(level))) % HELDOUT_SHARE == 0


def looks(level: Level) -> list[str]:
    """The eight texts of a level, turned and mirrored; the first is the level as it is."""
    rows = list(level.board.rows(level.start))
    found = []
    for _ in range(4):
        found += ["\n".join(rows), "\n".join(row[::-1] for row in rows)]
        rows = ["".join(column) for column in zip(*rows[::-1], strict=True)]
    return found
