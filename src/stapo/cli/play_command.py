"""`stapo play [ENV]`: a person plays a task in the terminal."""

from __future__ import annotations

import math
import random
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.columns import Columns
from rich.console import Console
from tyro.conf import Positional

from stapo.cli.arguments import own_env_options
from stapo.cli.command import Command, arg
from stapo.cli.env_calls import asked, begin, take
from stapo.cli.play_from import Recorded, recorded
from stapo.cli.watch import Watched, as_lines, introduce, target_of
from stapo.cli.words import foreign, say
from stapo.config.environment import EnvConfig
from stapo.envs.guard import EnvFailure, attempt, start
from stapo.envs.offers import is_template, offers
from stapo.envs.protocol import CommandShapes, Env, Expert, StepResult
from stapo.envs.registry import make
from stapo.errors import ConfigError, unknown_name
from stapo.texts import counted

_OWN_WORDS = ("?", "hint", "restart", "next", "quit")


class _Leave(Exception):
    """The player is done."""


class Game:
    """One person, one environment.

    Args:
        env: what is played.
        order: task ids in the order in which `next` visits them; the first one comes first.
        console: where text goes.
        begun: an episode whose actions are repeated first; `restart` leaves them out.
    """

    def __init__(self, env: Env, order: list[str], console: Console, begun: Recorded | None = None) -> None:
        self.env = env
        self.begun = begun
        self.order = order
        self.console = console
        self.number = 0
        self.admissible: list[str] | None = None
        self.steps = 0
        self.reward = 0.0
        self.done = False
        self.shapes = CommandShapes()

    def play(self) -> None:
        """Play until the player leaves or the input ends."""
        with suppress(_Leave):
            self.start()
            if self.begun is not None:
                self._repeat(self.begun)
            while True:
                self.answer(self._read())

    def start(self) -> None:
        """Begin the current task."""
        task = self.order[self.number % len(self.order)]
        begun = begin(self.env, task)
        first = begun.observation
        self.admissible, self.steps, self.reward, self.done = first.admissible, 0, 0.0, False
        self.shapes = begun.shapes
        introduce(self.console, self.env.name, task, begun)
        say(self.console, "? lists commands, then: " + ", ".join(_OWN_WORDS[1:]), "dim")

    def _repeat(self, begun: Recorded) -> None:
        """Do what the recorded episode did, and say so where the environment did not answer as it did then."""
        seen = begun.seen if not begun.actions else ""
        for action in begun.actions:
            say(self.console, foreign(f"> {action}"), "cyan")
            seen = self._act(action)
            if self.done:
                break
        if seen != begun.seen:
            say(self.console, "The environment answered differently than in the recorded episode.", "yellow")

    def answer(self, text: str) -> None:
        """Do what one line of input asks for."""
        own = text.removeprefix("/") if text.startswith("/") or text not in (self.admissible or ()) else ""
        if not text:
            return
        if own == "quit":
            raise _Leave
        if own in ("restart", "next"):
            self.number += own == "next"
            self.start()
        elif own == "?" or own == "hint":
            self._help(own)
        elif self.done:
            say(self.console, "The episode is over: restart, next or quit.")
        elif (action := self._action(text)) is not None:
            self._act(action)

    def _action(self, text: str) -> str | None:
        if self.admissible is None or offers(self.admissible, text):
            return text
        if not text.isdecimal():
            action = in_brackets(text, self.admissible)
            if action is not None:
                say(self.console, foreign(action), "cyan")
            return action or text
        if 1 <= int(text) <= len(self.admissible):
            action = self.admissible[int(text) - 1]
            if is_template(action):
                say(self.console, foreign(f"Type {action} with words of your own. No turn was used."))
                return None
            say(self.console, foreign(action), "cyan")
            return action
        say(self.console, f"There is no command {text}; ? lists 1 to {len(self.admissible)}. No turn was used.")
        return None

    def _act(self, action: str) -> str:
        """Do it; returns what the environment says."""
        result = take(self.env, action)
        self.steps += 1
        self.reward += result.reward
        self.admissible, self.done = result.admissible, result.done
        say(self.console, foreign(as_lines(result.text, self.shapes)))
        if self.done:
            self._finish(result)
        return result.text

    def _finish(self, result: StepResult) -> None:
        from stapo.documents import number

        won, truncated = result.won, bool(result.info.get("truncated"))
        steps = counted(self.steps, "step")
        lost = f"Not won: {'the step limit ended it' if truncated else 'lost'} after {steps}."
        say(self.console, f"Won in {steps}." if won else lost, "bold green" if won else "bold red")
        if self.reward not in (0.0, 1.0):
            say(self.console, f"Reward {self.reward:g}.")
        score = number(result.info.get("task_score"))
        if math.isfinite(score) and not won:
            say(self.console, f"Score {score:.2f} of 1.")
        shortest = self._shortest()
        if shortest is not None:
            say(self.console, f"The expert's plan from the start has {counted(shortest, 'step')}.")
        say(self.console, "restart, next or quit?", "dim")

    def _shortest(self) -> int | None:
        """Length of the expert's plan; the finished episode is given up for it."""
        env = self.env
        if not isinstance(env, Expert) or isinstance(start(env, self.order[self.number % len(self.order)]), EnvFailure):
            return None
        plan = attempt(env.expert_plan, lambda: "expert_plan()")
        return None if plan is None or isinstance(plan, EnvFailure) else len(plan)

    def _help(self, word: str) -> None:
        if self.done:
            say(self.console, "The episode is over: restart, next or quit.")
        elif word == "hint":
            self._hint()
        elif self.admissible is None:
            say(self.console, "This environment takes free text; it lists no commands.")
        else:
            items = [foreign(f"{n:>3} {command}") for n, command in enumerate(self.admissible, start=1)]
            if self.console.is_terminal:
                self.console.print(Columns(items, column_first=True, padding=(0, 3)))
            else:
                for item in items:
                    say(self.console, item)

    def _hint(self) -> None:
        if not isinstance(self.env, Expert):
            say(self.console, "This environment has no expert.")
            return
        plan = attempt(self.env.expert_plan, lambda: "expert_plan()")
        if isinstance(plan, EnvFailure):
            say(self.console, foreign(f"The expert failed: {plan.error}"), "yellow")
            return
        text = f"The expert would: {plan[0]}" if plan else "The expert sees no way from here."
        say(self.console, foreign(text))

    def _read(self) -> str:
        try:
            # The prompt goes through input(): line editing has to know how wide it is.
            text = input("> " if self.done else f"{self.steps}/{self.env.max_steps}> ").strip()
        except EOFError:
            self.console.print()
            raise _Leave from None
        if not sys.stdin.isatty():
            # Piped answers leave no trace on the screen by themselves.
            say(self.console, foreign(text))
        return text


def in_brackets(text: str, admissible: list[str]) -> str | None:
    """The offered command that a short form means, None where it means none or several.

    Args:
        text: what stands in the brackets ("red" for click[red]), or also the word before them ("search red mug").
        admissible: offered commands.
    """
    wanted = " ".join(text.lower().split())
    meant = [c for c in admissible if not is_template(c) and _inside(c).lower() == wanted]
    verb, _, words = wanted.partition(" ")
    filled = f"{verb}[{words}]"
    if not meant and words and offers(admissible, filled):
        meant = [filled]
    return meant[0] if len(meant) == 1 else None


def _inside(command: str) -> str:
    """What stands between the brackets of a command such as click[red], "" where there are none."""
    verb, bracket, rest = command.partition("[")
    return rest[:-1] if verb and bracket and rest.endswith("]") else ""


def task_order(env: Env, task: str | None, split: str | None, seed: int | None) -> list[str]:
    """Tasks of the split in a drawn order, with `task` in front.

    Raises:
        UnknownNameError: no such task or split.
        ConfigError: the split holds no task.
    """
    if task is not None and task not in env.tasks:
        raise unknown_name("task", task, env.tasks)
    if split is None:
        holding = [s for s in env.splits if task is None or task in env.tasks_of(s)]
        split = holding[0] if holding else None
    order = list(env.tasks_of(split) if split is not None else env.tasks)
    random.Random(seed).shuffle(order)
    if task is not None:
        order = [task, *(other for other in order if other != task)]
    if not order:
        raise ConfigError(f"environment '{env.name}' has no task to play" + (f" in split '{split}'." if split else "."))
    return order


@dataclass(frozen=True, kw_only=True)
class Play(Command):
    """Play a task yourself, as the agent has to: you see what it sees, and type its response.

    Attributes:
        env: environment to play (default: alfworld, or that of the run); 'stapo envs' lists them.
        task: id of the task to play; otherwise one is drawn.
        split: split to draw from (default: the first).
        seed: draw the same tasks every time; 0 or more.
        agent: watch a policy play instead: a run folder, one of its checkpoints, or a pretrained model by its name or
            folder, such as smollm2-135m. Enter shows the next step.
        settings: preset or file with the prompts of a pretrained model; a run has its own. The default is a preset for
            small pretrained models.
        from_: begin inside a recorded episode of this run: its environment, its task, and the actions before --at.
        at: the step to begin at, as iteration/group/member/step; 'stapo view' prints it for every step.
        temperature: temperature of the agent's sampling; 0 or more, 0 is greedy (default: 1).
    """

    EXAMPLES = """
stapo play
stapo play webshop --seed 3
stapo play --agent smollm2-135m
stapo play --agent runs/quickstart --split heldout --temperature 0
stapo play --from runs/quickstart --at 1/0/3/4
"""

    NOTES = """
while playing:
  ?         list what the environment understands now; the number of a command plays it
  WORDS     the command that has them in brackets: red for click[red], search mug for search[mug]
  hint      what the expert would do, if the environment has one
  restart   the same task from the start
  next      another task
  quit      leave (so does the end of the input)
A word that the environment itself understands goes to it; '/hint' and so on always work.
"""
    PASSES = ("env.",)

    env: Positional[str | None] = arg("ENV", None)
    task: str | None = arg("ID", None, needs="a task id")
    split: str | None = arg("NAME", None, needs="the name of a split")
    seed: int | None = arg("N", None, least=0, expects="a whole number of at least 0")
    agent: str | None = arg("WHO", None, needs="a run folder, or the name or folder of a model")
    settings: str | None = arg("PRESET", None, needs="a preset or a YAML file")
    from_: Annotated[str | None, tyro.conf.arg(name="from")] = arg("RUN", None, needs="a run folder")
    at: str | None = arg("PLACE", None, needs="a place: iteration/group/member/step")
    temperature: float | None = arg("T", None, needs="a number", least=0, expects="a number of 0 (greedy) or more")

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code."""
        if self.agent is not None:
            return self._watch(settings)
        for name in ("settings", "temperature"):
            if getattr(self, name) is not None:
                raise ConfigError(f"--{name} is for --agent WHO, which is not given.")
        if self.from_ is not None or self.at is not None:
            return self._from(self.from_)
        name = self.env or EnvConfig().name
        env = make(name, **own_env_options(settings, name, "play")[0])
        try:
            order = asked(lambda: task_order(env, self.task, self.split, self.seed), "listing its tasks")
            with suppress(ImportError):  # arrow keys and history at the prompt, where Python was built with them
                import readline  # noqa: F401
            Game(env, order, Console()).play()
        finally:
            env.close()
        return 0

    def _from(self, run: str | None) -> int:
        """Play from a step of a recorded episode."""
        given = [name for name in ("env", "task", "split", "seed") if getattr(self, name) is not None]
        if run is None or given:
            found = f"--at is for --from RUN{'' if run is None else f', which brings its own {given[0]}'}"
            raise ConfigError(f"{found}. Example: stapo play --from runs/quickstart --at 1/0/3/4.")
        begun = recorded(run, self.at)
        try:
            Game(begun.env, task_order(begun.env, begun.task, None, 0), Console(), begun).play()
        finally:
            begun.env.close()
        return 0

    def _watch(self, settings: list[str]) -> int:
        """Let a policy play."""
        from stapo.training.callbacks import Callbacks
        from stapo.training.factories import env_factory

        target = target_of(self.agent or "", self.env, settings, self.settings)
        target.check()
        env = env_factory(target.config)()
        try:
            order = task_order(env, self.task, self.split or target.config.eval.split, self.seed)
            temperature = 1.0 if self.temperature is None else self.temperature
            collector = target.collector(Callbacks([]))
            try:
                Watched(env, collector, temperature, self.seed or 0, Console()).play(order)
            finally:
                collector.close()
                target.close()
        finally:
            env.close()
        return 0


COMMAND = Play
