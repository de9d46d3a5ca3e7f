"""Rooms that can be solved, because they are played backwards: boxes start on their targets and are pulled away.

The procedure is the published one of gym-sokoban, with the player's walk at the end that verl-agent adds: topology,
placement, reverse play, walk. Chance comes from `stapo.envs.draws`, so that a name gives the same room everywhere; the
published generator draws its next seed with a hash that Python salts for each process.
"""

from __future__ import annotations

from typing import NamedTuple

from stapo.envs.draws import Draws
from stapo.envs.sokoban.board import DIRECTIONS, Board, State

ROOMS_TRIED = 4
"""Rooms that one stream of draws is asked for."""
MOST_STATES = 300_000
"""States that the reverse play of one room looks at."""
_TURNS = 0.35
_STEPS_PER_CELL = 1.7
_MASKS: tuple[tuple[tuple[int, int], ...], ...] = (
    ((0, -1), (0, 0), (0, 1)),
    ((-1, 0), (0, 0), (1, 0)),
    ((0, 0), (0, -1), (1, 0)),
    ((0, 0), (0, -1), (1, -1), (1, 0)),
    ((0, 0), (0, 1), (1, 0)),
)
"""What is dug around a cell: (rows down, columns to the right) of each free cell."""
_WAYS = ((1, 0), (-1, 0), (0, 1), (0, -1))


class Level(NamedTuple):
    """A board and the state that an episode begins with."""

    board: Board
    start: State


def draw_level(name: str, *, size: int, boxes: int, depth: int) -> Level | None:
    """Draw a room.

    Args:
        name: of the stream of draws; the same name gives the same room.
        size: rows, and cells of a row, with the border.
        boxes: how many.
        depth: moves of the reverse play at most.

    Returns:
        The room; None where none of the rooms that were tried has space, or a box that was moved.
    """
    draws = Draws(name)
    for _ in range(ROOMS_TRIED):
        walls = _dig(draws, size)
        floor = [cell for cell, wall in enumerate(walls) if not wall]
        if len(floor) < boxes + 2:
            return None
        player, *targets = draws.shuffled(floor)[: boxes + 1]
        board = Board(size, tuple(walls), tuple(sorted(targets)))
        found = _play_back(board, player, tuple(targets), depth)
        if found is not None:
            return Level(board, _walk(draws, board, *found))
    return None


def _dig(draws: Draws, size: int) -> list[bool]:
    """Walls of a room: masks are dug out along a walk that turns now and then."""
    walls = [[True] * size for _ in range(size)]
    row, column = draws.between(1, size - 1), draws.between(1, size - 1)
    down, right = draws.choice(_WAYS)
    for _ in range(int(_STEPS_PER_CELL * 2 * size)):
        if draws.chance(_TURNS):
            down, right = draws.choice(_WAYS)
        row, column = min(max(row + down, 1), size - 2), min(max(column + right, 1), size - 2)
        for below, beside in draws.choice(_MASKS):
            walls[row + below][column + beside] = False
    inside = range(1, size - 1)
    return [walls[r][c] or r not in inside or c not in inside for r in range(size) for c in range(size)]


def _play_back(board: Board, player: int, boxes: tuple[int, ...], depth: int) -> tuple[State, int] | None:
    """The first state with the highest score of a depth-first search, and the distance of its boxes from their targets.

    A state's score is how often another box was pulled than before, times the distance of the boxes from their targets;
    0 while a target is covered. A state counts once, at the depth at which it is found first.
    """
    offsets = [board.offsets[direction] for direction in DIRECTIONS]
    walls, targets, size = board.walls, boxes, board.size
    seen: set[tuple[int, tuple[int, ...]]] = set()
    best, chosen = 0, None
    pending = [(player, boxes, 0, -1, 0)]
    while pending and len(seen) < MOST_STATES:
        player, boxes, swaps, last, moves = pending.pop()
        key = (player, tuple(sorted(boxes)))
        if key in seen:
            continue
        seen.add(key)
        away = sum(_distance(box, target, size) for box, target in zip(boxes, targets, strict=True))
        if swaps * away > best and not set(boxes) & set(targets):
            best, chosen = swaps * away, (State(player, key[1]), away)
        if moves >= depth:
            continue
        # The last one that is put on the stack is looked at first.
        for offset in reversed(offsets):
            ahead, behind = player + offset, player - offset
            if walls[ahead] or ahead in boxes:
                continue
            if behind in boxes:
                pulled = boxes.index(behind)
                after = (*boxes[:pulled], player, *boxes[pulled + 1 :])
                pending.append((ahead, after, swaps + (pulled != last), pulled, moves + 1))
            else:
                pending.append((ahead, boxes, swaps, last, moves + 1))
    return chosen


def _distance(one: int, other: int, size: int) -> int:
    return abs(one // size - other // size) + abs(one % size - other % size)


def _walk(draws: Draws, board: Board, state: State, away: int) -> State:
    """The player leaves the box that was pulled last, so that where it stands does not tell which way to push."""
    if not draws.chance(0.8 if away == 1 else 0.5):
        return state
    player, visited = state.player, {state.player}
    for _ in range(3):
        free = [player + offset for offset in board.offsets.values()]
        free = [cell for cell in free if not board.walls[cell] and cell not in state.boxes and cell not in visited]
        if not free:
            break
        player = draws.choice(free)
        visited.add(player)
        if not draws.chance(0.5):
            break
    return State(player, state.boxes)
