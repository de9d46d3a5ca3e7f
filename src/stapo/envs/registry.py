"""The list of environments and the one way to build one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from stapo.documents import shown
from stapo.envs.option_kinds import options_of, wrong_kind
from stapo.envs.protocol import Env
from stapo.errors import ConfigError, EnvBuildError, StapoError, did_you_mean
from stapo.registry import Registry

_EXPECTED = ("name", "max_steps", "tasks", "splits", "tasks_of", "task_type", "reset", "step", "close")


def _no_class(obj: object, name: str) -> str | None:
    return None if isinstance(obj, type) else f"{shown(obj)}, not a class; expected a class that follows stapo.Env"


ENVIRONMENTS: Registry[type[Env]] = Registry("environment", "stapo.environments", _no_class)


def make(name: str, **options: Any) -> Env:
    """Build the environment called `name`.

    Args:
        name: a registered environment; `stapo envs` lists them.
        options: keyword arguments of that environment.

    Raises:
        UnknownNameError: no environment has this name.
        ConfigError: an option that the environment does not know, lacks or cannot use, or a class that is not an
            environment.
        EnvBuildError: the class comes from another package and failed.
    """
    _check_names(name, options)
    cls = ENVIRONMENTS.get(name)
    env = _built(name, cls, options)
    lacking = [part for part in _EXPECTED if not _has(env, part)]
    if lacking:
        raise ConfigError(
            f"environment '{name}' ({cls.__module__}:{cls.__qualname__}) has no {', '.join(lacking)}, so it is not an "
            "environment; stapo.check_env says what is expected."
        )
    return env


def _built(name: str, cls: type[Env], options: Mapping[str, Any]) -> Env:
    """An environment, whose own words on an option that it cannot use come first."""
    own = name in ENVIRONMENTS.own_names()
    try:
        env = cls(**options)
    except StapoError:
        raise
    except Exception as err:
        if wrong := wrong_kind(cls, options):
            raise ConfigError(wrong) from err
        if own:
            raise
        raise EnvBuildError(f"environment '{name}' cannot be built: {type(err).__name__}: {err}") from err
    # What others accept besides what they name is their affair.
    if own and (wrong := wrong_kind(cls, options)):
        env.close()
        raise ConfigError(wrong)
    return env


def _has(env: object, part: str) -> bool:
    try:
        return hasattr(env, part)
    except Exception:  # it is there, and whoever needs it will see it fail
        return True


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Check the options of an environment by their names and types; nothing is built.

    Raises:
        UnknownNameError, ConfigError: as `make` does.
    """
    _check_names(name, options)
    if name in ENVIRONMENTS.own_names() and (wrong := wrong_kind(ENVIRONMENTS.get(name), options)):
        raise ConfigError(wrong)


def option_parameters(name: str) -> dict[str, inspect.Parameter]:
    """Options of an environment, from the signature of its class.

    Raises:
        UnknownNameError: no environment has this name.
        ConfigError: its class does not say which options it takes.
    """
    try:
        return options_of(ENVIRONMENTS.get(name))
    except (TypeError, ValueError) as err:
        raise ConfigError(f"environment '{name}' does not say which options it takes: {err}.") from err


def _check_names(name: str, options: Mapping[str, Any]) -> None:
    parameters = option_parameters(name)
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
