"""Which turns of a question were bad, by what is known of the way to its answer.

The way is known for questions of a generated world. For recorded ones only what needs no way is judged: turns without a
search or an answer, repeated searches, wrong answers.
"""

from __future__ import annotations

from stapo.envs.protocol import StepResult
from stapo.envs.search.demonstrator import AskedQuestion


class SearchJudge:
    """Judges one episode; see `stapo.envs.protocol.Judge`.

    Args:
        env: the environment, just reset; never stepped here.
    """

    faults = {  # noqa: RUF012
        "invalid": "neither a search nor an answer",
        "repeated": "the same search again",
        "fruitless": "a search that shows nothing new of what is needed for the answer",
        "hasty": "an answer though not everything that it follows from was shown",
        "wrong": "an answer that is not right",
    }

    def __init__(self, env: AskedQuestion) -> None:
        self.env = env
        self._asked: set[str] = set()
        self._needed = {hop.found for hop in env.question.hops}
        self._known = bool(self._needed)
        self._kind = self._text = ""

    def before(self, action: str) -> None:
        """Note what the turn asks for."""
        self._kind, text = self.env.meaning(action)
        self._text = " ".join(text.lower().split())

    def after(self, result: StepResult) -> frozenset[str]:
        """Return the faults of the turn that was just taken."""
        if self._kind == "answer":
            hasty = {"hasty"} if self._known and self._needed else set()
            return frozenset(hasty if result.won else hasty | {"wrong"})
        if self._kind != "search":
            return frozenset({"invalid"})
        found = {"repeated"} if self._text in self._asked else set()
        self._asked.add(self._text)
        new = set() if result.done else {name for name in self._needed if name in self.env.shown}
        self._needed -= new
        if self._known and not new:
            found.add("fruitless")
        return frozenset(found)
