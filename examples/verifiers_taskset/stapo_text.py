"""Environments of stapo as a taskset of verifiers (v1): a model behind an endpoint plays, verifiers keeps the record.

    vf-eval stapo-text --env.taskset.environment sokoban --env.taskset.split heldout -n 20 \
        -m MODEL --client.base-url http://127.0.0.1:8001/v1 --no-push

The environment is played in the process of the evaluation. The model sees the task and what the environment shows, and
answers with a command; in a response with a thought, the command stands behind it or in <action> </action>.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Self

import verifiers.v1 as vf
from pydantic import Field, model_validator
from verifiers.v1.harnesses.null import NullHarnessConfig

import stapo
from stapo.agent.formats import tagged
from stapo.envs.protocol import Observation, StepResult, tasks_in
from stapo.errors import StapoError

SYSTEM_PROMPT = (
    "You reach a goal by giving one command at a time. Think first if you like, inside <think> </think>; then give "
    "exactly one command inside <action> </action>."
)


class StapoTextConfig(vf.TasksetConfig):
    """Which tasks are evaluated; `-n` limits how many."""

    environment: str = "sokoban"
    """Name of the environment; `stapo envs` lists them."""
    split: str | None = None
    """Split of the tasks; None for the environment's first."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the environment, as JSON."""
    seed: int = 0
    """Order of the tasks, so that `-n` takes a sample of the split."""

    @model_validator(mode="after")
    def can_be_built(self) -> Self:
        """What cannot be built is said before anything runs."""
        try:
            with closing(stapo.make(self.environment, **self.options)) as env:
                tasks_in(env, self.split)
        except StapoError as err:
            raise ValueError(str(err)) from None
        return self


class StapoTextData(vf.TaskData):
    """A task as verifiers records it."""

    info: dict[str, Any]
    """Environment, options and task id: the episode can be played again."""


class StapoTextTask(vf.Task[StapoTextData, vf.State, vf.TaskConfig]):
    """One task of one environment."""


class StapoTextTaskset(vf.Taskset[StapoTextTask, StapoTextConfig]):
    """The tasks of a split."""

    def load(self) -> Iterator[StapoTextTask]:
        """Yield the tasks, each with what is seen first as its prompt."""
        config = self.config
        with closing(stapo.make(config.environment, **config.options)) as env:
            tasks = list(tasks_in(env, config.split))
            random.Random(config.seed).shuffle(tasks)
            for task_id in tasks:
                first = env.reset(task_id)
                goal = "" if first.goal in first.text else f"Your task: {first.goal}\n\n"
                info = {"environment": config.environment, "options": config.options, "task_id": task_id}
                data = StapoTextData(name=task_id, prompt=goal + shown(first), system_prompt=SYSTEM_PROMPT, info=info)
                yield StapoTextTask(data, config.task)


class StapoTextEnvConfig(vf.EnvConfig):
    """One player: a chat without tools, driven by a process of this machine."""

    player: vf.AgentConfig = vf.AgentConfig(harness=NullHarnessConfig(id="null"), runtime=vf.SubprocessConfig())


class StapoTextEnv(vf.Env[StapoTextEnvConfig]):
    """Plays one task: the model's turn, the environment's step, until the episode or the model's budget ends."""

    async def run(self, task: StapoTextTask, agents: Any) -> None:
        """Play an episode, and record its return."""
        info = task.data.info
        total, steps, won = 0.0, 0, False
        with closing(stapo.make(info["environment"], **info["options"])) as env:
            env.reset(info["task_id"])
            async with agents.player.interaction(task) as interaction:
                segment = await interaction.turn()
                while not segment.terminated:
                    out = env.step(tagged(segment.last_reply, (), 0).action)
                    total, steps, won = total + float(out.reward), steps + 1, out.won
                    if out.done:
                        break
                    segment = await interaction.turn(shown(out))
        interaction.trace.record_reward("episode_return", total)
        interaction.trace.record_metrics({"won": float(won), "steps": float(steps)})


def shown(seen: Observation | StepResult) -> str:
    """What is seen, with the commands that work now."""
    listed = "\n".join(seen.admissible or ())
    return f"{seen.text}\n\nCommands that work now:\n{listed}" if listed else seen.text


__all__ = [
    "StapoTextConfig",
    "StapoTextData",
    "StapoTextEnv",
    "StapoTextEnvConfig",
    "StapoTextTask",
    "StapoTextTaskset",
]
