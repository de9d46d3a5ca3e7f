"""The ALFWorld environment: games from a source, played natively, under the public protocol."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from stapo.checks import check_integer, check_number
from stapo.envs.alfworld.demonstrator import Demonstrator
from stapo.envs.alfworld.engine import State
from stapo.envs.alfworld.expert import shortest_plan
from stapo.envs.alfworld.goals import Goal
from stapo.envs.alfworld.judge import PlanJudge
from stapo.envs.alfworld.sources import (
    Playable,
    chosen_types,
    notes_on,
    open_source,
    ordered_splits,
    playable,
    types_named,
)
from stapo.envs.alfworld.text import NOTHING_HAPPENS, grammar_named
from stapo.envs.protocol import CommandShapes, Observation, StepResult, begun, going_on
from stapo.errors import ConfigError, GameFileError, unknown_name
from stapo.progress import note


class AlfworldEnv:
    """Household tasks in text, one episode at a time.

    Args:
        games: None plays generated games; a path plays recorded ones (see
            `stapo.envs.alfworld.sources.open_source`).
        grammar: "move", the wording of alfworld 0.4 and later, or "put", the wording of the
            json_2.1.1 games.
        max_steps: actions after which an episode ends.
        scenes: which rooms the generator uses.
        games_per_type: generated games per family and split.
        task_types: families to play, by name or by number (1 to 6, as in the original's configuration); None for all.
        demonstrator_memory: how many places the demonstrator remembers to have looked into; None for all. With few it
            shows every task, and searches like one who forgets where they have been.
        demonstrator_habit: from 0 to below 1; above 0 the demonstrator looks first, and again, into the same few
            places. See `stapo.envs.alfworld.demonstrator.Demonstrator`.
        demonstrator_forgets: from 0 to 1; share of its choices of a place at which the demonstrator has forgotten where
            it looked, says so in its thought, hesitates, and goes back to a place that it has searched.

    Raises:
        ConfigError: an option that cannot be used.
        GameFileError: games that cannot be read.
    """

    name = "alfworld"
    default_presets: Mapping[str, str] = {"scratch": "tiny", "pretrained": "smollm2/alfworld-tiny"}
    chat_settings: Mapping[str, Any] = {
        "prompt": "standard", "response": "think_action", "fallback_characters": 30,
        "max_prompt_tokens": 2048, "max_response_tokens": 512,
    }  # fmt: skip
    command_shapes = CommandShapes(grouped=("go to ",), distant=("go to ",), place="in a text world")

    def __init__(
        self,
        games: str | os.PathLike[str] | None = None,
        grammar: str = "move",
        max_steps: int = 50,
        scenes: str = "small",
        games_per_type: int = 200,
        task_types: str | int | Sequence[str | int] | None = None,
        demonstrator_memory: int | None = None,
        demonstrator_habit: float = 0.0,
        demonstrator_forgets: float = 0.0,
    ) -> None:
        self.max_steps = check_integer("max_steps", max_steps, 1)
        if demonstrator_memory is not None:
            check_integer("demonstrator_memory", demonstrator_memory, 0)
        check_number("demonstrator_habit", demonstrator_habit, 0, 1, open_high=True)
        check_number("demonstrator_forgets", demonstrator_forgets, 0, 1)
        if demonstrator_habit and demonstrator_forgets:
            raise ConfigError("demonstrator_habit and demonstrator_forgets are both above 0; expected one of them.")
        self._demonstrator = demonstrator_memory, float(demonstrator_habit), float(demonstrator_forgets)
        self._grammar = grammar_named(grammar)
        self._source = open_source(games, scenes=scenes, games_per_type=games_per_type)
        if task_types is not None:
            self._source = chosen_types(self._source, types_named(task_types))
        self._splits = ordered_splits(self._source.splits())
        for text in self.notes:
            note(text)
        self._game: Playable | None = None
        self._state: State | None = None
        self._remaining: dict[str, int | None] = {}
        self._steps = 0
        self._done = False
        self._won = False

    @cached_property
    def tasks(self) -> Sequence[str]:
        """All task ids, sorted."""
        return sorted(i for split in self._splits for i in self._source.ids(split))

    @property
    def splits(self) -> Sequence[str]:
        """Names of the splits that hold at least one task, train first."""
        return tuple(self._splits)

    def tasks_of(self, split: str) -> Sequence[str]:
        """Sorted task ids of one split."""
        if split not in self._splits:
            raise unknown_name("split", split, self._splits)
        return self._source.ids(split)

    @property
    def notes(self) -> list[str]:
        """What is odd about the games: those that several splits have in common, folders that were left out."""
        return notes_on(self._source)

    def task_type(self, task_id: str) -> str:
        """The family of a task, one of six."""
        return self._source.task_type(task_id)

    def reset(self, task_id: str) -> Observation:
        """Start the episode of a task.

        Raises:
            UnknownNameError: no such task.
            GameFileError: the game cannot be played; the message says why.
        """
        game = playable(self._source, task_id)
        if game is not self._game:
            self._remaining = {}
        self._game = game
        self._state = state = State(game.compiled, self._grammar)
        self._steps, self._done, self._won = 0, False, False
        return Observation(
            text=state.intro(game.goal_text),
            goal=game.goal_text,
            admissible=state.admissible(),
            blind_text=state.blind_intro(),
        )

    def step(self, action: str) -> StepResult:
        """Take one action; text that fits no command is answered with "Nothing happens."."""
        game, state = going_on(self._game, self._done), self.state
        text, effect = state.step(action) if isinstance(action, str) else (NOTHING_HAPPENS, False)
        if effect:
            self._won = game.goal.holds(state)
        self._steps += 1
        truncated = not self._won and self._steps >= self.max_steps
        self._done = self._won or truncated
        return StepResult(
            text=text,
            admissible=state.admissible(),
            reward=1.0 if self._won else 0.0,
            done=self._done,
            won=self._won,
            info={"truncated": truncated, "effect": effect},
        )

    def close(self) -> None:
        """End the episode; the environment can be reset again."""
        self._game = self._state = None

    # -- beyond the protocol ---------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The symbolic state of the current episode, live. Raises EnvError before reset."""
        return begun(self._state, "state")

    @property
    def goal(self) -> Goal:
        """The compiled goal of the current episode. Raises EnvError before reset."""
        return begun(self._game, "goal").goal

    def state_key(self) -> str:
        """A digest of the symbolic state, equal exactly for equal states of one game."""
        return self.state.key()

    def fork(self) -> AlfworldEnv:
        """An independent environment in the same position; costs microseconds."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        if self._state is not None:
            twin._state = self._state.fork()
        return twin

    def expert_plan(self) -> list[str] | None:
        """A shortest list of commands from here to the goal.

        Returns:
            The commands, empty when the goal is reached already; None from a dead end, as when the
            hand holds something that fits nowhere.

        Raises:
            EnvError: before reset.
        """
        return shortest_plan(self.state, self.goal)

    def remaining(self) -> int | None:
        """Commands that a shortest way from here to the goal takes; None from a dead end.

        Found once per state of a game, however many episodes come through it.

        Raises:
            EnvError: before reset.
        """
        key = self.state_key()
        if key not in self._remaining:
            plan = self.expert_plan()
            self._remaining[key] = None if plan is None else len(plan)
        return self._remaining[key]

    def judge(self) -> PlanJudge:
        """A judge of the episode just reset; see `stapo.envs.alfworld.judge`. Raises EnvError before reset."""
        return PlanJudge(self.state, self.remaining)

    def demonstrator(self, rng: random.Random) -> Demonstrator:
        """A player for the episode just reset that looks for what it has not seen, then goes the shortest way."""
        return Demonstrator(self.state, self.goal, rng, *self._demonstrator)

    def validate(self, split: str | None = None) -> dict[str, str]:
        """Try every game: compile it and look for a plan; about 2 ms each.

        Args:
            split: one split, or None for all.

        Returns:
            Task id -> why it cannot be played or won; empty if all is well.

        Raises:
            UnknownNameError: no such split.
        """
        problems: dict[str, str] = {}
        for task in self.tasks if split is None else self.tasks_of(split):
            try:
                game = playable(self._source, task)
            except GameFileError as err:
                problems[task] = str(err)
                continue
            if shortest_plan(State(game.compiled, self._grammar), game.goal) is None:
                problems[task] = "no sequence of actions reaches the goal"
        return problems
