"""Reading `PRESET or FILE` plus `--dotted.overrides` into a run configuration."""

from __future__ import annotations

import inspect
from fnmatch import fnmatchcase
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import tyro
import yaml

from stapo.algo import algorithm_names, get_algorithm
from stapo.cli.words import take_flag
from stapo.envs.registry import ENVIRONMENTS
from stapo.errors import ConfigError, did_you_mean, unknown_name
from stapo.train.run_config import RunConfig
from stapo.train.schema import from_data, read_yaml, to_data

ENV_PREFIX = "--env."
AGENT_PREFIX = "--agent."


def preset_names() -> list[str]:
    """Names of the shipped run presets; those in a folder carry its name, as in "paper/alfworld-1.5b"."""

    def under(folder: Traversable, prefix: str) -> list[str]:
        found = []
        for entry in folder.iterdir():
            if entry.is_dir():
                found += under(entry, f"{prefix}{entry.name}/")
            elif entry.name.endswith(".yaml"):
                found.append(prefix + entry.name.removesuffix(".yaml"))
        return found

    return sorted(under(files("stapo.recipes"), ""))


def name_of(source: str) -> str:
    """What a run of this preset or file is called after, in the name of a folder."""
    if source in preset_names():
        return source.replace("/", "-")
    path = Path(source)
    return path.stem if path.suffix in (".yaml", ".yml") else path.name


_SMALL = {"alfworld": "tiny", "search": "search-tiny", "webshop": "webshop-tiny"}
"""What the name of an environment stands for: the preset that learns in it on a CPU in minutes."""


def load_config(source: str, algorithm: str | None = None, base: dict[str, Any] | None = None) -> RunConfig:
    """Build the configuration of a preset name or a YAML file.

    Args:
        source: preset name, an environment of this package for its smallest preset, or path of a YAML file.
        algorithm: preset that replaces the configured algorithm. Knobs that the file sets otherwise than its own
            preset does stay as the file says; those that only repeat it go, so that a written-out configuration can
            change its algorithm.
        base: nested keys laid over the file.

    Raises:
        UnknownNameError: neither a preset nor an existing file.
        ConfigError: unknown key or wrong value.
    """
    source = _SMALL.get(source, source)
    path = Path(source)
    if source in preset_names():
        data = yaml.safe_load((files("stapo.recipes") / f"{source}.yaml").read_text(encoding="utf-8"))
    elif path.suffix in (".yaml", ".yml") or path.exists():
        data = read_yaml(path)
    else:
        raise unknown_name("preset or file", source, preset_names())
    if not isinstance(data, dict):
        raise ConfigError(f"'{source}' holds {type(data).__name__}, expected a mapping of configuration keys.")
    if algorithm is not None:
        data["algorithm"] = {**_own_knobs(data.get("algorithm")), "name": algorithm}
    data = _for_its_algorithm(data, source)
    if base:
        data = merge(data, base)
    return from_data(RunConfig, data)


def _for_its_algorithm(data: dict[str, Any], source: str) -> dict[str, Any]:
    """Lay what a file says under `per_algorithm` over it, for every pattern that the algorithm's name matches.

    Raises:
        ConfigError: no mapping of patterns to settings, or a pattern that matches no algorithm at all.
    """
    data = dict(data)
    chosen = data.pop("per_algorithm", {})
    given = data.get("algorithm", RunConfig().algorithm.name)
    name = str(given.get("name", RunConfig().algorithm.name) if isinstance(given, dict) else given)
    if not isinstance(chosen, dict) or not all(isinstance(settings, dict) for settings in chosen.values()):
        raise ConfigError(f"per_algorithm of '{source}' is {chosen!r}, expected names of algorithms with settings.")
    for pattern, settings in chosen.items():
        if not any(fnmatchcase(known, str(pattern)) for known in algorithm_names()):
            raise unknown_name("algorithm", str(pattern), algorithm_names())
        if fnmatchcase(name, str(pattern)):
            if isinstance(given, str) and "algorithm" in settings:
                data["algorithm"] = {"name": given}
            data = merge(data, settings)
    return data


def _own_knobs(given: Any) -> dict[str, Any]:
    """The knobs of a file's algorithm that differ from the preset that the file names."""
    if not isinstance(given, dict):
        return {}
    preset = to_data(get_algorithm(str(given.get("name", RunConfig().algorithm.name))))
    groups = {key: value for key, value in given.items() if key not in ("name", "paper", "description")}
    return {
        key: {k: v for k, v in value.items() if k not in preset.get(key, {}) or v != preset[key][k]}
        if isinstance(value, dict)
        else value
        for key, value in groups.items()
    }


def merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """Lay nested mapping `upper` over `lower`."""
    merged = dict(lower)
    for key, value in upper.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def parse_run_config(config: RunConfig, args: list[str], prog: str) -> RunConfig:
    """Apply `--dotted.overrides`; `--help` prints every setting with its value and explanation."""
    return tyro.cli(RunConfig, prog=prog, args=args, default=config, description=RunConfig.__doc__)


def split_env_args(args: list[str], prefix: str = ENV_PREFIX) -> tuple[list[str], list[str]]:
    """Part ``--env.…`` (or what has another prefix) and the value after each from all other arguments, in order."""
    of_env: list[str] = []
    others: list[str] = []
    i = 0
    while i < len(args):
        if not args[i].startswith(prefix):
            others.append(args[i])
            i += 1
            continue
        width = 1 if "=" in args[i] or i + 1 == len(args) or args[i + 1].startswith("--") else 2
        of_env += args[i : i + width]
        i += width
    return of_env, others


def take_env_options(args: list[str], env_name: str) -> tuple[dict[str, Any], list[str]]:
    """Remove `--env.OPTION VALUE` pairs that are options of the environment itself.

    Raises:
        UnknownNameError: no such environment.
        ConfigError: an option the environment does not know, or one without a value.
    """
    known = env_parameters(env_name)
    options: dict[str, Any] = {}
    for flag in dict.fromkeys(a.partition("=")[0] for a in args if a.startswith(ENV_PREFIX)):
        name = flag[len(ENV_PREFIX) :].replace("-", "_")
        if name in ("name", "split"):
            continue
        if name not in known:
            raise ConfigError(
                f"environment '{env_name}' has no option '{name}'.{did_you_mean(name, known)} "
                f"Options: {', '.join(sorted(known))}."
            )
        value, args = take_flag(args, flag, needs=f"a value for the option '{name}'")
        options[name] = _plain_value(value or "")
    return options, args


def _plain_value(text: str) -> Any:
    """A number, true, false or null as YAML reads it; every other text as it stands."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if value is None or isinstance(value, bool | int | float) else text


def env_parameters(name: str) -> dict[str, inspect.Parameter]:
    """Options of an environment, from the signature of its class."""
    signature = inspect.signature(ENVIRONMENTS.get(name))
    return {n: p for n, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD}
