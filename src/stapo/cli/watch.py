"""A policy plays, and a person watches: `stapo play --agent`."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console

from stapo.agent.parsing import part_spans
from stapo.cli.arguments import own_env_options
from stapo.cli.env_calls import begin, take
from stapo.cli.words import foreign, say
from stapo.config.environment import EnvConfig, environment_of
from stapo.config.presets import load_config
from stapo.config.run_config import RunConfig
from stapo.envs.guard import EnvFailure, Started
from stapo.envs.protocol import CommandShapes, Env
from stapo.envs.registry import default_preset
from stapo.errors import ConfigError
from stapo.texts import counted

if TYPE_CHECKING:
    from stapo.api.evaluation import EvalTarget
    from stapo.rollout.collect import Collector
    from stapo.rollout.types import Step, Trajectory


def target_of(agent: str, env: str | None, given: list[str], source: str | None) -> EvalTarget:
    """Who plays: a run, one of its checkpoints, or a pretrained model by its name or folder.

    Args:
        agent: as the user named it.
        env: name of the environment to play; None for that of the run, and for a model that of the default settings.
        given: `--env.OPTION VALUE`, as the user gave it.
        source: preset or file whose settings a model plays with; None for what the environment names.

    Raises:
        StapoError: there is no such thing, or it cannot play here.
    """
    from stapo.api.evaluation import frozen_model, run_of, saved_policy

    def changed(config: RunConfig) -> RunConfig:
        if config.envs:
            config = environment_of(config, env)
        elif env is not None and env != config.env.name:
            raise ConfigError(
                f"{agent} plays '{config.env.name}', not '{env}'. Leave {env} out, or name another agent."
            )
        options = own_env_options(given, config.env.name, "play")[0]
        return replace(config, env=replace(config.env, options={**config.env.options, **options}))

    own = run_of(agent)
    if own is not None:
        run, checkpoint = own
        return saved_policy(run.directory, changed(run.config), checkpoint or "final")
    name = env or EnvConfig().name
    settings = source or default_preset(name, "pretrained") or name
    return frozen_model(settings, changed(load_config(settings)), agent)


def introduce(console: Console, env: str, task: str, begun: Started) -> None:
    """Show how an episode begins."""
    first = begun.observation
    console.rule(foreign(f"{env}: {begun.task_type}"))
    say(console, foreign(f"task {task}"), "dim")
    say(console, foreign(as_lines(first.text, begun.shapes)))
    if first.goal not in first.text:
        say(console, foreign(first.goal), "bold")


def as_lines(page: str, shapes: CommandShapes) -> str:
    """A page of parts with one part a line."""
    return "\n".join(page.split(shapes.separator))


@dataclass
class Watched:
    """A policy in an environment, one step after the other.

    Args:
        env: what is played.
        collector: of the policy.
        temperature: of the sampling.
        seed: of the sampling.
        console: where text goes.
    """

    env: Env
    collector: Collector
    temperature: float
    seed: int
    console: Console

    def play(self, order: Sequence[str]) -> None:
        """Play the tasks until the person has seen enough; one where nobody is at the terminal."""
        for number, task in enumerate(order):
            if number and not self._next("next task"):
                return
            if not self._episode(number, task):
                return

    def _episode(self, number: int, task: str) -> bool:
        """Show an episode; False where the person leaves it."""
        from stapo.rollout.types import Trajectory

        begun = begin(self.env, task)
        trajectory = Trajectory(task, begun.task_type, "", 0, number)
        episode = self.collector.episode(trajectory)
        episode.begin(begun.observation, begun.shapes)
        introduce(self.console, self.env.name, task, begun)
        while not episode.done:
            if not self._next("next step"):
                return False
            ids = episode.prompt()
            if ids is None:
                break
            stream = (self.seed, number, len(trajectory.steps))
            answer = self.collector.ask([(episode, ids)], [stream], self.temperature)[0]
            action = answer if isinstance(answer, EnvFailure) else episode.answer(answer)
            out = take(self.env, action)
            episode.observe(out)
            self._show(trajectory.steps[-1], as_lines(out.text, begun.shapes))
        self._end(trajectory)
        return True

    def _show(self, step: Step, seen: str) -> None:
        thought = part_spans(step.response).get("think")
        if thought is not None:
            say(self.console, foreign(step.response[slice(*thought)].strip()), "italic dim")
        how = f"  ({math.exp(sum(step.logprobs)):.0%} sure)" if step.logprobs else ""
        wrong = "" if step.valid else f"  [{step.problem.replace('_', ' ')}]"
        say(self.console, foreign(f"> {step.action}{how}{wrong}"), "bold cyan" if step.valid else "bold yellow")
        say(self.console, foreign(seen))

    def _end(self, trajectory: Trajectory) -> None:
        steps = counted(len(trajectory.steps), "step")
        why = trajectory.stop_reason.value.replace("_", " ")
        said = f"Won in {steps}." if trajectory.won else f"Not won after {steps} ({why})."
        say(self.console, said, "bold green" if trajectory.won else "bold red")

    def _next(self, what: str) -> bool:
        """Wait for the person; without one the first episode is shown to its end."""
        if not sys.stdin.isatty():
            return what == "next step"
        try:
            return input(f"[Enter: {what}, q: leave] ").strip().lower() not in ("q", "quit")
        except EOFError:
            self.console.print()
            return False
