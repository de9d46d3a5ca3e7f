"""A demonstrator that has to look for things, as a person would.

The optimal expert knows where everything is. Imitating it teaches a shortcut: on arrival the wanted object is always
there, so there is no need to look. The searcher follows the expert only as far as it could know the way: while the
thing that the plan needs next has not been seen in this episode, it looks into places it has not looked into yet.
"""

from __future__ import annotations

import random

from stapo.envs.alfworld.engine import State
from stapo.envs.alfworld.expert import shortest_plan
from stapo.envs.alfworld.goals import Goal

_ENOUGH_TO_FORGET = 3
"""Places that one has to have looked into to forget which they were; fewer are one way back, and no doubt."""

_MOST_IN_DOUBT = 3
"""Places that one who has forgotten hesitates between."""


class Demonstrator:
    """Plays one episode at a time; give it every command that is played.

    Args:
        state: of the episode, live; never changed here.
        goal: of the episode.
        rng: decides where to look first.
        memory: how many places it remembers to have looked into; None for all. A forgetful one looks into places
            again, and teaches a policy to search without using its history.
        habit: 0 looks anywhere next, all places equally likely; above 0 it prefers places early in the list of offered
            commands, each by this share less likely than the one before it.
        forgets: share of its choices of a place, 0 to 1, at which it has forgotten where it looked, says so, hesitates
            between up to three of the places that it has looked into, and goes back to one of them; possible once it
            has looked into three. At the others it takes the next place in the order of the offered commands. Above 0
            its mistakes are the steps at which it is uncertain. Leave `habit` at 0 then.
    """

    def __init__(
        self,
        state: State,
        goal: Goal,
        rng: random.Random,
        memory: int | None = None,
        habit: float = 0.0,
        forgets: float = 0.0,
    ) -> None:
        self.state = state
        self.goal = goal
        self.rng = rng
        self.memory = memory
        self.habit = habit
        self.forgets = forgets
        self._choice: str | None = None
        self._doubt = ""
        self.here: str | None = None
        self.looked: list[str] = []
        self._furthest = ""
        self.why = ""

    @property
    def seen(self) -> set[str]:
        """Places it remembers to have looked into."""
        return set(self.looked if self.memory is None else self.looked[len(self.looked) - self.memory :])

    def action(self) -> str | None:
        """The next command, or None when the goal is reached or out of reach."""
        plan = shortest_plan(self.state, self.goal)
        if not plan:
            return None
        where, wanted = self._need(plan)
        if where is None or where in self.seen:
            self.why = _known(plan[0], wanted, where)
            return plan[0]
        self.why = f"I need the {wanted}. {self._remembered()}"
        offered = self.state.admissible()
        if self.here is not None and f"open {self.here}" in offered and self.here not in self.seen:
            return f"open {self.here}"
        unseen = [c for c in offered if c.startswith("go to ") and c[6:] not in self.seen]
        if self.forgets:
            return self._forgetful(wanted, unseen) or plan[0]
        if not unseen:
            return plan[0]
        if not self.habit:
            return self.rng.choice(unseen)
        return self.rng.choices(unseen, [(1.0 - self.habit) ** place for place in range(len(unseen))])[0]

    def _forgetful(self, wanted: str, unseen: list[str]) -> str | None:
        """Back to a place, after some doubt, where it has forgotten all; else to the next. Drawn once a step."""
        if self._choice is None:
            again = [place for place in self.looked if place != self.here]
            self._doubt = ""
            self._choice = next(iter(unseen), "")
            if len(again) >= _ENOUGH_TO_FORGET - 1 and self.rng.random() < self.forgets:
                maybe = self.rng.sample(again, min(_MOST_IN_DOUBT, len(again)))
                self._choice = f"go to {self.rng.choice(maybe)}"
                self._doubt = f"I forgot where I looked. Maybe {' or '.join(maybe)}."
        if self._doubt:
            self.why = f"I need the {wanted}. {self._doubt}"
        return self._choice or None

    def played(self, command: str, effect: bool) -> None:
        """Note what a command revealed."""
        self._choice = None
        if not effect:
            return
        if command.startswith("go to "):
            self.here = command[6:]
            if f"open {self.here}" not in self.state.admissible():
                self._look(self.here)
        elif command.startswith("open "):
            self._look(command[5:])

    def _look(self, place: str) -> None:
        if place not in self.looked:
            self._furthest = place
        self.looked = [p for p in self.looked if p != place] + [place]

    def _remembered(self) -> str:
        """Where it knows to have looked; one that goes through the places in order names the last of them alone."""
        places = [place for place in self.looked if place in self.seen]
        if not places:
            return "I have looked nowhere yet."
        return f"I looked up to {self._furthest}." if self.forgets else f"I looked in {', '.join(places)}."

    def thought(self) -> str:
        """What it wants and where it remembers to have looked, by what it has seen."""
        return self.why

    def _need(self, plan: list[str]) -> tuple[str | None, str]:
        """Where the plan first takes or uses a thing, and the kind of thing; None and "" if it does neither."""
        place = self.here
        for command in plan:
            if command.startswith("go to "):
                place = command[6:]
            elif command.startswith(("take ", "use ")):
                thing = command.split(" ", 1)[1].split(" from ")[0]
                return place, thing.rstrip("0123456789 ")
        return None, ""


def _known(command: str, wanted: str, where: str | None) -> str:
    if not wanted:
        return "I have what I need."
    return f"The {wanted} is here." if command.startswith(("take ", "use ")) else f"I saw the {wanted} in {where}."
