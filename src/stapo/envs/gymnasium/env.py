"""Any environment of Gymnasium that speaks text, under our protocol.

What is seen is the observation where it is a text, a field of it, or the "ansi" rendering of environments whose
observations are numbers. Actions are texts, or the names of a finite number of actions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from stapo.documents import shown
from stapo.envs.foreign import ForeignEnv, Seen, texts_of
from stapo.envs.options import one_of
from stapo.errors import ConfigError
from stapo.extras import need
from stapo.texts import counted

_COLORED = re.compile(r"\x1b\[[0-9;]*m(.*?)\x1b\[0?m", re.DOTALL)
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_MOST_ACTIONS = 10_000


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
        super().__init__(str(id), goal, tasks, heldout, max_steps)
        self._text_field = text_field
        self._env = _made(id, dict(kwargs or {}), text_field)
        self._names = _names_of(self._env, actions)

    def _begin(self, seed: int) -> Seen:
        observation, info = self._env.reset(seed=seed)
        return self._seen(observation, info)

    def _act(self, action: str) -> Seen:
        space = self._env.action_space
        if self._names:
            number = self._names.get(action.strip().casefold())
            played: Any = None if number is None else int(space.start) + number
        else:
            played = action if space.contains(action) else None
        if played is None:
            return Seen(self._last, self._offered, effect=False)
        observation, reward, terminated, truncated, info = self._env.step(played)
        return self._seen(observation, info, float(reward), bool(terminated), bool(truncated))

    def close(self) -> None:
        """Free what the environment holds."""
        self._env.close()
        self._goal = None

    def _seen(
        self, observation: Any, info: Any, reward: float = 0.0, terminated: bool = False, truncated: bool = False
    ) -> Seen:
        found = observation if self._text_field is None else observation[self._text_field]
        self._last = found if isinstance(found, str) else plain(self._env.render())
        facts: Mapping[str, Any] = info if isinstance(info, Mapping) else {}
        offered = texts_of(facts.get("admissible_commands"))
        self._offered = list(self._names) if offered is None and self._names else offered
        won, goal = facts.get("won"), facts.get("goal")
        return Seen(
            self._last,
            self._offered,
            goal if isinstance(goal, str) and goal.strip() else None,
            reward,
            terminated or truncated,
            truncated and not terminated,
            won if isinstance(won, bool) else None,
        )


def _made(id: str, kwargs: dict[str, Any], text_field: str | None) -> Any:
    """The environment, which speaks text."""
    gymnasium = need("gymnasium", "gymnasium", "gymnasium", "the environment 'gymnasium'")
    if not isinstance(id, str) or not id:
        raise ConfigError(f"id is {id!r}, expected the name of an environment of Gymnasium, such as FrozenLake-v1.")
    try:
        env = gymnasium.make(id, **kwargs)
        space = env.observation_space
        if text_field is not None:
            if not isinstance(space, gymnasium.spaces.Dict):
                raise ConfigError(f"text_field is '{text_field}', but the observations of {id} are {shown(space)}.")
            one_of("text_field", text_field, space)
        elif not isinstance(space, gymnasium.spaces.Text):
            env.close()
            if "ansi" in env.metadata.get("render_modes", ()):
                env = gymnasium.make(id, **{**kwargs, "render_mode": "ansi"})
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
    return env


def _names_of(env: Any, actions: str | Sequence[str] | None) -> dict[str, int]:
    """Name of an action in lower case -> its number; empty where actions are texts."""
    count = getattr(env.action_space, "n", None)
    if count is None:
        if actions is not None:
            raise ConfigError("actions are given, but this environment takes any text; leave them out.")
        return {}
    if actions is None:
        names = [str(number) for number in range(min(int(count), _MOST_ACTIONS))]
    else:
        names = [part.strip() for part in (actions.split(",") if isinstance(actions, str) else map(str, actions))]
    if len({name.casefold() for name in names}) != int(count):
        raise ConfigError(
            f"actions has {counted(len(names), 'name')}, expected {int(count)} different ones: {', '.join(names)}."
        )
    return {name.casefold(): number for number, name in enumerate(names)}


def plain(rendered: object) -> str:
    """A rendering without the codes of terminals: what has a color stands in brackets."""
    return _ESCAPE.sub("", _COLORED.sub(r"[\1]", str(rendered))).strip("\n")
