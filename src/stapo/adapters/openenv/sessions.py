"""Sessions of a server: each has an environment of its own, and plays one episode at a time."""

from __future__ import annotations

import logging
import math
import random
import uuid
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

from stapo.adapters.openenv.messages import Code, ProtocolError, ResetRequest, facts
from stapo.envs.guard import EnvFailure, advance, close_quietly, start
from stapo.envs.protocol import Env
from stapo.errors import did_you_mean

_LOG = logging.getLogger("stapo.serve_env")

Result = dict[str, Any]
"""``{"observation": ..., "reward": ..., "done": ...}``, as the protocol sends it."""


class Session:
    """One client's environment. Its methods are called one at a time, from any thread.

    Args:
        build: makes an environment.
        split: split that tasks are drawn from where a client names none; None for the environment's first.
        rng: draws tasks where a client names neither a task nor a seed.
    """

    def __init__(self, build: Callable[[], Env], split: str | None, rng: random.Random) -> None:
        self._build = build
        self._split = split
        self._rng = rng
        self._env: Env | None = None
        self.episode_id: str | None = None
        self.task_id: str | None = None
        self.steps = 0
        self.done = False
        self._goal = ""

    def open(self) -> Env:
        """The environment, built when a session begins, so that a client hears at once when there is none.

        Raises:
            ProtocolError: it cannot be built.
        """
        if self._env is None:
            try:
                self._env = self._build()
            except Exception as err:
                _LOG.error("the environment could not be built", exc_info=err)
                raise ProtocolError(
                    Code.FACTORY_ERROR, "the environment could not be built; the server's log says why."
                ) from None
        return self._env

    def reset(self, asked: ResetRequest) -> Result:
        """Begin an episode.

        Raises:
            ProtocolError: there is no such task, or the environment failed.
        """
        env = self.open()
        self._clear()
        task = self._task(env, asked)
        begun = start(env, task)
        if isinstance(begun, EnvFailure):
            raise self._failed(begun, task)
        self.episode_id, self.task_id = asked.episode_id or uuid.uuid4().hex, task
        seen = begun.observation
        self._goal = seen.goal
        return self._result(seen.text, seen.admissible, None, False, {"won": False, "truncated": False, "info": {}})

    def step(self, command: str) -> Result:
        """Take one action.

        Raises:
            ProtocolError: no episode goes on, or the environment failed.
        """
        if self._env is None or self.task_id is None or self.done:
            state = "the episode is over" if self.done else "no episode has begun"
            raise ProtocolError(Code.EXECUTION_ERROR, f"{state}; send 'reset' first.")
        out = advance(self._env, command)
        if not isinstance(out, EnvFailure) and not math.isfinite(out.reward):
            out = EnvFailure("reward", f"the environment returned the reward {out.reward}, expected a finite number")
        if isinstance(out, EnvFailure):
            raise self._failed(out, self.task_id)
        self.steps, self.done = self.steps + 1, out.done
        truncated = bool(out.info.get("truncated"))
        info = facts({key: value for key, value in out.info.items() if key != "truncated"})
        told = {"won": out.won, "truncated": truncated, "info": info}
        return self._result(out.text, out.admissible, float(out.reward), out.done, told)

    def state(self) -> dict[str, Any]:
        """Where the episode stands."""
        return {
            "episode_id": self.episode_id,
            "step_count": self.steps,
            "task_id": self.task_id,
            "environment": getattr(self._env, "name", ""),
            "done": self.done,
        }

    def close(self) -> None:
        """Close the environment; the session cannot be used any more."""
        if self._env is not None:
            close_quietly(self._env)
        self._env = None
        self._clear()

    def _clear(self) -> None:
        self.episode_id = self.task_id = None
        self.steps, self.done, self._goal = 0, False, ""

    def _task(self, env: Env, asked: ResetRequest) -> str:
        splits = list(env.splits)
        split = asked.split or (None if asked.task_id else self._split or splits[0])
        if split is not None and split not in splits:
            raise ProtocolError(
                Code.VALIDATION_ERROR,
                f"there is no split '{split}'.{did_you_mean(split, splits)} Splits: {', '.join(splits)}.",
            )
        tasks = env.tasks if split is None else env.tasks_of(split)
        if asked.task_id is not None:
            if not _holds(tasks, asked.task_id):
                where = "" if split is None else f" in split '{split}'"
                raise ProtocolError(
                    Code.VALIDATION_ERROR, f"there is no task '{asked.task_id}'{where}; the first one is '{tasks[0]}'."
                )
            return asked.task_id
        number = self._rng.randrange(len(tasks)) if asked.seed is None else asked.seed % len(tasks)
        return tasks[number]

    def _result(
        self, text: str, admissible: list[str] | None, reward: float | None, done: bool, told: dict[str, Any]
    ) -> Result:
        observation = {"text": text, "goal": self._goal, "admissible": admissible, "task_id": self.task_id, **told}
        return {"observation": observation, "reward": reward, "done": done}

    def _failed(self, failure: EnvFailure, task: str) -> ProtocolError:
        """What a client is told: whose failure it is, and no text of the environment's; that stays in the log.

        The environment is not used again.
        """
        _LOG.error("the %s failed in task '%s': %s", failure.boundary, task, failure.error)
        if failure.detail:
            _LOG.debug("%s", failure.detail)
        self.close()
        return ProtocolError(
            Code.EXECUTION_ERROR, f"the {failure.boundary} failed; the server's log says why. Send 'reset'."
        )


def _holds(tasks: Sequence[str], task_id: str) -> bool:
    """Whether sorted tasks have one; some environments have millions."""
    place = bisect_left(tasks, task_id)
    return place < len(tasks) and tasks[place] == task_id
