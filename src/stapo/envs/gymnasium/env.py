"""Any environment of Gymnasium that speaks text, under our protocol.

What is seen is the observation where it is a text, a field of it, or the "ansi" rendering of environments whose
observations are numbers. Actions are texts, or the names of a finite number of actions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from stapo.checks import check_choice, check_text
from stapo.documents import shown
from stapo.envs.foreign import ForeignEnv, ForeignObservation, texts_of
from stapo.errors import ConfigError, EnvError
from stapo.extras import need
from stapo.texts import counted

_COLORED = re.compile(r"\x1b\[[0-9;]*m(.*?)\x1b\[0?m", re.DOTALL)
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_MOST_ACTIONS = 10_000
_OF_A_STEP = ("observation", "reward", "terminated", "truncated", "info")


class GymnasiumEnv(ForeignEnv):
    """Environments of Gymnasium that speak text, one episode at a time.

    Args:
        id: name that Gymnasium knows, such as FrozenLake-v1, or module:Name-v0, whose module is imported first.
        kwargs: its own options, as a mapping.
        goal: task sentence where its info has no goal.
        text_field: field of its observation that is the text; None where the observation is a text itself, or is
            rendered ("ansi").
        actions: names of its actions, in its order, where it has a finite number of them; a list, or one text with
            commas. None numbers them.
        tasks: tasks of the split train; their seeds are 0, 1, 2 and so on.
        heldout: tasks of the split heldout; their seeds begin at 1,000,000,000.
        max_steps: actions after which an episode ends.

    Raises:
        ConfigError: Gymnasium is not installed, knows no such environment, or it does not speak text.
    """

    name = "gymnasium"

    def __init__(
        self,
        id: str,
        kwargs: Mapping[str, Any] | None = None,
        goal: str = "Get as much reward as possible.",
        text_field: str | None = None,
        actions: str | Sequence[str] | None = None,
        tasks: int = 1_000,
        heldout: int = 100,
        max_steps: int = 100,
    ) -> None:
        name = check_text("id", id, "the name of an environment of Gymnasium, such as FrozenLake-v1")
        super().__init__(name, goal, tasks, heldout, max_steps)
        if kwargs is not None and (not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs)):
            raise ConfigError(
                f"kwargs is {shown(kwargs)}, expected a mapping of options of {name}: --env.kwargs.NAME VALUE, or a "
                "mapping in a file."
            )
        self._text_field = text_field
        self._env, self._renders = _made(id, dict(kwargs or {}), text_field)
        self._names = _names_of(self._env, actions)

    def _begin(self, seed: int) -> ForeignObservation:
        observation, info = self._parts("reset", self._env.reset(seed=seed), ("observation", "info"))
        return self._seen(observation, info)

    def _act(self, action: str) -> ForeignObservation:
        space = self._env.action_space
        if self._names:
            number = self._names.get(action.strip().casefold())
            played: Any = None if number is None else int(space.start) + number
        else:
            played = action if space.contains(action) else None
        if played is None:
            return ForeignObservation(self._last, self._offered, effect=False)
        parts = self._parts("step", self._env.step(played), _OF_A_STEP)
        observation, reward, terminated, truncated, info = parts
        return self._seen(observation, info, float(reward), bool(terminated), bool(truncated))

    def close(self) -> None:
        """Free what the environment holds."""
        self._env.close()
        self._goal = None

    def _parts(self, method: str, returned: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
        if not isinstance(returned, tuple) or len(returned) != len(names):
            raise EnvError(f"{self._source}: {method}() returned {shown(returned)}, expected ({', '.join(names)}).")
        return returned

    def _seen(
        self, observation: Any, info: Any, reward: float = 0.0, terminated: bool = False, truncated: bool = False
    ) -> ForeignObservation:
        found = self._env.render() if self._renders else observation
        if self._text_field is not None:
            found = observation.get(self._text_field) if isinstance(observation, Mapping) else observation
        if not isinstance(found, str):
            what = "rendered" if self._renders else "returned"
            raise EnvError(f"{self._source} {what} {shown(found)}, expected a text.")
        self._last = plain(found) if self._renders else found
        facts: Mapping[str, Any] = info if isinstance(info, Mapping) else {}
        offered = texts_of(facts.get("admissible_commands"))
        self._offered = list(self._names) if offered is None and self._names else offered
        won, goal = facts.get("won"), facts.get("goal")
        return ForeignObservation(
            self._last,
            self._offered,
            goal if isinstance(goal, str) and goal.strip() else None,
            reward,
            terminated or truncated,
            truncated and not terminated,
            won if isinstance(won, bool) else None,
        )


def _made(id: str, kwargs: dict[str, Any], text_field: str | None) -> tuple[Any, bool]:
    """The environment, which speaks text, and whether the text is its rendering."""
    gymnasium = need("gymnasium", "gymnasium", "gymnasium", "the environment 'gymnasium'")
    renders = False
    try:
        env = gymnasium.make(id, **kwargs)
        space = env.observation_space
        if text_field is not None:
            if not isinstance(space, gymnasium.spaces.Dict):
                raise ConfigError(f"text_field is '{text_field}', but the observations of {id} are {shown(space)}.")
            check_choice("text_field", text_field, space)
            if not isinstance(space[text_field], gymnasium.spaces.Text):
                raise ConfigError(f"text_field '{text_field}' of {id} is {shown(space[text_field])}, expected a text.")
        elif not isinstance(space, gymnasium.spaces.Text):
            env.close()
            if "ansi" in env.metadata.get("render_modes", ()):
                env, renders = gymnasium.make(id, **{**kwargs, "render_mode": "ansi"}), True
            else:
                raise ConfigError(
                    f"the observations of {id} are {shown(space)}, and it cannot render text; expected texts, a "
                    "text_field of a dictionary, or the render mode 'ansi'."
                )
    except ConfigError:
        raise
    except Exception as err:
        raise ConfigError(f"Gymnasium cannot make '{id}': {type(err).__name__}: {err}") from err
    if not isinstance(env.action_space, gymnasium.spaces.Text | gymnasium.spaces.Discrete):
        raise ConfigError(
            f"the actions of {id} are {shown(env.action_space)}; expected texts, or a finite number of them (Discrete)."
        )
    return env, renders


def _names_of(env: Any, actions: str | Sequence[str] | None) -> dict[str, int]:
    """Name of an action in lower case -> its number; empty where actions are texts."""
    count = getattr(env.action_space, "n", None)
    if count is None:
        if actions is not None:
            raise ConfigError("actions are given, but this environment takes any text; leave them out.")
        return {}
    if actions is None:
        names = [str(number) for number in range(min(int(count), _MOST_ACTIONS))]
    elif isinstance(actions, str | list | tuple):
        names = [part.strip() for part in (actions.split(",") if isinstance(actions, str) else map(str, actions))]
    else:
        raise ConfigError(f"actions is {shown(actions)}, expected their names: a list, or one text with commas.")
    if len({name.casefold() for name in names}) != int(count):
        raise ConfigError(
            f"actions has {counted(len(names), 'name')}, expected {int(count)} different ones: {', '.join(names)}."
        )
    return {name.casefold(): number for number, name in enumerate(names)}


def plain(rendered: object) -> str:
    """A rendering without the codes of terminals: what has a color stands in brackets."""
    return _ESCAPE.sub("", _COLORED.sub(r"[\1]", str(rendered))).strip("\n")
