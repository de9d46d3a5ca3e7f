"""Our environments for TRL's `GRPOTrainer(environment_factory=...)`, as tools that a model calls.

TRL builds an instance without arguments, resets it with the columns of a row, appends what `reset` returns to the last
user message, offers every other public method as a tool, and asks `get_reward` once at the end. Needs no import of TRL.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from stapo.checks import check_integer
from stapo.envs.protocol import Env, Observation, StepResult, tasks_in
from stapo.envs.registry import check_options, make
from stapo.errors import ConfigError, EnvError, unknown_name

_MOST_LISTED = 100


class TextEnvironment:
    """One environment, in the form that TRL expects; `environment` makes a factory of it.

    Args:
        name: of the environment.
        split: split that seeds count in; None for its first.
        list_commands: whether what is seen ends with the commands that work now.
        options: of the environment.
    """

    def __init__(self, name: str, split: str | None, list_commands: bool, options: dict[str, Any]) -> None:
        self._env: Env = make(name, **options)
        self._tasks = tasks_in(self._env, split)
        self._lists_commands = list_commands
        self._return = 0.0
        self._over = True

    def reset(self, task_id: str | None = None, seed: int | None = None, **row: Any) -> str:
        """Begin an episode. Rows of a group are equal, and so are its tasks.

        Args:
            task_id: the task to play.
            seed: where no task is named: place of the task in the split, counted round and round.
            row: further columns of the data set; they are not used.

        Returns:
            The task and what is seen.

        Raises:
            ConfigError: the row names neither a task nor a seed, or a seed that is not a whole number of 0 or more.
            UnknownNameError: there is no such task.
        """
        if task_id is None and seed is None:
            raise ConfigError(
                "the row has neither a 'task_id' nor a 'seed', so that members of a group would play different "
                "tasks; give the data set one of these columns (stapo.adapters.trl.rows)."
            )
        if task_id is None:
            task_id = self._tasks[check_integer("the row's 'seed'", seed, 0) % len(self._tasks)]
        self._return, self._over = 0.0, False
        first = self._env.reset(task_id)
        goal = "" if first.goal in first.text else f"Your task: {first.goal}\n\n"
        return goal + self._shown(first)

    def act(self, command: str) -> str:
        """Give one command.

        Args:
            command: the command, as it is listed where commands are listed.

        Returns:
            What is seen afterwards.
        """
        if self._over:
            raise EnvError("the episode is over; no command is taken any more.")
        out = self._env.step(command)
        self._return += float(out.reward)
        self._over = out.done
        if out.done:
            return f"{out.text}\n\n{'The task is solved.' if out.won else 'The episode is over.'}".strip()
        return self._shown(out)

    def get_reward(self) -> float:
        """The sum of the rewards of the episode."""
        return self._return

    def _shown(self, seen: Observation | StepResult) -> str:
        if not self._lists_commands or not seen.admissible:
            return seen.text
        listed = "\n".join(seen.admissible[:_MOST_LISTED])
        return f"{seen.text}\n\nCommands that work now:\n{listed}"


def environment(
    name: str, *, split: str | None = None, list_commands: bool = True, **options: Any
) -> Callable[[], TextEnvironment]:
    """What `environment_factory` takes: builds an environment of ours for TRL. It can be pickled.

    Args:
        name: as `stapo envs` lists it.
        split: split that seeds count in; None for its first.
        list_commands: whether what is seen ends with the commands that work now, 100 of them at most.
        options: of the environment.

    Raises:
        UnknownNameError, ConfigError: no such environment, split or option.
    """
    check_options(name, options)
    env = make(name, **options)
    try:
        if split is not None and split not in env.splits:
            raise unknown_name("split", split, env.splits)
    finally:
        env.close()
    return partial(TextEnvironment, name, split, list_commands, options)


def rows(name: str, *, split: str | None = None, number: int | None = None, **options: Any) -> list[dict[str, Any]]:
    """Rows of a data set for `environment`: a prompt and the id of a task each.

    Args:
        name: as `stapo envs` lists it.
        split: split of the tasks; None for the environment's first.
        number: how many tasks, from the first on; None for all.
        options: of the environment.

    Raises:
        UnknownNameError, ConfigError: no such environment, split or option; a number below 1.
    """
    if number is not None:
        check_integer("number", number, 1)
    env = make(name, **options)
    try:
        tasks = list(tasks_in(env, split)[:number])
    finally:
        env.close()
    asked = "Do the task by calling the tool `act`, one command at a time.\n\n"
    return [{"prompt": [{"role": "user", "content": asked}], "task_id": task} for task in tasks]
