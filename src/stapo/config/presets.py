"""Presets and YAML files: shipped ones, a user's own, what a file extends, and the configuration that they make."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import reduce
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from stapo.algo import algorithm_names, get_algorithm
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, read_yaml, to_data
from stapo.documents import parse_yaml, shown
from stapo.envs.registry import default_preset
from stapo.errors import ConfigError, unknown_name
from stapo.former_names import SETTINGS, FormerNameWarning, with_present_names

_MOST_EXTENDED = 8
_YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class Preset:
    """A shipped preset, in one line.

    Attributes:
        name: as `stapo train NAME` takes it.
        environment: what is played.
        model: what is trained: a path or name, or the sizes of a small model.
        size: iterations, groups and group size.
        about: the first sentence of the comment at the top of the file.
    """

    name: str
    environment: str
    model: str
    size: str
    about: str


def name_of(source: str) -> str:
    """What a run of this preset or file is called after, in the name of a folder."""
    if source in preset_names():
        return source.replace("/", "-")
    path = Path(source)
    return path.stem if path.suffix in (".yaml", ".yml") else path.name


def load_config(
    source: str | Mapping[str, Any],
    algorithm: str | None = None,
    base: dict[str, Any] | None = None,
    chosen: dict[str, Any] | None = None,
) -> RunConfig:
    """Build the configuration of a preset name, a YAML file, or a mapping as such a file holds it.

    Args:
        source: preset name, an environment for the preset that it names, path of a YAML file, or a mapping.
        algorithm: preset that replaces the configured algorithm. Settings of the file that differ from its own
            preset stay; those that only repeat it go, so that a written-out configuration can change its algorithm.
        base: nested keys laid over the file. Options of its environment go where another environment is named.
        chosen: nested keys laid over the file, but under `base`.

    Raises:
        UnknownNameError: neither a preset nor an existing file.
        ConfigError: unknown key or wrong value.
    """
    named = source if isinstance(source, str) else "mapping"
    data = read_source(source)
    if algorithm is not None:
        data["algorithm"] = {**own_settings(data.get("algorithm")), "name": algorithm}
    data = merge(_for_its_algorithm(data, named), chosen or {})
    if base:
        data = extend(data, _with_present_names(base, "overrides"))
    return from_data(RunConfig, data)


def _for_its_algorithm(data: dict[str, Any], source: str) -> dict[str, Any]:
    """Lay what a file says under `per_algorithm` over it, for every pattern that the algorithm's name matches.

    Raises:
        ConfigError: no mapping of patterns to settings, or a pattern that matches no algorithm at all.
    """
    data = dict(data)
    chosen = data.pop("per_algorithm", {})
    given = data.get("algorithm", RunConfig().algorithm.name)
    name = given.get("name", RunConfig().algorithm.name) if isinstance(given, dict) else given
    name = name if isinstance(name, str) else shown(name)
    if not isinstance(chosen, dict) or not all(isinstance(settings, dict) for settings in chosen.values()):
        raise ConfigError(
            f"per_algorithm of '{source}' is {shown(chosen)}, expected names of algorithms with settings."
        )
    for pattern, settings in chosen.items():
        _check_pattern(str(pattern), name)
        if fnmatchcase(name, str(pattern)):
            if isinstance(given, str) and "algorithm" in settings:
                data["algorithm"] = {"name": given}
            data = merge(data, settings)
    return data


def _check_pattern(pattern: str, name: str) -> None:
    """Raise UnknownNameError unless `pattern` matches `name`, or a known algorithm, or each of its two parts does."""

    def is_known(part: str) -> bool:
        return any(fnmatchcase(known, part) for known in (*algorithm_names(), name))

    parts = pattern.split("+", 1)
    if not is_known(pattern) and not (len(parts) == 2 and set("*?[") & set(pattern) and all(map(is_known, parts))):
        get_algorithm(pattern)  # the sum of two names, or a typing error


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


def describe_presets() -> list[Preset]:
    """Every shipped preset, in one line each."""
    found = []
    for name in preset_names():
        config = load_config(name)
        model, rollout = config.model, config.rollout
        found.append(
            Preset(
                name,
                config.env.name,
                model.path or f"small {model.architecture}, {model.layers} x {model.hidden_size}",
                f"{config.optim.iterations} x {rollout.groups} x {rollout.group_size}",
                _about(_preset_text(name)),
            )
        )
    return found


def read_source(source: str | Mapping[str, Any]) -> dict[str, Any]:
    """The mapping of a preset name, an environment's name or a YAML file, laid over what it extends.

    Raises:
        UnknownNameError: neither a preset nor an existing file.
        ConfigError: it cannot be read, is not a mapping, or extends itself, too many files, or what is not there.
    """
    return reduce(extend, layers_of(source))


def layers_of(source: str | Mapping[str, Any]) -> list[dict[str, Any]]:
    """The mappings that a source is made of: what it extends, the lowest first, and then its own.

    Raises:
        UnknownNameError, ConfigError: as `read_source` does.
    """
    return _read(source, Path(), ()) if isinstance(source, str) else _extended(source, "mapping", "mapping", Path(), ())


def _read(source: str, folder: Path, above: tuple[str, ...]) -> list[dict[str, Any]]:
    shipped = preset_names()
    if source not in shipped:
        source = default_preset(source, "scratch") or source
    path = folder / Path(source).expanduser()
    if source in shipped:
        key, data, inside = f"preset '{source}'", parse_yaml(_preset_text(source)), Path()
    # Not Path.exists, which raises for a name that is too long.
    elif path.suffix in _YAML or (source and not above and os.path.exists(path)):
        key, data, inside = f"'{os.path.realpath(path)}'", read_yaml(path), path.parent
    else:
        raise unknown_name("preset or file", source, shipped)
    return _extended(data, source, key, inside, above)


def _extended(given: Any, source: str, key: str, inside: Path, above: tuple[str, ...]) -> list[dict[str, Any]]:
    """What settings extend, and then the settings as they were read."""
    if not isinstance(given, Mapping):
        raise ConfigError(f"'{source}' holds {type(given).__name__}, expected a mapping of configuration keys.")
    data = _with_present_names(given, key)
    chosen = data.get("per_algorithm")
    if isinstance(chosen, Mapping):
        data["per_algorithm"] = {
            pattern: _with_present_names(settings, key) if isinstance(settings, Mapping) else settings
            for pattern, settings in chosen.items()
        }
    if "extends" not in data:
        return [data]
    base = data.pop("extends")
    if not isinstance(base, str) or not base or not base.isprintable():
        raise ConfigError(f"extends of '{source}' is {shown(base)}, expected the name of a preset or a YAML file.")
    chain = (*above, key)
    if key in above:
        raise ConfigError(f"'{source}' extends itself: {' extends '.join(chain)}.")
    if len(chain) > _MOST_EXTENDED:
        raise ConfigError(f"'{source}' is at the end of {len(chain)} files that extend each other; 8 are the most.")
    try:
        return [*_read(base, inside, chain), data]
    except ConfigError as err:
        raise ConfigError(f"{err} ('{source}' extends '{base}'.)") if not above else err from err


def _with_present_names(given: Mapping[str, Any], key: str) -> dict[str, Any]:
    data, former = with_present_names(given)
    for name in former:
        said = f"{key}: {name} is called {SETTINGS[name]} now; the former name is read for one more release."
        warnings.warn(FormerNameWarning(said), stacklevel=3)
    return data


def extend(base: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Lay a file's mapping over the one that it extends.

    Under another algorithm, those settings of the base stay that differ from the base algorithm's own preset. Options
    of an environment mean nothing to another one, and go; one environment takes the place of several, and the other way
    round.
    """
    here, other = base.get("env"), data.get("env")
    if data.get("envs") or (isinstance(other, dict) and other.get("name")):
        gone = "env" if data.get("envs") else "envs"
        base = {key: value for key, value in base.items() if key != gone}
    if isinstance(here, dict) and isinstance(other, dict) and other.get("name", here.get("name")) != here.get("name"):
        base = {**base, "env": {key: value for key, value in here.items() if key != "options"}}
    old, new = base.get("algorithm"), data.get("algorithm")
    if isinstance(new, str):
        new = {"name": new}
    if isinstance(old, str):
        old = {"name": old}
    if isinstance(new, dict) and isinstance(old, dict):
        if new.get("name", old.get("name")) != old.get("name"):
            old = own_settings(old)
        base, data = {**base, "algorithm": old}, {**data, "algorithm": new}
    return merge(base, data)


def own_settings(given: Any) -> dict[str, Any]:
    """The settings of a file's algorithm that differ from the preset that the file names."""
    if not isinstance(given, dict):
        return {}
    name = given.get("name", RunConfig().algorithm.name)
    preset = to_data(get_algorithm(name if isinstance(name, str) else shown(name)))
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


def _preset_text(name: str) -> str:
    return (files("stapo.recipes") / f"{name}.yaml").read_text(encoding="utf-8")


def _about(text: str) -> str:
    comment = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    sentence, _, _ = " ".join(comment).partition(". ")
    return sentence.rstrip(".:") + "." if sentence else "–"
