"""Which steps of an episode were bad, by what the world knows: its state, and the shortest plans from it.

The judge knows where everything is, the player does not. A detour is therefore not always a mistake of the player: it
has to look for things. A step that repeats what did nothing, or goes back to a place that was searched in vain, is.
"""

from __future__ import annotations

from collections.abc import Callable

from stapo.envs.alfworld.engine import State
from stapo.envs.alfworld.text import NOTHING_HAPPENS
from stapo.envs.protocol import StepResult


class PlanJudge:
    """Judges one episode; see `stapo.envs.protocol.Judge`.

    Args:
        state: of the episode just begun, live; never changed here.
        remaining: how many commands a shortest way from the state to the goal takes; None from a dead end.
    """

    faults = {  # noqa: RUF012
        "invalid": "the world does not understand the command",
        "repeated": "without effect, and given before in the same state",
        "revisit": "back to a place already searched, without coming nearer to the goal",
        "detour": "the shortest plan to the goal is longer than before the step",
    }

    def __init__(self, state: State, remaining: Callable[[], int | None]) -> None:
        self.state = state
        self.remaining = remaining
        self._tried: set[tuple[str, str]] = set()
        self._searched: set[str] = set()
        self._command = self._before = ""
        self._left: int | None = None

    def before(self, action: str) -> None:
        """Note a command that is about to be taken, and how far the goal is."""
        self._command, self._before, self._left = action.strip(), self.state.key(), self.remaining()

    def after(self, result: StepResult) -> frozenset[str]:
        """Return the faults of the command that was just taken."""
        found = set()
        left, tried = self.remaining(), (self._before, self._command)
        effect = bool(result.info["effect"])
        if not effect:
            if result.text == NOTHING_HAPPENS:
                found.add("invalid")
            if tried in self._tried:
                found.add("repeated")
        if self._left is not None and (left is None or left > self._left):
            found.add("detour")
        nearer = left is not None and (self._left is None or left < self._left)
        if effect and self._arrived() in self._searched and not nearer:
            found.add("revisit")
        self._tried.add(tried)
        if effect:
            self._note_search()
        return frozenset(found)

    def _arrived(self) -> str | None:
        return self._command[6:] if self._command.startswith("go to ") else None

    def _note_search(self) -> None:
        """A place is searched once its contents were shown: on arrival where no door hides them, else on opening."""
        state, place = self.state, self._arrived()
        if place is not None and state.accessible(state.game.receptacle_index[place]):
            self._searched.add(place)
        elif self._command.startswith("open "):
            self._searched.add(self._command[5:])
