"""A text world that misbehaves on command, for pools in this process and in workers. It needs no torch."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stapo.envs.protocol import Observation, StepResult
from stapo.envs.registry import ENVIRONMENTS
from stapo.errors import ConfigError, RetrieverError, unknown_name

TASKS = ["unruly/a", "unruly/b", "unruly/c"]


HANGS = 3.0
"""Seconds of a deadline that only an environment that hangs reaches; load does not."""


def running(marker: str, patience: float = 60.0) -> list[int]:
    """Processes with this text in their command line that are still there after `patience` seconds."""
    until = time.monotonic() + patience
    while True:
        found = []
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if marker.encode() in line.read_bytes() and int(line.parent.name) != os.getpid():
                    found.append(int(line.parent.name))
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.02)


class Loud:
    """Even its text is an error."""

    def __repr__(self) -> str:
        raise RuntimeError("no text either")


def _raise(error: BaseException) -> Any:
    raise error


def _spin() -> Any:
    while True:
        pass


def _last_words() -> Any:
    print("not an answer: {}", flush=True)
    os.write(1, b"nor is this\n")
    print("out of cheese", file=sys.stderr, flush=True)
    os._exit(5)


CHILD = [sys.executable, "-c", "import time; time.sleep(300)  # started by unruly_world"]


def _hang_with_a_child() -> Any:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)  # left behind by unruly_world"])
    time.sleep(3600)


def _fork() -> None:
    if os.fork() == 0:
        os.execv(CHILD[0], CHILD)


def _fork_without_exec() -> None:
    """Keeps every descriptor of the worker open, the pipe of its answers included."""
    if os.fork() == 0:
        time.sleep(300)


def _daemon() -> None:
    """Leaves parent, session and group, as servers do."""
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(CHILD[0], CHILD)
        os._exit(0)
    os.waitpid(child, 0)


CHILDREN: dict[str, Any] = {
    "forked": _fork,
    "forked without exec": _fork_without_exec,
    "daemon": _daemon,
    "own session": lambda: subprocess.Popen(CHILD, start_new_session=True),
}
"""Ways in which environments start programs that outlive them, if nobody ends them."""


def _result(**changes: Any) -> StepResult:
    return StepResult(**{"text": "fine", "admissible": None, "reward": 0.0, "done": False, "won": False, **changes})


FAULTS: dict[str, Any] = {
    "raise": lambda: _raise(ValueError("the world broke\nand a second line")),
    "exit": lambda: sys.exit(3),
    "retriever": lambda: _raise(RetrieverError("found no retriever at port 1; expected one.")),
    "interrupt": lambda: _raise(KeyboardInterrupt()),
    "assert": lambda: _raise(AssertionError()),
    "os_exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "last_words": _last_words,
    "hang": lambda: time.sleep(3600),
    "spin": _spin,
    "hang_with_a_child": _hang_with_a_child,
    "nothing": lambda: None,
    "loud": Loud,
    "no_text": lambda: _result(text=None),
    "done_in_words": lambda: _result(done="yes"),
    "commands_as_text": lambda: _result(admissible="look"),
    "commands_as_numbers": lambda: _result(admissible=["look", 1]),
    "info_as_list": lambda: _result(info=[]),
    "effect_in_words": lambda: _result(info={"effect": "maybe"}),
    "wrong_observation": lambda: Observation(None, "goal"),  # type: ignore[arg-type]
    "no_reward": lambda: _result(reward=None),
    "reward_in_words": lambda: _result(reward="1.0"),
    "complex_reward": lambda: _result(reward=1j),
    "huge_reward": lambda: _result(reward=10**400),
    "nan": lambda: _result(reward=float("nan")),
    "infinite": lambda: _result(reward=float("-inf")),
}


class UnrulyEnv:
    """Three sayings, won where the second is of even length.

    Args:
        fault: what goes wrong, a key of `FAULTS`.
        call: "step": on the action "boom"; "reset": at the start of the second task; "build" and "close": there.
        marks: folder that counts the faults; each leaves a file there.
        times: no more faults than this, if there is a folder to count them.
        delay: longest wait before an answer, drawn anew each time, in seconds.
        settings: raise `ConfigError` when built.
    """

    name = "unruly"
    max_steps = 3

    def __init__(
        self,
        fault: str = "",
        call: str = "step",
        marks: str = "",
        times: int = 1_000_000,
        delay: float = 0.0,
        settings: bool = False,
    ) -> None:
        if settings:
            raise ConfigError("found settings, expected none.")
        self.fault, self.call, self.marks, self.times, self.delay = fault, call, marks, times, delay
        self.said: list[str] | None = None
        self._misbehave("build")

    def _misbehave(self, call: str) -> Any:
        """The result of the fault, where it is one, or `...` for none."""
        if not self.fault or call != self.call:
            return ...
        if self.marks:
            if len(list(Path(self.marks).iterdir())) >= self.times:
                return ...
            (Path(self.marks) / f"{time.monotonic_ns()}").touch()
        return FAULTS[self.fault]()

    @property
    def tasks(self) -> Sequence[str]:
        return TASKS

    @property
    def splits(self) -> Sequence[str]:
        return ["train"]

    def tasks_of(self, split: str) -> Sequence[str]:
        return TASKS

    def task_type(self, task_id: str) -> str:
        if task_id not in TASKS:
            raise unknown_name("task", task_id, TASKS)
        return "odd" if task_id == TASKS[1] else "even"

    def reset(self, task_id: str) -> Observation:
        self._wait()
        out = self._misbehave("reset") if task_id == TASKS[1] else ...
        if out is not ...:
            return out
        self.said = []
        return Observation(f"A judge of {task_id}.", f"please {task_id}", ["look", "say"], "A judge.")

    def step(self, action: str) -> StepResult:
        assert self.said is not None, "step before reset"
        self._wait()
        out = self._misbehave("step") if action == "boom" else ...
        if out is not ...:
            return out
        self.said.append(action)
        done = len(self.said) == 3
        won = done and len(self.said[1]) % 2 == 0
        return StepResult(f"It heard {action}.", ["say"], float(won), done, won, {"truncated": done and not won})

    def close(self) -> None:
        self._misbehave("close")

    def _wait(self) -> None:
        if self.delay:
            time.sleep(random.SystemRandom().random() * self.delay)


class CarryingEnv(UnrulyEnv):
    """Its first observation depends on how many episodes it has begun."""

    name = "carrying"

    def __init__(self, start: int = 0, broken: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.random = random.Random(start)
        self.broken = broken

    def reset(self, task_id: str) -> Observation:
        super().reset(task_id)
        return Observation(f"Number {self.random.random()}.", "count")

    def state_dict(self) -> Any:
        if self.broken == "hang":
            time.sleep(3600)
        if self.broken == "save":
            raise ValueError("cannot tell")
        if self.broken == "object":
            return {"random": self.random}
        version, words, gauss = self.random.getstate()
        return {"random": [version, list(words), gauss]}

    def load_state_dict(self, state: Any) -> None:
        if self.broken == "load":
            raise ValueError("cannot take it")
        version, words, gauss = state["random"]
        self.random.setstate((version, tuple(words), gauss))


class ParentEnv(UnrulyEnv):
    """Starts a program when it is built, in one of the ways of `CHILDREN`, and never ends it."""

    name = "parent"

    def __init__(self, way: str = "forked", **options: Any) -> None:
        super().__init__(**options)
        CHILDREN[way]()


class OddEnv(UnrulyEnv):
    """Returns texts and facts that are hard to carry from one process to another, and disturbs its own pipes."""

    name = "odd"

    def step(self, action: str) -> StepResult:
        import numpy as np

        print("a line on standard output")
        os.write(1, b'[0, ["result"]]\n')
        read = sys.stdin.read()
        text = {"surrogates": "\ud83d\ude00 \ud800\n\x00", "long": "x" * 300_000}.get(action, f"{action}|{read}")
        loop: list[Any] = []
        loop.append(loop)
        info = {"n": np.int64(3), "x": np.float32(0.5), "b": np.bool_(True), "o": object, 1: (1, 2), "loop": loop}
        return StepResult(text, None, np.float32(0.25), np.bool_(False), False, {**info, "effect": np.bool_(True)})  # type: ignore[arg-type]


for _cls in (UnrulyEnv, CarryingEnv, ParentEnv, OddEnv):
    ENVIRONMENTS.register(_cls.name, _cls)  # type: ignore[arg-type]
