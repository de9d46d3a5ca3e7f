"""What the agent remembers of its episode."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Turn:
    """One past step: what was seen and what was done.

    Attributes:
        observation: the text the agent saw before acting.
        blind_observation: the same without any trace of the goal.
        action: the command it gave.
    """

    observation: str
    blind_observation: str
    action: str


@dataclass
class Memory:
    """The last `length` turns of one episode, and how many there were in all."""

    length: int
    turns: list[Turn] = field(default_factory=list)
    steps_taken: int = 0

    def add(self, turn: Turn) -> None:
        """Append a turn and forget the oldest beyond `length`."""
        self.steps_taken += 1
        self.turns.append(turn)
        del self.turns[: max(0, len(self.turns) - self.length)]

    def recall(self) -> tuple[Turn, ...]:
        """Return the remembered turns, oldest first."""
        return tuple(self.turns)
