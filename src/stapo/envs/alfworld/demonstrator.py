"""A demonstrator that has to look for things, as a person would.

The optimal expert knows where everything is. Imitating it teaches a shortcut: on arrival the wanted object is always
there, so there is no need to look. The searcher follows the expert only as far as it could know the way: while the
thing that the plan needs next has not been seen in this episode, it looks into places it has not looked into yet.
"""

from __future__ import annotations

import random
from typing import Protocol

from stapo.envs.alfworld.engine import State


class PlayedGame(Protocol):
    """What those who look on know of a game in progress."""

    @property
    def state(self) -> State:
        """The state, live."""
        ...

    def state_key(self) -> str:
        """Equal in equal states."""
        ...

    def expert_plan(self) -> list[str] | None:
        """A shortest list of commands from here to the goal."""
        ...

    def remaining(self) -> int | None:
        """Its length."""
        ...


class Demonstrator:
    """Plays one episode at a time; give it every command that is played.

    Args:
        env: the environment, just reset; never stepped here.
        rng: decides where to look first.
        memory: how many places it remembers to have looked into; None for all. A forgetful one looks into places
            again, and teaches a policy to search without heeding what it did before.
        habit: 0 looks anywhere next, all places equally likely; above 0 it prefers places early in the list of offered
            commands, each by this share less likely than the one before it.
    """

    def __init__(self, env: PlayedGame, rng: random.Random, memory: int | None = None, habit: float = 0.0) -> None:
        self.env = env
        self.rng = rng
        self.memory = memory
        self.habit = habit
        self.here: str | None = None
        self.looked: list[str] = []

    @property
    def seen(self) -> set[str]:
        """Places it remembers to have looked into."""
        return set(self.looked if self.memory is None else self.looked[len(self.looked) - self.memory :])

    def action(self) -> str | None:
        """The next command, or None when the goal is reached or out of reach."""
        plan = self.env.expert_plan()
        if not plan:
            return None
        where = self._place_of_need(plan)
        if where is None or where in self.seen:
            return plan[0]
        offered = self.env.state.admissible()
        if self.here is not None and f"open {self.here}" in offered and self.here not in self.seen:
            return f"open {self.here}"
        unseen = [c for c in offered if c.startswith("go to ") and c[6:] not in self.seen]
        if not unseen:
            return plan[0]
        if not self.habit:
            return self.rng.choice(unseen)
        return self.rng.choices(unseen, [(1.0 - self.habit) ** place for place in range(len(unseen))])[0]

    def played(self, command: str, effect: bool) -> None:
        """Note what a command revealed."""
        if not effect:
            return
        if command.startswith("go to "):
            self.here = command[6:]
            if f"open {self.here}" not in self.env.state.admissible():
                self._look(self.here)
        elif command.startswith("open "):
            self._look(command[5:])

    def _look(self, place: str) -> None:
        self.looked = [p for p in self.looked if p != place] + [place]

    def _place_of_need(self, plan: list[str]) -> str | None:
        """The receptacle in which the plan first takes or uses a thing; None if it does neither."""
        place = self.here
        for command in plan:
            if command.startswith("go to "):
                place = command[6:]
            elif command.startswith(("take ", "use ")):
                return place
        return None
