"""The list of environments and the one way to build one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import NoneType
from typing import Any, Literal

from stapo.documents import shown
from stapo.envs.protocol import Env, HasDefaultPresets
from stapo.errors import ConfigError, EnvError, StapoError, did_you_mean
from stapo.registry import Registry
from stapo.type_hints import expected, fitting, takes

ModelKind = Literal["scratch", "pretrained"]

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
        EnvError: the class comes from another package and failed.
    """
    try:
        return build(name, options)
    except StapoError:
        raise
    except Exception as err:
        if name in ENVIRONMENTS.own_names():
            raise
        raise EnvError(f"environment '{name}' cannot be built: {type(err).__name__}: {err}") from err


def build(name: str, options: Mapping[str, Any]) -> Env:
    """Build the environment called `name`, as `make` does; what a class of another package raises is left as it is.

    Pools use it: they report the exception itself, as workers do.
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
    try:
        env = cls(**options)
    except StapoError:
        raise
    except Exception as err:
        if wrong := wrong_kind(cls, options):
            raise ConfigError(wrong) from err
        raise
    # What others accept besides what they name is their affair.
    if name in ENVIRONMENTS.own_names() and (wrong := wrong_kind(cls, options)):
        env.close()
        raise ConfigError(wrong)
    return env


def _has(env: object, part: str) -> bool:
    try:
        return hasattr(env, part)
    except Exception:  # it is there, and whoever needs it will see it fail
        return True


def default_preset(name: str, model: ModelKind) -> str | None:
    """The preset that the name of an environment stands for; None where it is no such name, or stands for none.

    Raises:
        ConfigError: a class of another package that cannot be imported, or whose presets are no mapping of names.
    """
    cls: object = ENVIRONMENTS.get(name) if name in ENVIRONMENTS.names() else None
    presets: object = cls.default_presets if isinstance(cls, HasDefaultPresets) else {}
    preset = presets.get(model) if isinstance(presets, Mapping) else presets
    if preset is not None and not isinstance(preset, str):
        raise ConfigError(
            f"environment '{name}' has the default_presets {shown(presets)}, expected a mapping of scratch or "
            "pretrained to a preset or the path of a YAML file. Correct the package that brings it."
        )
    return preset


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Check the options of an environment by their names and types; nothing is built.

    Raises:
        UnknownNameError, ConfigError: as `make` does.
    """
    _check_names(name, options)
    if name in ENVIRONMENTS.own_names() and (wrong := wrong_kind(ENVIRONMENTS.get(name), options)):
        raise ConfigError(wrong)


def option_parameters(name: str) -> dict[str, inspect.Parameter]:
    """Options of an environment, from the signature of its class, with their types where its module can say them.

    Raises:
        UnknownNameError: no environment has this name.
        ConfigError: its class does not say which options it takes.
    """
    try:
        return _options_of(ENVIRONMENTS.get(name))
    except (TypeError, ValueError) as err:
        raise ConfigError(f"environment '{name}' does not say which options it takes: {err}.") from err


def takes_mapping(option: inspect.Parameter) -> bool | None:
    """Whether an option is a mapping, whose names may be given one by one; None where its type is not known."""
    if option.annotation is option.empty or isinstance(option.annotation, str):
        return None
    return takes(option.annotation, Mapping, dict)


def wrong_kind(cls: Any, options: Mapping[str, Any]) -> str:
    """The first option whose value is not of the type that its class names; "" where there is none.

    What an environment says of its options itself is better: it knows their range. A default is taken to fit.
    """
    known = _options_of(cls)
    for name, value in options.items():
        option = known.get(name)
        if option is None or option.annotation is option.empty or value is option.default:
            continue
        try:
            fitting(value, option.annotation)
        except (TypeError, OverflowError):
            null = " or null" if takes(option.annotation, NoneType) else ""
            return f"{name} is {shown(value)}, expected {expected(option.annotation)}{null}."
    return ""


def _options_of(cls: Any) -> dict[str, inspect.Parameter]:
    try:
        signature = inspect.signature(cls, eval_str=True)
    except Exception:  # annotations are code of others, and may name what is imported for type checkers alone
        signature = inspect.signature(cls)
    return dict(signature.parameters)


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
