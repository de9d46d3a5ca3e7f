"""The rules of Sokoban: walls and targets that stay, a player and boxes that move.

Cells are numbered row by row. The border of a board is wall, so a move by one cell never leaves it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

DIRECTIONS = ("up", "down", "left", "right")
"""The actions, in the order in which the published environment numbers them."""

WALL, FLOOR, TARGET, BOX_ON_TARGET, BOX, PLAYER, PLAYER_ON_TARGET = "#_O√XPS"
SYMBOLS = {
    WALL: "wall",
    FLOOR: "floor",
    TARGET: "target",
    BOX_ON_TARGET: "box on a target",
    BOX: "box",
    PLAYER: "player",
    PLAYER_ON_TARGET: "player on a target",
}


_LONGEST_ACTION = 1_000


def direction_in(action: object) -> str | None:
    """The one direction that a text names as a word, in any case; None where it names none or several."""
    words = action[:_LONGEST_ACTION].lower().split() if isinstance(action, str) else ()
    named = {word.strip(".,;:!?'\"()[]") for word in words}.intersection(DIRECTIONS)
    return named.pop() if len(named) == 1 else None


class State(NamedTuple):
    """What moves.

    Attributes:
        player: cell of the player.
        boxes: cells of the boxes, sorted.
    """

    player: int
    boxes: tuple[int, ...]


@dataclass(frozen=True)
class Board:
    """What stays.

    Attributes:
        size: rows, and cells of a row.
        walls: whether each cell is a wall.
        targets: cells onto which boxes are to be pushed, sorted.
    """

    size: int
    walls: tuple[bool, ...]
    targets: tuple[int, ...]

    @cached_property
    def offsets(self) -> dict[str, int]:
        """How the number of a cell changes in each direction."""
        return dict(zip(DIRECTIONS, (-self.size, self.size, -1, 1), strict=True))

    @cached_property
    def floor(self) -> tuple[int, ...]:
        """Cells without a wall."""
        return tuple(cell for cell, wall in enumerate(self.walls) if not wall)

    @cached_property
    def corners(self) -> frozenset[int]:
        """Cells beside a wall above or below and one to the left or right: a box in there stays there."""
        walls, size = self.walls, self.size
        return frozenset(
            cell
            for cell in self.floor
            if (walls[cell - size] or walls[cell + size]) and (walls[cell - 1] or walls[cell + 1])
        )

    def move(self, state: State, direction: str) -> State:
        """The state after a move: a push, a step, or the same where something is in the way."""
        player, boxes = state
        offset = self.offsets[direction]
        ahead = player + offset
        if self.walls[ahead]:
            return state
        if ahead not in boxes:
            return State(ahead, boxes)
        behind = ahead + offset
        if self.walls[behind] or behind in boxes:
            return state
        return State(ahead, tuple(sorted(behind if box == ahead else box for box in boxes)))

    def placed(self, state: State) -> int:
        """How many boxes are on targets."""
        return sum(box in self.targets for box in state.boxes)

    def won(self, state: State) -> bool:
        """Whether every box is on a target."""
        return state.boxes == self.targets

    def rows(self, state: State) -> Iterator[str]:
        """One symbol for each cell, row by row."""
        cells = [WALL if wall else FLOOR for wall in self.walls]
        for target in self.targets:
            cells[target] = TARGET
        for box in state.boxes:
            cells[box] = BOX_ON_TARGET if cells[box] == TARGET else BOX
        cells[state.player] = PLAYER_ON_TARGET if cells[state.player] == TARGET else PLAYER
        for start in range(0, len(cells), self.size):
            yield "".join(cells[start : start + self.size])

    def text(self, state: State) -> str:
        """The board as the published environment prints it: blanks and a tab around each symbol."""
        return "\n".join("".join(f" {cell} \t" for cell in row) for row in self.rows(state))

    def positions(self, state: State) -> str:
        """Row and column of the player, of each box and of each target, counted from 1 at the upper left wall."""
        size = self.size
        return " ".join(
            f"{what} at {'; '.join(f'row {cell // size + 1}, column {cell % size + 1}' for cell in cells)}."
            for what, cells in (("Player", (state.player,)), ("Box", state.boxes), ("Target", self.targets))
        )
