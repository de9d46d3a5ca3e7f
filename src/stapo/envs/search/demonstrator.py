"""A demonstrator for questions whose way to the answer is known: it looks up one name after the other.

It knows which relations to follow, as a person who has understood the question does. It does not know where they lead:
the next name, and the answer, are taken from results that were shown. Where a result does not hold what it needs, it
asks again with the name alone. With haste it guesses now and then instead of looking further, as people do.
"""

from __future__ import annotations

import random
from typing import Protocol

from stapo.envs.search.questions import Question
from stapo.errors import ConfigError


class AskedQuestion(Protocol):
    """What those who look on know of an episode in progress."""

    @property
    def question(self) -> Question:
        """The question."""
        ...

    @property
    def shown(self) -> str:
        """What the last action has shown."""
        ...

    def answers_like(self, key: str) -> tuple[str, ...]:
        """Every name that is an answer where `key` is asked last."""
        ...

    def meaning(self, action: str) -> tuple[str, str]:
        """What a response would do by the protocol, and with which text."""
        ...


def plan(question: Question) -> list[str] | None:
    """The actions to the answer when every search finds what it looks for; None where the way is not known."""
    if not question.hops:
        return None
    return [*(_search(hop.entity, hop.key) for hop in question.hops), f"<answer> {question.golds[0]} </answer>"]


class Demonstrator:
    """Plays one episode; give it every action that is played.

    Args:
        env: the environment, just reset; never stepped here.
        rng: decides when it guesses, and what.
        haste: share of turns in which it guesses though it has not looked everything up.

    Raises:
        ConfigError: the way to the answer is not known.
    """

    def __init__(self, env: AskedQuestion, rng: random.Random, haste: float = 0.0) -> None:
        if not env.question.hops:
            raise ConfigError(
                "only questions of a generated world can be demonstrated: leave env.questions out, or set "
                "sft.steps to 0 and start from a pretrained model."
            )
        self.env = env
        self.hops = env.question.hops
        self.reached = 0
        self.asked_again = False
        self.rng = rng
        self.haste = haste
        self.next = self._choose()

    def action(self) -> str:
        """The next action; the same until `played` is called."""
        return self.next

    def _choose(self) -> str:
        if self.reached == len(self.hops):
            return f"<answer> {self.hops[-1].found} </answer>"
        hop = self.hops[self.reached]
        if self.haste and self.rng.random() < self.haste:
            return f"<answer> {self.rng.choice(self.env.answers_like(self.hops[-1].key))} </answer>"
        return f"<search> {hop.entity} </search>" if self.asked_again else _search(hop.entity, hop.key)

    def played(self, action: str, effect: bool) -> None:
        """Look for the next name in what the last action has shown."""
        if effect and self.reached < len(self.hops):
            found = self.hops[self.reached].found in self.env.shown
            # What two searches do not show is given up: better a guess at the end than no answer.
            self.reached += found or self.asked_again
            self.asked_again = not found and not self.asked_again
        self.next = self._choose()


def _search(entity: str, key: str) -> str:
    return f"<search> {entity} {key} </search>"
