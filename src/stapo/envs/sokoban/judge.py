"""Which moves of an episode were bad, by the shortest ways that the expert knows.

Everything is in sight in Sokoban. Unlike in worlds where things have to be looked for, a move that makes the shortest
way longer is a mistake of the player.
"""

from __future__ import annotations

from typing import Protocol

from stapo.envs.protocol import StepResult
from stapo.envs.sokoban.board import Board, State, direction_in


class PlayedLevel(Protocol):
    """What those who look on know of an episode in progress."""

    @property
    def board(self) -> Board:
        """Walls and targets."""
        ...

    @property
    def state(self) -> State:
        """Player and boxes, live."""
        ...

    def expert_plan(self) -> list[str] | None:
        """A shortest list of moves from here."""
        ...

    def remaining(self, after: str | None = None) -> int | None:
        """Its length, or that after a move."""
        ...


class MoveJudge:
    """Judges one episode; see `stapo.envs.protocol.Judge`.

    Args:
        env: the environment, just reset; never stepped here.
    """

    faults = {  # noqa: RUF012
        "invalid": "names no direction, or several",
        "blocked": "a wall or a box that cannot be pushed is in the way",
        "repeated": "without effect, and given before in the same state",
        "corner": "pushes a box into a corner that is not a target",
        "dead_end": "the level could be solved before this move, and cannot be solved after it",
        "detour": "the shortest way is longer than before the move",
    }

    def __init__(self, env: PlayedLevel) -> None:
        self.env = env
        self._tried: set[tuple[State, str]] = set()
        self._command, self._before = "", env.state
        self._left: int | None = None

    def before(self, action: str) -> None:
        """Note a move that is about to be made, and how far the level is from being solved."""
        self._command, self._before, self._left = action.strip().lower(), self.env.state, self.env.remaining()

    def after(self, result: StepResult) -> frozenset[str]:
        """Return the faults of the move that was just made."""
        found = set()
        if not result.info["effect"]:
            tried = (self._before, self._command)
            found.add("invalid" if direction_in(self._command) is None else "blocked")
            if tried in self._tried:
                found.add("repeated")
            self._tried.add(tried)
        left = self.env.remaining()
        if self._left is not None and left is None:
            found.add("dead_end")
        elif self._left is not None and left is not None and left > self._left:
            found.add("detour")
        stuck = set(self.env.state.boxes) - set(self._before.boxes)
        if stuck & self.env.board.corners - set(self.env.board.targets):
            found.add("corner")
        return frozenset(found)
