"""Many environments at once, in numbered slots.

A pool plays one episode per slot. Requests go out in batches and answers come back in the order of the requests,
however long each takes. A failure is a value in its place, not an exception: it costs the slot that it happened in.

`LocalPool` keeps the environments in this process, which is the fastest where they are quick and well-behaved.
`stapo.envs.worker_pool.WorkerPool` keeps them in child processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from stapo.envs.guard import (
    Lost,
    Started,
    Trouble,
    advance,
    build,
    close_quietly,
    load_state,
    raised,
    start,
    state_of,
)
from stapo.envs.protocol import Env, StepResult
from stapo.errors import EnvError


class EnvPool(Protocol):
    """Environments in numbered slots, from 0 on. In one batch, each slot may be asked once."""

    def grow(self, count: int) -> None:
        """Offer at least `count` slots. An environment is built when its slot is first reset."""
        ...

    def reset(self, requests: Sequence[tuple[int, str]]) -> list[Started | Trouble | Lost]:
        """Start episodes.

        Args:
            requests: slot and task id of each.

        Returns:
            per request what became of it, in order.

        Raises:
            ConfigError: or another settings error, if the environment cannot be built with its options.
        """
        ...

    def step(self, requests: Sequence[tuple[int, str]]) -> list[StepResult | Trouble | Lost]:
        """Take one action per slot.

        Args:
            requests: slot and action of each.

        Returns:
            per request what became of it, in order. After `Trouble` and `Lost` the slot needs a reset.
        """
        ...

    def discard(self, slot: int) -> None:
        """Throw the environment of a slot away; the next reset builds a fresh one."""
        ...

    def state(self) -> list[Any]:
        """What the environments carry from one episode to the next, by slot; None for those that carry nothing.

        Raises:
            EnvError: an environment could not say.
        """
        ...

    def restore(self, states: Sequence[Any]) -> None:
        """Give the environments back what `state` returned, slot by slot.

        Raises:
            EnvError: an environment could not take it.
        """
        ...

    def close(self) -> None:
        """Close every environment; calling it twice is fine, and a closed pool can be used again."""
        ...


class LocalPool:
    """Environments in this process.

    They are called one after the other. One that hangs hangs the run, and one that ends the process ends it: those
    belong into workers.

    Args:
        make_env: builds a fresh environment.
    """

    def __init__(self, make_env: Callable[[], Env]) -> None:
        self.make_env = make_env
        self._envs: list[Env | None] = []

    def grow(self, count: int) -> None:
        """Offer at least `count` slots; see `EnvPool.grow`."""
        self._envs += [None] * (count - len(self._envs))

    def reset(self, requests: Sequence[tuple[int, str]]) -> list[Started | Trouble | Lost]:
        """Start episodes; see `EnvPool.reset`."""
        return [self._start(slot, task_id) for slot, task_id in requests]

    def step(self, requests: Sequence[tuple[int, str]]) -> list[StepResult | Trouble | Lost]:
        """Take one action per slot; see `EnvPool.step`."""
        envs = self._envs
        return [
            Lost("the slot was not reset") if (env := envs[slot]) is None else advance(env, action)
            for slot, action in requests
        ]

    def discard(self, slot: int) -> None:
        """Throw the environment of a slot away; see `EnvPool.discard`."""
        env, self._envs[slot] = self._envs[slot], None
        if env is not None:
            close_quietly(env)

    def state(self) -> list[Any]:
        """What the environments carry; see `EnvPool.state`."""
        states = []
        for slot, env in enumerate(self._envs):
            try:
                states.append(None if env is None else state_of(env))
            except (Exception, SystemExit) as err:
                raise state_error(slot, raised(err, "state_dict()")) from err
        return states

    def restore(self, states: Sequence[Any]) -> None:
        """Give the environments back what they carried; see `EnvPool.restore`."""
        self.grow(len(states))
        for slot, state in enumerate(states):
            if state is None:
                continue
            env = self._env(slot)
            if isinstance(env, Trouble):
                raise state_error(slot, env)
            try:
                load_state(env, state)
            except (Exception, SystemExit) as err:
                raise state_error(slot, raised(err, "load_state_dict()")) from err

    def close(self) -> None:
        """Close every environment; see `EnvPool.close`."""
        while self._envs:
            env = self._envs.pop(0)
            if env is not None:
                close_quietly(env)

    def _env(self, slot: int) -> Env | Trouble:
        env = self._envs[slot]
        if env is None:
            built = build(self.make_env)
            if isinstance(built, Trouble):
                return built
            env = self._envs[slot] = built
        return env

    def _start(self, slot: int, task_id: str) -> Started | Trouble:
        env = self._env(slot)
        return env if isinstance(env, Trouble) else start(env, task_id)


def state_error(slot: int, trouble: Trouble) -> EnvError:
    """The error for a slot whose state could not be taken or given back."""
    return EnvError(
        f"the state of the environment in slot {slot} could not travel: {trouble.error}. Expected a state_dict() and a "
        "load_state_dict(state) that understand each other. Repair them, or remove both if nothing is carried from one "
        "episode to the next."
    )
