"""A demonstrator that goes a shortest way, and now and then somewhere else."""

from __future__ import annotations

import random

from stapo.envs.sokoban.board import DIRECTIONS
from stapo.envs.sokoban.judge import PlayedLevel


class Demonstrator:
    """Plays one episode; give it every move that is played.

    Args:
        env: the environment, just reset; never stepped here.
        rng: decides when it slips, and where to.
        slips: share of moves in which it goes anywhere from where the level can still be solved.
    """

    def __init__(self, env: PlayedLevel, rng: random.Random, slips: float = 0.0) -> None:
        self.env = env
        self.rng = rng
        self.slips = slips
        self.next = self._choose()

    def action(self) -> str | None:
        """The next move, None where the level is solved or cannot be; the same until `played` is called."""
        return self.next

    def played(self, action: str, effect: bool) -> None:
        """Choose again: any move may have been made in the meantime."""
        self.next = self._choose()

    def thought(self) -> str:
        """Where the boxes and the targets are, and what the next move does."""
        board, state, move = self.env.board, self.env.state, self.next
        waiting = [box for box in state.boxes if box not in board.targets]
        free = [target for target in board.targets if target not in state.boxes]
        if move is None or not waiting:
            return "Nothing is left to do."
        where = f"The box at {_at(waiting[0], board.size)} has to go to {_at(free[0], board.size)}."
        if len(waiting) > 1:
            where = f"Boxes that are not on targets yet: {len(waiting)}."
        ahead = state.player + board.offsets[move]
        does = f"I push a box {move}." if ahead in state.boxes else f"I go {move} first."
        return f"{where} {does}"

    def _choose(self) -> str | None:
        plan = self.env.expert_plan()
        if not plan:
            return None
        if self.slips and self.rng.random() < self.slips:
            return self.rng.choice([move for move in DIRECTIONS if self.env.remaining(move) is not None])
        return plan[0]


def _at(cell: int, size: int) -> str:
    return f"row {cell // size + 1}, column {cell % size + 1}"
