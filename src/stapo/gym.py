"""Our environments as environments of Gymnasium: text in, text out.

`make` builds one; ``gymnasium.make("stapo.gym:stapo/alfworld-v0", ...)`` does the same, since importing this module
registers every environment that is known by name. It needs the package gymnasium (extra `gymnasium`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stapo.envs.protocol import Env, Observation, StepResult, tasks_in
from stapo.envs.registry import ENVIRONMENTS
from stapo.envs.registry import make as make_env
from stapo.errors import ConfigError, unknown_name
from stapo.extras import need

gymnasium = need("gymnasium", "gymnasium", "gymnasium", "stapo.gym")
_Text: Any = gymnasium.spaces.Text
_Env: Any = gymnasium.Env

_MOST_CHARACTERS = 1 << 20


class AnyText(_Text):  # type: ignore[misc]
    """Texts of any characters; what is sampled has letters and digits alone.

    Args:
        max_length: characters at most.
        seed: of the samples.
    """

    def __init__(self, max_length: int = _MOST_CHARACTERS, seed: Any = None) -> None:
        super().__init__(max_length, min_length=0, seed=seed)

    def contains(self, x: Any) -> bool:
        """Whether `x` is a text that is not too long."""
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A random text of at most 32 characters."""
        if mask is None and probability is None:
            mask = (int(self.np_random.integers(0, 33)), None)
        return str(super().sample(mask=mask, probability=probability))

    def __repr__(self) -> str:
        """Gives the length alone."""
        return f"AnyText({self.max_length})"


class TextEnv(_Env):  # type: ignore[misc]
    """An environment of ours under Gymnasium's protocol.

    Observations and actions are texts. ``info`` has ``admissible_commands`` (a list, or None where actions are free
    text), ``goal``, ``task_id``, ``task_type`` and ``won``; after a step also what the environment adds, such as
    ``effect``. `terminated` is an end by the world, `truncated` one by the step limit alone.

    ``reset(seed=n)`` plays the task at place n of the split, counted round and round, so that members of a group who
    reset with the same seed play the same task; ``options={"task_id": ...}`` plays a task by its name; otherwise one is
    drawn.

    Args:
        env: the environment.
        split: split that tasks are taken from; None for its first.
        render_mode: "ansi" makes `render` return what was seen last.

    Raises:
        UnknownNameError: there is no such split.
        ConfigError: another render mode.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, env: Env, split: str | None = None, render_mode: str | None = None) -> None:
        if render_mode not in (None, "ansi"):
            raise ConfigError(f"render_mode is {render_mode!r}, expected 'ansi' or None.")
        self.env = env
        self.tasks = tasks_in(env, split)
        self.render_mode = render_mode
        self.observation_space = AnyText()
        self.action_space = AnyText()
        self._facts: dict[str, Any] = {}
        self._seen = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin an episode; see the class for `seed` and `options`.

        Raises:
            UnknownNameError: there is no such task, or options that are unknown.
            ConfigError: options that are no mapping.
        """
        super().reset(seed=seed)
        if options is not None and not isinstance(options, Mapping):
            raise ConfigError(f"options is {options!r:.80}, expected a mapping such as {{'task_id': ...}}.")
        given = dict(options or {})
        task = given.pop("task_id", None)
        if given:
            raise unknown_name("option of reset", next(iter(given)), ("task_id",))
        if task is None:
            number = self.np_random.integers(len(self.tasks)) if seed is None else seed % len(self.tasks)
            task = self.tasks[int(number)]
        first = self.env.reset(task)
        self._facts = {"goal": first.goal, "task_id": task, "task_type": self.env.task_type(task)}
        return self._shown(first), self._info(first)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one action.

        Raises:
            EnvError: no episode goes on.
        """
        out = self.env.step(action)
        truncated = bool(out.info.get("truncated"))
        return self._shown(out), float(out.reward), out.done and not truncated, truncated, self._info(out)

    def render(self) -> str | None:
        """What was seen last, where `render_mode` is "ansi"."""
        return self._seen if self.render_mode == "ansi" else None

    def close(self) -> None:
        """Free what the environment holds."""
        self.env.close()

    def _shown(self, seen: Observation | StepResult) -> str:
        self._seen = seen.text[:_MOST_CHARACTERS]
        return self._seen

    def _info(self, seen: Observation | StepResult) -> dict[str, Any]:
        own, won = (seen.info, seen.won) if isinstance(seen, StepResult) else ({}, False)
        own = {key: value for key, value in own.items() if key != "truncated"}
        return {**own, **self._facts, "admissible_commands": seen.admissible, "won": won}


def make(name: str, *, split: str | None = None, render_mode: str | None = None, **options: Any) -> TextEnv:
    """Build an environment of ours for Gymnasium.

    Args:
        name: as `stapo envs` lists it.
        split: split that tasks are taken from; None for its first.
        render_mode: "ansi" or None.
        options: of the environment.

    Raises:
        UnknownNameError: no environment or split has this name.
        ConfigError: an option that the environment does not know or that cannot be used.
    """
    return TextEnv(make_env(name, **options), split, render_mode)


def _register() -> None:
    for name in ENVIRONMENTS.names():
        entry = f"stapo/{name}-v0"
        if entry not in gymnasium.registry:
            gymnasium.register(entry, entry_point=make, kwargs={"name": name}, order_enforce=False)


_register()
