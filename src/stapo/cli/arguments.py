"""Settings on the command line: `--dotted.overrides` of the run and `--env.OPTION` of its environment."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

from stapo.api.pretrained import pretrained_settings, require_own_rates, said
from stapo.cli.command import SET_FLAG, by_tyro, named_setting, require_settings, segments, value_of
from stapo.config.presets import load_config
from stapo.config.run_config import RunConfig
from stapo.config.schema import setting_paths
from stapo.documents import parse_yaml
from stapo.envs.registry import option_parameters, takes_mapping
from stapo.errors import ConfigError, did_you_mean

ENV_PREFIX = "--env."


def resolve(
    source: str, algorithm: str | None, args: list[str], name: str, varied: Collection[str] = ()
) -> tuple[RunConfig, str]:
    """The settings of a preset or file with those of the command line; also what was chosen for a pretrained model.

    Args:
        source: preset or file.
        algorithm: preset that replaces the configured algorithm.
        args: settings on the command line.
        name: of the command, for messages.
        varied: settings that the user gives otherwise, by their dotted names.

    Raises:
        ConfigError, UnknownNameError: a setting or name that cannot be used; or a learning rate of models from scratch
            that would train a pretrained model.
    """
    environment = value_of(args, "--env.name")
    named = {"name": environment} if environment else {}
    config = load_config(source, algorithm, {"env": named})
    if config.envs and any(flag.startswith(ENV_PREFIX) for flag, _, _ in segments(args)):
        raise ConfigError(
            f"the environments of this run are {', '.join(config.envs)}, so --env.… says nothing. Give what one of "
            "them has for itself under envs in a file, or name a single one with --env.name."
        )
    options, args = ({}, args) if config.envs else take_env_options(args, config.env.name)
    mappings, args = _take_named(args)
    # Sets have names of the user's own; a default of each lets its settings be given by their dotted names.
    sets: dict[str, Any] = {flag.split(".")[2]: {} for flag, _, _ in segments(args) if SET_FLAG.fullmatch(flag)}
    given = {flag.removeprefix("--").replace("-", "_"): words[0] if words else "" for flag, words, _ in segments(args)}
    given |= {name.replace(".no_", "."): "" for name in given if ".no_" in name}
    chosen = pretrained_settings(source, config, given)
    if options or chosen or sets or mappings:
        base = {"env": {**named, "options": options}, **mappings}
        base |= {"eval": {"sets": sets}} if sets else {}
        config = load_config(source, algorithm, base, chosen)
    config = parse_settings(config, args, name)
    require_own_rates(source, {**setting_paths(chosen), **dict.fromkeys(varied), **given}, config)
    return config, said(chosen, given) if chosen else ""


def parse_settings(config: RunConfig, args: list[str], name: str) -> RunConfig:
    """Apply `--dotted.overrides`.

    Raises:
        ConfigError: a setting that does not exist, or a value that does not fit it.
    """
    if not args:
        return config
    require_settings(args, name)
    return by_tyro(RunConfig, args, name, config)


def take_env_options(args: list[str], env_name: str) -> tuple[dict[str, Any], list[str]]:
    """Part `--env.OPTION VALUE` pairs that are options of the environment itself from all other words.

    Raises:
        UnknownNameError: no such environment.
        ConfigError: an option the environment does not know, or one without a value.
    """
    known, options, rest = env_parameters(env_name), dict[str, Any](), list[str]()
    for flag, words, joined in segments(args):
        name, dot, key = flag.removeprefix(ENV_PREFIX).partition(".")
        name = name.replace("-", "_")
        if not flag.startswith(ENV_PREFIX) or name in ("name", "split"):
            rest += [f"{flag}={words[0]}", *words[1:]] if joined else [flag, *words] if flag else words
            continue
        if name not in known:
            raise ConfigError(
                f"environment '{env_name}' has no option '{name}'.{did_you_mean(name, known)} "
                f"Options: {', '.join(sorted(known))}."
            )
        is_mapping = takes_mapping(known[name])
        if dot and is_mapping is False:
            raise ConfigError(f"{flag}: the option '{name}' has no names in it; expected {ENV_PREFIX}{name} VALUE.")
        if not key and (dot or is_mapping):
            raise ConfigError(f"{flag} holds names; expected {ENV_PREFIX}{name}.NAME VALUE.")
        if not words:
            raise ConfigError(f"{flag} needs a value for the option '{name}'.")
        value, before = _plain_value(words[0]), options.get(name)
        options[name] = {**(before if isinstance(before, dict) else {}), key: value} if key else value
        rest += words[1:]
    return options, rest


def _take_named(args: list[str]) -> tuple[dict[str, dict[str, dict[str, Any]]], list[str]]:
    """Part the settings that are mappings, such as `--rewards.weights.NAME VALUE`, from all other words.

    Returns:
        (section -> setting -> name -> value, the other words).

    Raises:
        ConfigError: one without a name or a value.
    """
    found, rest = dict[str, dict[str, dict[str, Any]]](), list[str]()
    for flag, words, joined in segments(args):
        if (setting := named_setting(flag)) is None:
            rest += [f"{flag}={words[0]}", *words[1:]] if joined else [flag, *words] if flag else words
            continue
        section, mapping, name = setting
        if not name:
            raise ConfigError(f"{flag} holds names; expected {flag}.NAME VALUE.")
        if not words:
            raise ConfigError(f"{flag} needs a value.")
        found.setdefault(section, {}).setdefault(mapping, {})[name] = _plain_value(words[0])
        rest += words[1:]
    return found, rest


def own_env_options(args: list[str], env_name: str, command: str) -> tuple[dict[str, Any], list[str]]:
    """As `take_env_options` where the environment has another name, so `--env.name` and `--env.split` are not options.

    Raises:
        UnknownNameError, ConfigError: as there, or one of the two is given.
    """
    options, rest = take_env_options(args, env_name)
    for flag, _, _ in segments(rest):
        if flag.startswith(ENV_PREFIX):
            raise ConfigError(
                f"'stapo {command}' has no option '{flag}': its environment is '{env_name}', and a split is chosen "
                "with --split."
            )
    return options, rest


def _plain_value(text: str) -> Any:
    """A number, true, false or null as YAML reads it; every other text as it stands."""
    try:
        value = parse_yaml(text)
    except ValueError:
        return text
    return value if value is None or isinstance(value, bool | int | float) else text


def env_parameters(name: str) -> dict[str, inspect.Parameter]:
    """Options of an environment, from the signature of its class."""
    return {n: p for n, p in option_parameters(name).items() if p.kind is not p.VAR_KEYWORD}
