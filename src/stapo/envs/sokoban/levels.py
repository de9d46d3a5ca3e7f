"""Levels by number: which split a room belongs to, how far each of its states is from a solved one.

Distances are found by one breadth-first search backwards, and kept for the levels that were played last.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import lru_cache

from stapo.envs.draws import digest
from stapo.envs.sokoban.board import DIRECTIONS, Board, State
from stapo.envs.sokoban.generator import Level, draw_level
from stapo.envs.tasks import SeededTasks
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


def distances(board: Board) -> dict[State, int]:
    """Moves that the shortest way to a solved state takes, for every state that has one.

    The search begins with all boxes on targets and the player anywhere, and takes moves back: a step, or a step with a
    box pulled along. It looks at each state once: some hundred with one box in 6 by 6 cells, about a million with three
    in 10 by 10.
    """
    offsets, walls = tuple(board.offsets.values()), board.walls
    found = {State(cell, board.targets): 0 for cell in board.floor if cell not in board.targets}
    pending = deque(found)
    while pending:
        state = pending.popleft()
        player, boxes = state
        further = found[state] + 1
        for offset in offsets:
            before, ahead = player - offset, player + offset
            if walls[before] or before in boxes:
                continue
            options = [State(before, boxes)]
            if ahead in boxes:
                options.append(State(before, tuple(sorted(player if box == ahead else box for box in boxes))))
            for option in options:
                if option not in found:
                    found[option] = further
                    pending.append(option)
    return found


def shortest_plan(board: Board, state: State, left: dict[State, int]) -> list[str] | None:
    """A shortest list of moves to a solved state; of several, the first in the order of `DIRECTIONS`.

    Args:
        board: of the state.
        state: where to begin; it is not changed.
        left: what `distances` has found for the board.

    Returns:
        The moves, none where it is solved, or None where it cannot be.
    """
    if state not in left:
        return None
    plan = []
    while left[state]:
        for direction in DIRECTIONS:
            after = board.move(state, direction)
            if left.get(after, left[state]) < left[state]:
                plan.append(direction)
                state = after
                break
    return plan
