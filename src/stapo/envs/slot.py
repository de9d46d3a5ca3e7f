"""One environment with all that it is asked: episodes, its tasks, its demonstrator, its judge.

A pool has one in every slot. Whatever the environment's code does, the answer is a value.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from stapo.envs.guard import (
    SETTINGS_ERRORS,
    EnvFailure,
    Started,
    advance,
    attempt,
    close_quietly,
    short,
    start,
)
from stapo.envs.protocol import Env, Expert, HasDemonstrator, HasJudge, HasState, HasTaskScore, StepResult, Thinks
from stapo.errors import GameFileError

Question = Literal[
    "about", "tasks", "types", "playable", "expert", "advice", "thought", "played", "judge", "before", "after"
]
"""What an environment can be asked beside episodes.

- about: what it is, see `About`
- tasks: of a split; types: of these tasks
- playable: why a task cannot be played or won, "" where it can; without an expert that says so, it is only reset
- expert: a demonstrator of the episode that was begun, for a seed
- advice: the demonstrator's next action, None at its end
- thought: the thought behind it, "" of a demonstrator that says none
- played: nothing, but tells the demonstrator which action was taken, and whether it had an effect
- judge: a judge of the episode that was begun; its faults with their sentences
- before: nothing, but tells the judge which action is about to be taken
- after: what the judge finds in the step that was just taken
"""

OF_AN_EPISODE = frozenset({"expert", "advice", "thought", "played", "judge", "before", "after"})
"""Questions that mean nothing once the episode is gone."""

_CALLS: dict[Question, str] = {
    "about": "reading its attributes",
    "tasks": "tasks_of",
    "types": "task_type",
    "playable": "reset and expert_plan of",
    "expert": "demonstrator()",
    "advice": "action() of its demonstrator",
    "thought": "thought() of its demonstrator",
    "played": "played() of its demonstrator",
    "judge": "judge()",
    "before": "before() of its judge, told",
    "after": "after() of its judge",
}
_NAMED = frozenset({"tasks", "playable", "before"})
_SETTINGS = frozenset({"about", "tasks", "types", "expert", "judge"})


@dataclass(frozen=True, slots=True)
class About:
    """What an environment is.

    Attributes:
        name: of the environment.
        max_steps: steps after which an episode ends.
        demonstrates: it has a demonstrator.
        judges: it has a judge.
        scores: it judges by degrees.
    """

    name: str
    max_steps: int
    demonstrates: bool
    judges: bool
    scores: bool


def describe(question: Question, argument: Any) -> str:
    """A question as a message names it."""
    return f"{_CALLS[question]} {short(argument)}" if question in _NAMED else _CALLS[question]


class EnvSlot:
    """One environment; it is built when it is first needed."""

    def __init__(self, make_env: Callable[[], Env]) -> None:
        self.make_env = make_env
        self.env: Env | None = None
        self._player: Any = None
        self._referee: Any = None
        self._result: StepResult | None = None

    def reset(self, task_id: str) -> Started | EnvFailure:
        """Begin the episode of a task.

        Raises:
            ConfigError: or another settings error, if the environment cannot be built.
        """
        env = self._ready()
        self._player = self._referee = self._result = None
        return env if isinstance(env, EnvFailure) else start(env, task_id)

    def step(self, action: str) -> StepResult | EnvFailure:
        """Take one action in the episode that was begun."""
        if self.env is None:
            return EnvFailure("environment", f"step({short(action)}) came before a reset")
        out = advance(self.env, action)
        self._result = out if isinstance(out, StepResult) else None
        return out

    def ask(self, question: Question, argument: Any) -> Any | EnvFailure:
        """Answer a question, in JSON's types.

        Raises:
            ConfigError: or another settings error, if the environment cannot be built, or says so of a split, a
                demonstrator or a judge.
        """
        if question not in get_args(Question):
            raise ValueError(f"unknown question {question!r}")
        env = self._ready()
        if isinstance(env, EnvFailure):
            return env
        return attempt(
            lambda: getattr(self, f"_{question}")(env, argument),
            lambda: describe(question, argument),
            SETTINGS_ERRORS if question in _SETTINGS else (),
        )

    def state(self) -> Any | EnvFailure:
        """What the environment carries from one episode to the next; None where there is none."""
        env = self.env
        return attempt(env.state_dict, lambda: "state_dict()") if isinstance(env, HasState) else None

    def restore(self, state: Any) -> EnvFailure | None:
        """Give the environment back what it carried."""
        env: Any = self._ready()
        if isinstance(env, EnvFailure):
            return env
        found = attempt(lambda: env.load_state_dict(state), lambda: "load_state_dict()")
        return found if isinstance(found, EnvFailure) else None

    def drop(self) -> None:
        """Close the environment; the next call builds a fresh one."""
        env, self.env = self.env, None
        self._player = self._referee = self._result = None
        if env is not None:
            close_quietly(env)

    def _ready(self) -> Env | EnvFailure:
        if self.env is None:
            built = attempt(self.make_env, lambda: "building the environment", SETTINGS_ERRORS)
            if isinstance(built, EnvFailure):
                return built
            self.env = built
        return self.env

    def _about(self, env: Any, _: Any) -> Any:
        name, steps = env.name, env.max_steps
        if not isinstance(name, str) or not isinstance(steps, int):
            wrong = f"its name is {short(name)} and its max_steps {short(steps)}, expected a text and a whole number"
            return EnvFailure("environment", wrong)
        scores = isinstance(env, HasTaskScore) and env.has_task_score is True
        return [name, steps, isinstance(env, HasDemonstrator), isinstance(env, HasJudge), scores]

    def _tasks(self, env: Env, split: str) -> Any:
        return _texts(env.tasks_of(split), f"tasks_of({short(split)})")

    def _types(self, env: Env, tasks: list[str]) -> Any:
        return _texts([env.task_type(task) for task in tasks], "task_type")

    def _playable(self, env: Env, task: str) -> Any:
        try:
            env.reset(task)
            if isinstance(env, Expert) and env.expert_plan() is None:
                return f"game '{task}': no sequence of actions reaches its goal"
        except GameFileError as err:
            return str(err).rstrip(".")
        return ""

    def _expert(self, env: Any, seed: int) -> Any:
        self._player = env.demonstrator(random.Random(seed))

    def _advice(self, env: Env, _: Any) -> Any:
        action = self._player.action()
        if action is None or isinstance(action, str):
            return action
        return EnvFailure("environment", f"{_CALLS['advice']} returned {short(action)}, expected a text or None")

    def _thought(self, env: Env, _: Any) -> Any:
        thought: Any = self._player.thought() if isinstance(self._player, Thinks) else ""
        if isinstance(thought, str):
            return thought
        return EnvFailure("environment", f"{_CALLS['thought']} returned {short(thought)}, expected a text")

    def _played(self, env: Env, taken: list[Any]) -> Any:
        action, effect = taken
        self._player.played(action, effect)

    def _judge(self, env: Any, _: Any) -> Any:
        self._referee = env.judge()
        return {str(name): str(sentence) for name, sentence in self._referee.faults.items()}

    def _before(self, env: Env, action: str) -> Any:
        self._referee.before(action)

    def _after(self, env: Env, _: Any) -> Any:
        found = _texts(self._referee.after(self._result), _CALLS["after"])
        return found if isinstance(found, EnvFailure) else sorted(found)


def _texts(values: Any, call: str) -> Any:
    found = list(values)
    if all(isinstance(value, str) for value in found):
        return found
    odd = next(value for value in found if not isinstance(value, str))
    return EnvFailure("environment", f"{call} returned {short(odd)} among others, expected texts")
