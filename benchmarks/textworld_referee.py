"""Plays games side by side in TextWorld and natively, and reports where they differ.

    python benchmarks/textworld_referee.py [--scenes small] [--games 5] [--steps 50]

The rules and the wording come from the installed `alfworld` package, so this is a check against the
original engine and not against a copy of it. Needs ``pip install '.[alfworld]'`` (Python 3.11
or 3.12 and a C++ compiler); about one second per game and 50 ms per step.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from importlib.resources import files
from typing import Any, NamedTuple

from stapo.envs.alfworld.engine import State
from stapo.envs.alfworld.game import Game
from stapo.envs.alfworld.generator import GeneratedGames
from stapo.envs.alfworld.goals import compile_goal
from stapo.envs.alfworld.text import grammar_named
from stapo.envs.alfworld.world import compile_world
from stapo.errors import ConfigError

_TO_PUT = (
    ("You arrive at {r.name}.", "You arrive at {lend.name}."),
    ("You move the {o.name} to the {r.name}.", "You put the {o.name} in/on the {r.name}."),
    ('"move {o} to {r}"', '"put {o} in/on {r}"'),
)
"""What the grammar of json_2.1.1 says differently, besides having no ``help``."""

_MALFORMED = (
    *("", "examine", "go to", "take", "xyzzy", "Look", "GO TO fridge 1", "look around", "help me"),
    *("take mug 99 from desk 1", "put", "go to moon 1", "inventory ", " look", "open  drawer 1"),
    *("use desklamp 9", "examine mug 1", "close", "slice", "heat mug 1 with fridge 1", "\tlook\n"),
)
# Rare commands are picked more often than their number in the list would give them.
_WEIGHTS = {"go": 1, "examine": 2, "look": 8, "inventory": 2, "help": 1, "open": 6, "close": 2}


class EngineOutput(NamedTuple):
    """What an engine shows after one action."""

    observation: str
    admissible: list[str]
    won: bool


class Mismatch(NamedTuple):
    """One difference between the engines.

    Attributes:
        step: number of the action that led to it; 0 is the start of the game.
        action: that action ("" at the start).
        field: observation, admissible or won.
        original: what TextWorld shows.
        native: what this package shows.
    """

    step: int
    action: str
    field: str
    original: object
    native: object


class Original:
    """TextWorld playing one game at a time; make one and reuse it, for each leaks some memory.

    Raises:
        ConfigError: TextWorld or alfworld is not installed.
    """

    def __init__(self, grammar: str = "move") -> None:
        self._grammar = grammar_named(grammar)
        try:
            textworld = import_module("textworld")
            pddl = import_module("textworld.envs.pddl")
            wrappers = import_module("alfworld.agents.environment.alfred_tw_env")
        except ImportError as err:
            raise ConfigError(
                f"the referee needs TextWorld and alfworld ({err}). Install them with "
                "pip install '.[alfworld]' in a clone of the repository, on Python 3.11 or 3.12."
            ) from err
        wanted = textworld.EnvInfos(won=True, admissible_commands=True)
        self._env = wrappers.AlfredDemangler(pddl.PddlEnv(wanted))
        data = files("alfworld") / "data"
        self._domain = (data / "alfred.pddl").read_text()
        self._rules = (data / "alfred.twl2").read_text()
        if not self._grammar.has_help:
            self._domain = self._domain.replace("(:action help", "(:action nohelp")
            self._rules = self._rules.replace("action help", "action nohelp")
            self._rules = self._rules.replace('"help"', '"nohelp"')
            for now, before in _TO_PUT:
                self._rules = self._rules.replace(now, before)

    def start(self, game: Game) -> EngineOutput:
        """Load and reset a game."""
        task = game.goal.removesuffix(".")
        self._env.load(
            {
                "pddl_domain": self._domain,
                "grammar": self._rules.replace("UNKNOWN GOAL", task),
                "pddl_problem": game.pddl_problem,
            }
        )
        return self._seen(self._env.reset())

    def step(self, action: str) -> EngineOutput:
        """Take one action."""
        state, _, _ = self._env.step(action)
        return self._seen(state)

    def _seen(self, state: Any) -> EngineOutput:
        commands = [c for c in state["admissible_commands"] if c != "nohelp"]
        return EngineOutput(state.feedback, commands, bool(state["won"]))


class Native:
    """The native engine behind the same two calls."""

    def __init__(self, grammar: str = "move") -> None:
        self._grammar = grammar_named(grammar)

    def start(self, game: Game) -> EngineOutput:
        """Compile and reset a game."""
        world = compile_world(game)
        self._goal = compile_goal(world)
        self._state = State(world, self._grammar)
        return self._seen(self._state.intro(game.goal))

    def step(self, action: str) -> EngineOutput:
        """Take one action."""
        return self._seen(self._state.step(action)[0])

    def _seen(self, observation: str) -> EngineOutput:
        return EngineOutput(observation, self._state.admissible(), self._goal.holds(self._state))


def compare(
    game: Game,
    actions: Iterable[str],
    *,
    grammar: str = "move",
    original: Original | None = None,
) -> list[Mismatch]:
    """Play the same actions in both engines.

    Args:
        game: any game, recorded or generated.
        actions: commands, admissible or not; playing goes on after the goal is reached.
        grammar: "move" or "put".
        original: an engine to reuse; a new one is made otherwise.

    Returns:
        Every difference, in order; empty if the engines agree.

    Raises:
        ConfigError: TextWorld or alfworld is not installed.
    """
    engines = (original or Original(grammar), Native(grammar))
    first, second = (engine.start(game) for engine in engines)
    found = list(_differences(0, "", first, second))
    for number, action in enumerate(actions, 1):
        first, second = (engine.step(action) for engine in engines)
        found += _differences(number, action, first, second)
    return found


def _differences(step: int, action: str, original: EngineOutput, native: EngineOutput) -> Iterator[Mismatch]:
    for field, theirs, ours in zip(EngineOutput._fields, original, native, strict=True):
        if theirs != ours:
            yield Mismatch(step, action, field, theirs, ours)


def random_actions(
    game: Game, *, steps: int, seed: int, grammar: str = "move", malformed: float = 0.08
) -> Sequence[str]:
    """A walk that favors rare commands and mixes in malformed ones.

    Args:
        game: the game to walk in, natively.
        steps: number of actions.
        seed: the same seed gives the same walk.
        grammar: "move" or "put".
        malformed: share of actions that are not commands.
    """
    rng = random.Random(seed)
    state = State(compile_world(game), grammar_named(grammar))
    actions: list[str] = []
    for _ in range(steps):
        offered = state.admissible()
        weights = [_WEIGHTS.get(command.partition(" ")[0], 12) for command in offered]
        (action,) = rng.choices(offered, weights)
        if rng.random() < malformed:
            action = rng.choice(_MALFORMED)
        state.step(action)
        actions.append(action)
    return actions


def main() -> int:
    """Play random walks through generated games in both engines and print every difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", default="small", help="size of the generated games")
    parser.add_argument("--games", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50, help="actions in each game")
    options = parser.parse_args()
    source = GeneratedGames(scenes=options.scenes)
    try:
        original = Original()
    except ConfigError as err:
        sys.exit(f"error: {err}")
    differences = 0
    for seed, name in enumerate(source.ids("heldout")[: options.games]):
        game = source.load(name)
        for found in compare(game, random_actions(game, steps=options.steps, seed=seed), original=original):
            differences += 1
            print(f"{name}, step {found.step}, '{found.action}', {found.field}: {found.original!r} | {found.native!r}")
    print(f"{differences} differences")
    return int(differences > 0)


if __name__ == "__main__":
    sys.exit(main())
