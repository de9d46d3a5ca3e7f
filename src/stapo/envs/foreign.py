"""What environments of other libraries have in common: tasks by seed, a goal, an end, texts in place of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stapo.checks import check_integer, check_text
from stapo.envs.protocol import Observation, StepResult, going_on
from stapo.envs.tasks import HasTasks, SeededTasks

FIRST_HELDOUT_SEED = 1_000_000_000
"""Seeds of the split heldout begin here, so that more tasks of train leave them alone."""

_MOST_TASKS = 1_000_000
_NOTHING_SEEN = "(nothing to see)"


@dataclass(frozen=True, slots=True)
class ForeignObservation:
    """What another library's environment returned, as texts and numbers.

    Attributes:
        text: what is seen.
        admissible: commands that work now; None where they are not known.
        goal: the task sentence; None where it says none.
        reward: of the step.
        done: the episode is over.
        truncated: it was ended by a limit alone.
        won: the task is solved; None where it does not say, and an end with a reward above 0 counts as won.
        effect: whether the action reached the environment.
        info: further facts, with texts as keys.
    """

    text: str
    admissible: Sequence[str] | None = None
    goal: str | None = None
    reward: float = 0.0
    done: bool = False
    truncated: bool = False
    won: bool | None = None
    effect: bool = True
    info: Mapping[str, Any] = field(default_factory=dict)


class ForeignEnv(HasTasks):
    """An environment of ours around one of another library. Subclasses define `_begin`, `_act` and `close`.

    Args:
        source: what is played, for task types and messages.
        goal: task sentence where the other environment says none.
        tasks: of the split train; their seeds are 0, 1, 2 and so on.
        heldout: tasks of the split heldout; their seeds begin at 1,000,000,000.
        max_steps: actions after which an episode ends.

    Raises:
        ConfigError: an option that cannot be used.
    """

    def __init__(self, source: str, goal: str, tasks: int, heldout: int, max_steps: int) -> None:
        for option, value, least in (("tasks", tasks, 1), ("heldout", heldout, 0)):
            check_integer(option, value, least, _MOST_TASKS)
        self.max_steps = check_integer("max_steps", max_steps, 1)
        self._source, self._said_goal = source, check_text("goal", goal, "the task in a sentence")
        self._tasks: SeededTasks = SeededTasks({"train": tasks, "heldout": heldout})
        self._goal: str | None = None
        self._steps = 0
        self._done = False

    def task_type(self, task_id: str) -> str:
        """What is played."""
        return self._source

    def reset(self, task_id: str) -> Observation:
        """Start the episode of a task. Raises UnknownNameError for an id that does not exist."""
        split, number = self._tasks.place_of(task_id)
        self._goal = None
        seen = self._begin(number if split == "train" else FIRST_HELDOUT_SEED + number)
        self._goal = seen.goal or self._said_goal
        self._steps, self._done = 0, False
        text = seen.text or _NOTHING_SEEN
        return Observation(text, self._goal, _commands(seen.admissible), self._without_goal(text))

    def step(self, action: str) -> StepResult:
        """Take one action."""
        going_on(self._goal, self._done)
        seen = self._act(action if isinstance(action, str) else "")
        self._steps += 1
        won = seen.done and not seen.truncated and (seen.reward > 0 if seen.won is None else seen.won)
        truncated = not won and (seen.truncated if seen.done else self._steps >= self.max_steps)
        self._done = seen.done or truncated
        info = {**seen.info, "truncated": truncated, "effect": seen.effect}
        blind = self._without_goal(seen.text)
        return StepResult(seen.text, _commands(seen.admissible), seen.reward, self._done, won, info, blind)

    def _begin(self, seed: int) -> ForeignObservation:
        """Begin the episode of a seed."""
        raise NotImplementedError

    def _act(self, action: str) -> ForeignObservation:
        """Take one action."""
        raise NotImplementedError

    def _without_goal(self, text: str) -> str | None:
        """A text without the task sentence; None where it has none, so that it is shown as it is."""
        if self._goal is None or self._goal not in text:
            return None
        return text.replace(self._goal, "").strip() or _NOTHING_SEEN


def _commands(admissible: Sequence[str] | None) -> list[str] | None:
    return None if admissible is None else sorted({command for command in admissible if command})


def texts_of(value: object) -> list[str] | None:
    """A list of texts; None for everything else."""
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        return None
    return list(value)
