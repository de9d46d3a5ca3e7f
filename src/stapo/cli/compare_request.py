"""What `stapo compare` is asked for, as variants and a plan."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import yaml

from stapo.cli.arguments import resolve
from stapo.cli.words import write_line
from stapo.comparison.plan import Plan, Variant, label_of, plan_of
from stapo.config.presets import merge
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.errors import ConfigError

SEEDS = (0, 1, 2)
_SHARED = ("algorithm", "optim", "rollout", "tasks")
"""Sections that `--vary` may touch: all others belong to the start or to the evaluation, which variants share."""


def plan_from(
    source: str,
    algorithms: Sequence[str],
    vary: Iterable[str],
    seeds: Sequence[int],
    starts: int | None,
    settings: list[str],
    command: str,
) -> Plan:
    """Build the plan that a command line asks for.

    Args:
        source: preset or file.
        algorithms: names of the methods.
        vary: ``SETTING=VALUE,VALUE`` of further variants.
        seeds: of the runs; 0, 1 and 2 where there are none.
        starts: how many different starts; None chooses.
        settings: words of the command line that are settings.
        command: the whole command line.

    Raises:
        ConfigError, UnknownNameError: a setting, value or name that cannot be used.
    """
    varied = dict(_vary(vary))
    if not algorithms:
        raise ConfigError(
            "'stapo compare' needs algorithms, e.g. --algorithms grpo gigpo stapo; see 'stapo algorithms'. "
            "To resume a comparison give its folder alone: stapo compare --out DIR."
        )
    flags = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in settings}
    elsewhere = list(itertools.chain.from_iterable(varied))
    for path in elsewhere:
        if path in flags:
            raise ConfigError(f"{path} is given by --vary and by --{path}; give it once.")
    base, chosen = resolve(source, None, settings, "compare", elsewhere)
    if chosen:
        write_line(chosen, sys.stderr)
    variants = [
        _variant(name, _changes(varied, values), to_data(resolve(source, name, settings, "compare", elsewhere)[0]))
        for name in algorithms
        for values in itertools.product(*varied.values())
    ]
    return plan_of(to_data(base), variants, seeds or SEEDS, starts, command)


def _changes(vary: Iterable[tuple[str, ...]], values: Iterable[Any]) -> dict[str, Any]:
    return {path: value for paths, value in zip(vary, values, strict=True) for path in paths}


def _variant(algorithm: str, changes: dict[str, Any], settings: dict[str, Any]) -> Variant:
    for path, value in changes.items():
        nested: dict[str, Any] = {}
        place = nested
        *groups, last = path.split(".")
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
        settings = merge(settings, nested)
    try:
        settings = to_data(from_data(RunConfig, settings))
    except ConfigError as err:
        if not changes:
            raise
        raise ConfigError(f"--vary {' '.join(f'{k}={v}' for k, v in changes.items())}: {err}") from err
    return Variant(label_of(algorithm, changes), algorithm, changes, settings)


def _vary(words: Iterable[str]) -> Iterator[tuple[tuple[str, ...], tuple[Any, ...]]]:
    seen: set[str] = set()
    for word in words:
        left, equals, text = word.removeprefix("--").partition("=")
        paths = tuple(path.removeprefix("--").replace("-", "_") for path in left.split("+"))
        if not equals or not text:
            raise ConfigError(
                f"--vary is '{word}', expected SETTING=VALUE,VALUE,..., e.g. --vary algorithm.outlier.lam=1.0,1.5,3.0."
            )
        for path in paths:
            section = path.partition(".")[0]
            if section not in _SHARED or "." not in path or path == "algorithm.name":
                raise ConfigError(
                    f"--vary cannot change '{path}': variants share start, environment and evaluation, so it takes "
                    f"settings of {', '.join(_SHARED)} (algorithms themselves are named with --algorithms). Set "
                    f"'{path}' for all with --{path}, or make one comparison for each value."
                )
            if path in seen:
                raise ConfigError(f"--vary names '{path}' twice; give all its values once, separated by commas.")
            seen.add(path)
        values = tuple(_value(part, word) for part in re.split(r",(?![^\[]*\])", text))
        for value in values:
            if values.count(value) > 1:
                raise ConfigError(f"--vary {left} names the value {value} twice.")
        yield paths, values


def _value(text: str, word: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if value is None and text.strip() != "null":
        raise ConfigError(f"--vary is '{word}', in which '{text}' is not a value; separate values by single commas.")
    return value
