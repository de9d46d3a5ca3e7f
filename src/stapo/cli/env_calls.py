"""Calls of commands into an environment, which may be another package's: what goes wrong is one line of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from stapo.envs.guard import EnvFailure, Started, advance, attempt, start
from stapo.envs.protocol import Env, StepResult
from stapo.errors import EnvError, StapoError

T = TypeVar("T")


def begin(env: Env, task: str) -> Started:
    """Begin a task.

    Raises:
        EnvError: the environment failed, and not by an error of ours.
        StapoError: that error.
    """
    begun = start(env, task, (StapoError,))
    if isinstance(begun, EnvFailure):
        raise EnvError(f"task '{task}' could not begin: {_in_a_line(begun)}.")
    return begun


def take(env: Env, action: str | EnvFailure) -> StepResult:
    """Take an action.

    Raises:
        EnvError: the environment failed, and not by an error of ours; or what should have chosen the action failed.
        StapoError: that error.
    """
    out = action if isinstance(action, EnvFailure) else advance(env, action, (StapoError,))
    if isinstance(out, EnvFailure):
        raise EnvError(f"the episode ended in its {out.boundary}: {_in_a_line(out)}.")
    return out


def asked(call: Callable[[], T], what: str) -> T:
    """What a call returns that looks at an environment: at its tasks, say.

    Raises:
        EnvError: it failed, and not by an error of ours; `what` says what was looked at.
        StapoError: that error.
    """
    found = attempt(call, lambda: what, (StapoError,))
    if isinstance(found, EnvFailure):
        raise EnvError(f"the environment failed: {_in_a_line(found)}.")
    return found


def _in_a_line(failure: EnvFailure) -> str:
    return " ".join(failure.error.split()).rstrip(".")
