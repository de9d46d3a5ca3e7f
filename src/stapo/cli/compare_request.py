"""Reading the command line of `stapo compare` into variants and a plan."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stapo.algo import get_algorithm
from stapo.cli.arguments import parse_run_config, take_env_options
from stapo.cli.pretrained import pretrained_settings, said
from stapo.cli.words import take_flag, write_line
from stapo.comparison.plan import Plan, Variant, label_of, plan_of
from stapo.config.presets import load_config, merge
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.errors import ConfigError

SEEDS = (0, 1, 2)
_SHARED = ("algorithm", "optim", "rollout")
"""Sections that `--vary` may touch: all others belong to the start or to the evaluation, which variants share."""


@dataclass(frozen=True)
class Request:
    """A command line of `stapo compare`.

    Attributes:
        source: preset or file; None where it was not named.
        algorithms: names; empty where none was named.
        seeds: of the runs; None where none was named.
        starts: `--starts`.
        jobs: runs at a time; None chooses.
        out: folder; None chooses.
        baseline: variant that the others are compared with; None takes the first.
        vary: values by dotted path; several paths that take the same value stand together.
        overrides: words left for the settings, `--env.OPTION` among them.
        dry, quiet, as_json: switches.
    """

    source: str | None
    algorithms: tuple[str, ...]
    seeds: tuple[int, ...] | None
    starts: int | None
    jobs: int | None
    out: Path | None
    baseline: str | None
    vary: dict[tuple[str, ...], tuple[Any, ...]]
    overrides: tuple[str, ...]
    dry: bool
    quiet: bool
    as_json: bool

    @property
    def goes_on_only(self) -> bool:
        """Nothing was said of what to compare, so that the folder decides."""
        return not (self.source or self.algorithms or self.seeds or self.starts or self.vary or self.overrides)


def read_request(argv: list[str]) -> Request:
    """Read the command line.

    Raises:
        ConfigError, UnknownNameError: something in it cannot be used.
    """
    args = list(argv)
    source = args.pop(0) if args and not args[0].startswith("-") else None
    algorithms, args = take_list(args, "--algorithms", needs="names; see 'stapo algorithms'")
    seeds, args = take_list(args, "--seeds", needs="whole numbers, e.g. --seeds 0 1 2")
    vary, args = take_list(args, "--vary", needs="SETTING=VALUE,VALUE,..., e.g. algorithm.outlier.lam=1.0,1.5")
    starts, args = take_flag(args, "--starts", needs="a number")
    jobs, args = take_flag(args, "--jobs", needs="a number")
    out, args = take_flag(args, "--out", needs="a folder")
    baseline, args = take_flag(args, "--baseline", needs="the label of a variant")
    episodes, args = take_flag(args, "--episodes", needs="a number")
    switches = {name: name in args for name in ("--dry-run", "--quiet", "--json")}
    args = [a for a in args if a not in switches]
    for arg in args:
        flag = arg.partition("=")[0]
        if flag in ("--algorithm", "--algorithm.name"):
            raise ConfigError(f"'stapo compare' has no option {flag}; name what to compare with --algorithms.")
        if flag == "--seed":
            raise ConfigError("'stapo compare' has no option --seed; name the seeds with --seeds.")
    if episodes is not None:
        args += ["--eval.episodes", str(_whole("--episodes", episodes, 0))]
    return Request(
        source=source,
        algorithms=_algorithms(algorithms),
        seeds=None if seeds is None else _seeds(seeds),
        starts=None if starts is None else _whole("--starts", starts, 1),
        jobs=None if jobs is None else _whole("--jobs", jobs, 1),
        out=None if out is None else Path(out),
        baseline=baseline,
        vary=dict(_vary(vary or [])),
        overrides=tuple(args),
        dry=switches["--dry-run"],
        quiet=switches["--quiet"],
        as_json=switches["--json"],
    )


def plan_from(request: Request, command: str) -> Plan:
    """Build the plan that a command line asks for.

    Raises:
        ConfigError, UnknownNameError: a setting, value or name that cannot be used.
    """
    if not request.algorithms:
        raise ConfigError(
            "'stapo compare' needs algorithms, e.g. --algorithms grpo gigpo stapo; see 'stapo algorithms'. "
            "To resume a comparison give its folder alone: stapo compare --out DIR."
        )
    for path in itertools.chain.from_iterable(request.vary):
        flags = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in request.overrides}
        if path in flags:
            raise ConfigError(f"{path} is given by --vary and by --{path}; give it once.")
    source = request.source or "tiny"
    base = _config(source, None, request)
    if chosen := pretrained_settings(source, load_config(source), list(request.overrides)):
        write_line(said(chosen, list(request.overrides)), sys.stderr)
    variants = [
        _variant(name, _changes(request.vary, values), source, request)
        for name in request.algorithms
        for values in itertools.product(*request.vary.values())
    ]
    return plan_of(to_data(base), variants, request.seeds or SEEDS, request.starts, command)


def _changes(vary: Iterable[tuple[str, ...]], values: Iterable[Any]) -> dict[str, Any]:
    return {path: value for paths, value in zip(vary, values, strict=True) for path in paths}


def _config(source: str, algorithm: str | None, request: Request) -> RunConfig:
    args = list(request.overrides)
    env_name, _ = take_flag(args, "--env.name", needs="the name of an environment")
    config = load_config(source, algorithm)
    options, args = take_env_options(args, env_name or config.env.name)
    chosen = pretrained_settings(source, config, args)
    if options or chosen:
        config = load_config(source, algorithm, {**chosen, "env": {"options": options}})
    return parse_run_config(config, args, "stapo compare")


def _variant(algorithm: str, changes: dict[str, Any], source: str, request: Request) -> Variant:
    settings = to_data(_config(source, algorithm, request))
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


def take_list(args: list[str], flag: str, *, needs: str) -> tuple[list[str] | None, list[str]]:
    """Remove every ``flag A B C`` (or ``flag=A,B,C``) from `args`; returns the words, None without the flag.

    Raises:
        ConfigError: the flag stands without a word.
    """
    found: list[str] | None = None
    rest: list[str] = []
    i = 0
    while i < len(args):
        if args[i] == flag:
            end = i + 1
            while end < len(args) and not args[end].startswith("--"):
                end += 1
            words, i = args[i + 1 : end], end
        elif args[i].startswith(flag + "="):
            text = args[i].partition("=")[2]
            words, i = [text] if "=" in text else [w for w in text.split(",") if w], i + 1
        else:
            rest.append(args[i])
            i += 1
            continue
        if not words:
            raise ConfigError(f"{flag} needs {needs}.")
        found = [*(found or []), *words]
    return found, rest


def _algorithms(words: list[str] | None) -> tuple[str, ...]:
    names = [name for word in words or [] for name in word.split(",") if name]
    for name in names:
        get_algorithm(name)
        if names.count(name) > 1:
            raise ConfigError(f"--algorithms names '{name}' twice.")
    return tuple(names)


def _seeds(words: list[str]) -> tuple[int, ...]:
    seeds = tuple(_whole("--seeds", part, 0) for word in words for part in word.split(",") if part)
    if not seeds:
        raise ConfigError("--seeds needs whole numbers, e.g. --seeds 0 1 2.")
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise ConfigError(f"--seeds names seed {seed} twice; that would make the standard deviation too small.")
    return seeds


def _vary(words: list[str]) -> Iterator[tuple[tuple[str, ...], tuple[Any, ...]]]:
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
                    f"--vary cannot change '{path}': variants share start, tasks and evaluation, so it takes settings "
                    f"of {', '.join(_SHARED)} (algorithms themselves are named with --algorithms). Set '{path}' for "
                    f"all with --{path}, or make one comparison for each value."
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
        raise ConfigError(f"--vary is '{word}', in which '{text}' is no value; separate values by single commas.")
    return value


def _whole(flag: str, text: str, least: int) -> int:
    if not text.isdecimal() or len(text) > 18 or int(text) < least:
        raise ConfigError(f"{flag} is '{text}', expected a whole number of {least} or more.")
    return int(text)
