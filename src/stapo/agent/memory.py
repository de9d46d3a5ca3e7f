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
    """The last `length` turns of one episode, the commands of `commands` turns before them, and how many there were."""

    length: int
    commands: int = 0
    turns: list[Turn] = field(default_factory=list)
    older: list[str] = field(default_factory=list)
    steps_taken: int = 0

    def add(self, turn: Turn) -> None:
        """Append a turn; keep the command alone of what is older than `length`, and forget what is older still."""
        self.steps_taken += 1
        self.turns.append(turn)
        beyond = max(0, len(self.turns) - self.length)
        self.older += [old.action for old in self.turns[:beyond]]
        del self.turns[:beyond]
        del self.older[: max(0, len(self.older) - self.commands)]

    def recall(self) -> tuple[Turn, ...]:
        """Return the remembered turns, oldest first."""
        return tuple(self.turns)

    def recall_commands(self) -> tuple[str, ...]:
        """Return the commands of the turns before those, oldest first."""
        return tuple(self.older)
