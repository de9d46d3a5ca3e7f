"""The list of environments and the one way to build one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from stapo.documents import shown
from stapo.envs.protocol import Env
from stapo.errors import ConfigError, did_you_mean
from stapo.registry import Registry

_EXPECTED = ("name", "max_steps", "tasks", "splits", "tasks_of", "task_type", "reset", "step", "close")


def _no_class(obj: object, name: str) -> str | None:
    return None if isinstance(obj, type) else f"{shown(obj)} and no class; expected a class that follows stapo.Env"


ENVIRONMENTS: Registry[type[Env]] = Registry("environment", "stapo.environments", _no_class)


def make(name: str, **options: Any) -> Env:
    """Build the environment called `name`.

    Args:
        name: a registered environment; `stapo envs` lists them.
        options: keyword arguments of that environment.

    Raises:
        UnknownNameError: no environment has this name.
        ConfigError: an option that the environment does not know or lacks, or a class that is not an environment.
    """
    check_options(name, options)
    cls = ENVIRONMENTS.get(name)
    env = cls(**options)
    lacking = [part for part in _EXPECTED if not hasattr(env, part)]
    if lacking:
        raise ConfigError(
            f"environment '{name}' ({cls.__module__}:{cls.__qualname__}) has no {', '.join(lacking)}, so it is not an "
            "environment; stapo.check_env says what is expected."
        )
    return env


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Check the options of an environment by their names; nothing is built.

    Raises:
        UnknownNameError, ConfigError: as `make` does.
    """
    cls = ENVIRONMENTS.get(name)
    try:
        signature = inspect.signature(cls)
    except (TypeError, ValueError) as err:
        raise ConfigError(f"environment '{name}' does not say which options it takes: {err}.") from err
    parameters = signature.parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for option in options:
            if option not in parameters:
                raise ConfigError(
                    f"environment '{name}' has no option '{option}'.{did_you_mean(option, parameters)} "
                    f"Options: {', '.join(sorted(parameters))}."
                )
    needed = [
        n for n, p in parameters.items() if p.default is p.empty and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    lacking = [option for option in needed if option not in options]
    if lacking:
        raise ConfigError(f"environment '{name}' needs the option {', '.join(lacking)}; give it as --env.OPTION VALUE.")
