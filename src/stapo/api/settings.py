"""Settings and arguments from Python: `stapo.load_config`, and how functions check what a program gives them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from inspect import Parameter, signature
from typing import Any, ParamSpec, TypeVar, cast, get_type_hints

from stapo import type_hints
from stapo.api.pretrained import pretrained_settings, require_own_rates, said
from stapo.config import presets
from stapo.config.run_config import RunConfig
from stapo.config.schema import setting_paths, to_data
from stapo.documents import shown
from stapo.errors import ConfigError, files_named
from stapo.rollout.config import Engine
from stapo.rollout.vllm_engine import require_vllm

Source = RunConfig | str | os.PathLike[str] | Mapping[str, Any]
"""What settings are made from."""


def load_config(
    source: Source = "tiny", *, algorithm: str | Mapping[str, Any] | None = None, **overrides: Any
) -> RunConfig:
    """Build the settings of a run.

    Where `model.path` of the overrides lays a pretrained model over a preset for models from scratch, other settings
    that fit it are chosen, as by `stapo train`, and a warning names them. Overrides win.

    Args:
        source: name of a preset, path of a YAML file, a mapping as such a file holds it, or other settings.
        algorithm: name that replaces the algorithm, while settings that the source makes for its own stay; or a mapping
            that is laid over it.
        overrides: laid over the source: a value (`seed=1`), a mapping (`optim={"iterations": 3}`) or a dotted key
            (`**{"optim.iterations": 3}`).

    Raises:
        UnknownNameError: no such preset, file, algorithm or environment.
        ConfigError: an unknown key or a value that cannot be used; or a pretrained model would be trained at a learning
            rate of models from scratch that was not given for it.
    """
    return _loaded(source, algorithm, overrides, trains=True)


def _loaded(
    source: Source, algorithm: str | Mapping[str, Any] | None, overrides: dict[str, Any], *, trains: bool
) -> RunConfig:
    if algorithm is not None and not isinstance(algorithm, str):
        algorithm, overrides = None, {**overrides, "algorithm": algorithm}
    if isinstance(source, RunConfig | Mapping):
        source = dict(to_data(source))
    else:
        if not isinstance(source, str | os.PathLike):
            raise ConfigError(f"source is {shown(source)}, expected a preset, a YAML file, a mapping or settings.")
        source = os.fspath(source)
    given = nested(overrides)
    flat, chosen = setting_paths(given), dict[str, Any]()
    if isinstance(source, str) and flat.get("model.path"):
        chosen_env = {"env": {"name": flat["env.name"]}} if "env.name" in flat else {}
        chosen = pretrained_settings(source, presets.load_config(source, algorithm, chosen_env), flat)
    if chosen:
        warnings.warn(said(chosen, flat), stacklevel=3)
    config = presets.load_config(source, algorithm, given, chosen)
    if trains:
        require_own_rates(source, {**setting_paths(chosen), **flat}, config)
    return config


def with_engine(config: RunConfig, engine: str, *, served: bool = False) -> RunConfig:
    """The settings with what generates replaced, for playing without training.

    Raises:
        ConfigError: no such engine, it cannot decode as the settings ask, or its package is missing; or the model is
            `served`, by a server that generates by itself.
    """
    if served and engine != "transformers":
        raise ConfigError(f"the engine is '{engine}', but the model is behind a server, which generates. Leave it out.")
    if engine == "vllm" and config.agent.constrained:
        raise ConfigError(
            "the engine is 'vllm', and agent.decode is 'constrained': vLLM cannot be told at each token which ones are "
            "allowed. Leave the engine out, or evaluate with agent.decode 'free'."
        )
    changed = replace(config, rollout=replace(config.rollout, engine=cast(Engine, engine)))
    if engine == "vllm":
        require_vllm()
    return changed


def nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings; what comes later wins.

    Raises:
        ConfigError: a key is not a text, or is empty between its dots.
    """
    found: dict[str, Any] = {}
    for key, value in overrides.items():
        if not isinstance(key, str) or not all(key.split(".")):
            raise ConfigError(f"an override has the key {shown(key)}, expected a setting such as 'optim.iterations'.")
        # The options of an environment and their values are its own.
        inner = nested(value) if isinstance(value, Mapping) and key.split(".")[:2] != ["env", "options"] else value
        if key == "env" and isinstance(value, Mapping) and "options" in value:
            inner = {**nested({k: v for k, v in value.items() if k != "options"}), "options": value["options"]}
        place: Any = to_data(inner)
        for part in reversed(key.split(".")):
            place = {part: place}
        found = presets.merge(found, place)
    return found


def settings_of(source: Source, *, trains: bool = False) -> tuple[RunConfig, str]:
    """The settings that a function is given in whatever form, to train with them or not, and what they are called."""
    if isinstance(source, RunConfig):
        return source, "RunConfig"
    name = "mapping" if isinstance(source, Mapping) else os.fspath(source)
    return _loaded(source, None, {}, trains=trains), name


def with_changes(config: RunConfig, env: Mapping[str, Any] | None, agent: Mapping[str, Any] | None = None) -> RunConfig:
    """The settings with other options of the environment and other settings of the agent.

    Raises:
        ConfigError: an unknown key or a value that cannot be used.
    """
    if not env and not agent:
        return config
    return _loaded(config, None, {"env": {"options": dict(env or {})}, "agent": dict(agent or {})}, trains=False)


P = ParamSpec("P")
R = TypeVar("R")


def checked(**least: float) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function check its arguments by their annotations before it begins.

    Numbers of NumPy become Python's, and lists tuples. An error of the system about a file becomes one of ours.

    Args:
        least: the smallest number that an argument, or an item of it, may be.

    Raises:
        ConfigError: by the function, where an argument is of another type or too small.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        form = signature(function)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                bound = form.bind(*args, **kwargs)
            except TypeError:
                return function(*args, **kwargs)  # whose own message names the function
            hints = get_type_hints(function)
            for name, value in bound.arguments.items():
                # `Callbacks` checks those, and settings have a schema.
                if name in hints and name != "callbacks" and form.parameters[name].kind != Parameter.VAR_KEYWORD:
                    bound.arguments[name] = fitting(name, value, hints[name], least.get(name))
            with files_named():
                return function(*bound.args, **bound.kwargs)

        return call

    return decorate


def fitting(name: str, value: object, hint: Any, least: float | None = None) -> Any:
    """The value, as its annotation has it.

    Raises:
        ConfigError: it is something else.
    """
    try:
        return type_hints.fitting(value, hint, least)
    except (TypeError, OverflowError):
        bound = "" if least is None else f" of {least:g} or more"
        expected = type_hints.expected(hint)
        raise ConfigError(f"{name} is {shown(value)}, expected {expected}{bound}.") from None
