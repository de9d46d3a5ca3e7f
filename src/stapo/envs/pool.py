"""Many environments at once, in numbered slots.

A pool plays one episode per slot. Requests go out in batches and answers come back in the order of the requests,
however long each takes. A failure is a value in its place, not an exception: it costs the slot that it happened in.

`LocalPool` keeps the environments in this process, which is the fastest where they are quick and well-behaved.
`stapo.envs.worker_pool.WorkerPool` keeps them in child processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from stapo.envs.ambient import kept
from stapo.envs.guard import EnvFailure, EpisodeLost, Started
from stapo.envs.protocol import Env, StepResult
from stapo.envs.slot import About, EnvSlot, Question
from stapo.errors import EnvError


class EnvPool(Protocol):
    """Environments in numbered slots, from 0 on. In one batch, each slot may be asked once."""

    def grow(self, count: int) -> None:
        """Offer at least `count` slots. An environment is built when its slot is first reset."""
        ...

    def reset(self, requests: Sequence[tuple[int, str]]) -> list[Started | EnvFailure | EpisodeLost]:
        """Start episodes.

        Args:
            requests: slot and task id of each.

        Returns:
            per request what became of it, in order.

        Raises:
            ConfigError: or another settings error, if the environment cannot be built with its options.
        """
        ...

    def step(self, requests: Sequence[tuple[int, str]]) -> list[StepResult | EnvFailure | EpisodeLost]:
        """Take one action per slot.

        Args:
            requests: slot and action of each.

        Returns:
            per request what became of it, in order. After `EnvFailure` and `EpisodeLost` the slot needs a reset.
        """
        ...

    def ask(self, slot: int, question: Question, argument: Any = None) -> Any | EnvFailure | EpisodeLost:
        """Ask the environment of a slot something beside its episode.

        Returns:
            the answer, in JSON's types; after `EnvFailure` and `EpisodeLost` the slot needs a reset.

        Raises:
            ConfigError: or another settings error: it cannot be built, or it says so of a split, a demonstrator or a
                judge.
        """
        ...

    def discard(self, slot: int) -> None:
        """Throw the environment of a slot away; the next call builds a fresh one."""
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

    What their code changes of the whole process, torch's dtype, say, is put back, and warned of once.

    Args:
        make_env: builds a fresh environment.
        name: of the environment, for warnings.
    """

    def __init__(self, make_env: Callable[[], Env], name: str = "") -> None:
        self.make_env = make_env
        self.name = name or getattr(make_env, "__name__", "of a test")
        self._slots: list[EnvSlot] = []

    def grow(self, count: int) -> None:
        """Offer at least `count` slots; see `EnvPool.grow`."""
        self._slots += [EnvSlot(self.make_env) for _ in range(count - len(self._slots))]

    def reset(self, requests: Sequence[tuple[int, str]]) -> list[Started | EnvFailure | EpisodeLost]:
        """Start episodes; see `EnvPool.reset`."""
        with kept(self.name):
            return [self._slots[slot].reset(task_id) for slot, task_id in requests]

    def step(self, requests: Sequence[tuple[int, str]]) -> list[StepResult | EnvFailure | EpisodeLost]:
        """Take one action per slot; see `EnvPool.step`."""
        slots = self._slots
        with kept(self.name):
            return [
                EpisodeLost("the slot was not reset") if slots[slot].env is None else slots[slot].step(action)
                for slot, action in requests
            ]

    def ask(self, slot: int, question: Question, argument: Any = None) -> Any | EnvFailure | EpisodeLost:
        """Ask an environment something; see `EnvPool.ask`."""
        with kept(self.name):
            return self._slots[slot].ask(question, argument)

    def discard(self, slot: int) -> None:
        """Throw the environment of a slot away; see `EnvPool.discard`."""
        with kept(self.name):
            self._slots[slot].drop()

    def state(self) -> list[Any]:
        """What the environments carry; see `EnvPool.state`."""
        with kept(self.name):
            states = [one.state() for one in self._slots]
        for slot, state in enumerate(states):
            if isinstance(state, EnvFailure):
                raise state_error(slot, state)
        return states

    def restore(self, states: Sequence[Any]) -> None:
        """Give the environments back what they carried; see `EnvPool.restore`."""
        self.grow(len(states))
        for slot, state in enumerate(states):
            if state is None:
                continue
            with kept(self.name):
                wrong = self._slots[slot].restore(state)
            if wrong is not None:
                raise state_error(slot, wrong)

    def close(self) -> None:
        """Close every environment; see `EnvPool.close`."""
        with kept(self.name):
            while self._slots:
                self._slots.pop(0).drop()


def insist(pool: EnvPool, slot: int, question: Question, argument: Any = None, retries: int = 1) -> Any:
    """The answer to a question, asked again in a fresh environment where that fails.

    Raises:
        EnvError: it failed every time.
        ConfigError: or another settings error; see `EnvPool.ask`.
    """
    said = ""
    for _ in range(retries + 1):
        out = pool.ask(slot, question, argument)
        if isinstance(out, EnvFailure):
            said = f"{out.error}. {out.detail.strip()}" if out.detail else f"{out.error}."
        elif isinstance(out, EpisodeLost):
            said = f"{out.reason}."
        else:
            return out
        pool.discard(slot)
    often = f"{retries + 1} attempts" if retries else "one attempt"
    raise EnvError(
        f"the environment could not say what it was asked in {often}; expected an answer. The last one: {said}"
    )


def about(pool: EnvPool, slot: int, retries: int = 1) -> About:
    """What the environment of a slot is.

    Raises:
        EnvError: it could not say.
        ConfigError: or another settings error; see `EnvPool.ask`.
    """
    return About(*insist(pool, slot, "about", None, retries))


def state_error(slot: int, failure: EnvFailure) -> EnvError:
    """The error for a slot whose state could not be taken or given back."""
    return EnvError(
        f"the state of the environment in slot {slot} could not travel: {failure.error}. Expected a state_dict() and a "
        "load_state_dict(state) that understand each other. Repair them, or remove both if nothing is carried from one "
        "episode to the next."
    )
