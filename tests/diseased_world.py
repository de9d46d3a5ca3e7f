"""A toy world that falls ill in one stage of a run or in several, for runs whose environments live in workers.

It needs no torch, so that workers start soon.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stapo.envs.protocol import Observation, StepResult
from stapo.envs.registry import ENVIRONMENTS
from stapo.errors import unknown_name


class Odd(BaseException):
    """No `Exception`."""


def _raise(error: BaseException) -> Any:
    raise error


def _babble(_: str) -> Any:
    """Writes to whatever is open, the answers of its worker included."""
    for descriptor in range(1, 64):
        try:
            os.set_blocking(descriptor, False)
            os.write(descriptor, b'\xff{"not": an answer\n')
        except OSError:
            continue
    return ...


def _leave_a_child(marker: str) -> Any:
    command = [sys.executable, "-c", "import time; time.sleep(3600)", marker]
    subprocess.Popen(command, start_new_session=True)
    return ...


DISEASES: dict[str, Callable[[str], Any]] = {
    "segfault": lambda _: os.kill(os.getpid(), signal.SIGSEGV),
    "os_exit": lambda _: os._exit(0),
    "hang": lambda _: time.sleep(3600),
    "base_exception": lambda _: _raise(Odd("the world broke")),
    "system_exit": lambda _: sys.exit(0),
    "cancelled": lambda _: _raise(asyncio.CancelledError()),
    "interrupt": lambda _: _raise(KeyboardInterrupt()),
    "garbage": lambda _: object(),
    "babble": _babble,
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "child": _leave_a_child,
    "close_hangs": lambda _: _raise(ValueError("and closing it hangs")),
}
"""What may happen; `...` as a result means that the call goes on as usual."""

STAGES = ("tasks", "preflight", "demonstrations", "reset", "rollout", "evaluation", "close")
"""Where; `reset` is that of an episode in training or before it."""


class DiseasedEnv:
    """Say something three times; won when at least two of the sayings have an even number of characters.

    Args:
        strikes: disease by stage.
        marks: folder in which every strike leaves a file; it also marks the processes that are left behind.
        once: each stage is struck once in a run, and not every time.
        games: anything, so that preflight plays every task.
    """

    name = "diseased"
    max_steps = 3
    splits: Sequence[str] = ("heldout", "train")

    def __init__(
        self, strikes: dict[str, str] | None = None, marks: str = "", once: bool = True, games: str | None = None
    ) -> None:
        self.said: list[str] = []
        self.strikes = strikes or {}
        self.marks = marks
        self.once = once
        self.stage = ""
        self.hangs = False

    def _strike(self, stage: str) -> Any:
        """The result of the disease of a stage, or `...` where the call goes on as usual."""
        disease = self.strikes.get(stage)
        if disease is None:
            return ...
        if self.once:
            try:
                os.close(os.open(Path(self.marks) / stage, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return ...
        self.hangs = disease == "close_hangs"
        return DISEASES[disease](self.marks)

    @property
    def tasks(self) -> Sequence[str]:
        return [f"{split}/{number}" for split in self.splits for number in range(4)]

    def tasks_of(self, split: str) -> Any:
        if split not in self.splits:
            raise unknown_name("split", split, self.splits)
        out = self._strike("tasks")
        return [task for task in self.tasks if task.startswith(split)] if out is ... else out

    def task_type(self, task_id: str) -> str:
        return "any"

    def expert_plan(self) -> Any:
        out = self._strike("preflight")
        return ["even"] * 3 if out is ... else out

    def demonstrator(self, rng: random.Random) -> Any:
        env, self.stage = self, "demonstrations"

        class Expert:
            def action(self) -> Any:
                out = env._strike("demonstrations")
                return ("even", "odd", "even")[len(env.said)] if out is ... else out

            def played(self, action: str, effect: bool) -> None:
                pass

        return Expert()

    def reset(self, task_id: str) -> Any:
        self.stage = "rollout" if task_id.startswith("train/") else "evaluation"
        out = self._strike("reset") if self.stage == "rollout" else ...
        if out is not ...:
            return out
        self.said = []
        goal = f"please judge {task_id}."
        return Observation(f"A judge listens. Your task is to: {goal}", goal, None, "A judge listens.")

    def step(self, action: str) -> Any:
        if self.stage == "rollout" and "close" in self.strikes and not (Path(self.marks) / "closed").exists():
            # So that an environment is closed in the middle of a run, too.
            (Path(self.marks) / "closed").touch()
            raise ValueError("to be closed")
        out = self._strike(self.stage) if self.stage in ("rollout", "evaluation") else ...
        if out is not ...:
            return out
        self.said.append(action)
        done = len(self.said) == 3
        won = done and sum(len(said) % 2 == 0 for said in self.said) >= 2
        text = f"The judge heard something {'odd' if len(action) % 2 else 'even'}."
        return StepResult(text, None, float(won), done, won, {"truncated": done and not won})

    def close(self) -> None:
        if self.hangs or self.strikes.get("close") == "close_hangs":
            time.sleep(3600)
        self._strike("close")


ENVIRONMENTS.register("diseased", DiseasedEnv)
