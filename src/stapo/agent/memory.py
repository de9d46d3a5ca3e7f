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
        response: all that it said.
        response_ids: the tokens of that, as they were sampled; None where it was not sampled.
        listed: the commands that it was offered; None where actions are free text.
    """

    observation: str
    blind_observation: str
    action: str
    response: str = ""
    response_ids: tuple[int, ...] | None = None
    listed: tuple[str, ...] | None = None


@dataclass
class Memory:
    """The last `length` turns of one episode, the commands of `commands` turns before them, and how many there were.

    Without a length every turn is kept.
    """

    length: int | None
    commands: int = 0
    turns: list[Turn] = field(default_factory=list)
    older: list[str] = field(default_factory=list)
    steps_taken: int = 0

    def add(self, turn: Turn) -> None:
        """Append a turn; keep the command alone of what is older than `length`, and forget what is older still."""
        self.steps_taken += 1
        self.turns.append(turn)
        beyond = 0 if self.length is None else max(0, len(self.turns) - self.length)
        self.older += [old.action for old in self.turns[:beyond]]
        del self.turns[:beyond]
        del self.older[: max(0, len(self.older) - self.commands)]

    def forget_half(self) -> int:
        """Forget the older half of the turns, at least one; returns how many."""
        gone = (len(self.turns) + 1) // 2
        del self.turns[:gone]
        return gone

    def recall(self) -> tuple[Turn, ...]:
        """Return the remembered turns, oldest first."""
        return tuple(self.turns)

    def recall_commands(self) -> tuple[str, ...]:
        """Return the commands of the turns before those, oldest first."""
        return tuple(self.older)
