"""Reading `--dotted.overrides` and `--env.OPTION` into a run configuration."""

from __future__ import annotations

import inspect
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import fields, is_dataclass
from typing import Any

import tyro

from stapo.cli.words import take_flag
from stapo.config.run_config import RunConfig
from stapo.documents import parse_yaml
from stapo.envs.registry import ENVIRONMENTS
from stapo.errors import ConfigError, did_you_mean

ENV_PREFIX = "--env."
AGENT_PREFIX = "--agent."


def parse_run_config(config: RunConfig, args: list[str], prog: str) -> RunConfig:
    """Apply `--dotted.overrides`; `--help` prints every setting with its value and explanation.

    Raises:
        ConfigError: a setting that does not exist, or a value that does not fit it.
    """

    def parse() -> RunConfig:
        return tyro.cli(RunConfig, prog=prog, args=args, default=config, description=RunConfig.__doc__)

    if any(arg in ("-h", "--help") for arg in args):
        return parse()
    said = io.StringIO()
    try:
        with redirect_stderr(said), _wide():
            return parse()
    except SystemExit as err:
        raise ConfigError(f"{_unboxed(said.getvalue())} See '{prog} --help'.") from err


@contextmanager
def _wide() -> Iterator[None]:
    """Inside, tyro breaks no line of an error that `_unboxed` reads."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "4000"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _unboxed(text: str) -> str:
    """What an error of tyro says, without its box and its title, in one line."""
    sections: list[list[str]] = [[]]
    for line in (line.strip("│| ") for line in text.splitlines()):
        if not line.strip("─-╭╮╰╯ ") or line[0] == "╭":  # a rule, or a title in the frame
            sections.append([])
        else:
            sections[-1].append(line)
    bodies = [" ".join(section) for section in sections if section]
    framed = text.startswith("╭")  # where the terminal cannot show frames, the title is a section of its own
    said = " ".join(next(iter(bodies if framed else bodies[1:]), "").split())
    for name in ("RunConfig", *(f.name for f in fields(RunConfig))):
        said = re.sub(rf"^Error parsing {name}(\.\w+)*: ", "", said)
    said = said.removeprefix("Error parsing ").rstrip(".")
    if odd := re.match(r"(\S+): (invalid literal for int|could not convert string to float).*?'(.*)'", said):
        kind = "a whole number" if "int" in odd[2] else "a number"
        return f"{odd[1]} is '{odd[3]}', expected {kind}."
    if odd := re.match(r"invalid choice '(.*)' for argument '(.*?)'\. Expected one of \((.*)\)", said):
        choices = re.findall(r"'(.*?)'", odd[3])
        return f"{odd[2]} is '{odd[1]}', expected one of {', '.join(choices)}.{did_you_mean(odd[1], choices)}"
    if odd := re.match(r"Unrecognized options: (--[\w-]+)(?![\w.-])", said):
        # Its name without its group is what a setting is called in talk; tyro guesses by letters alone.
        name = odd[1].lstrip("-").replace("_", "-")
        alike = [flag for flag in _flags(RunConfig()) if flag.rpartition(".")[2] == name]
        if alike:
            return f"{said}. Did you mean {' or '.join(repr(f'--{flag}') for flag in alike[:3])}?"
    meant = re.findall(r"--[a-z][\w.-]+", text.partition("Perhaps you meant")[2])
    guess = f" Did you mean '{meant[0]}'?" if meant else ""
    return f"{said or 'the settings cannot be read'}.{guess}"


def _flags(config: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings, as the command line spells them."""
    for field in fields(config):
        name, value = prefix + field.name.replace("_", "-"), getattr(config, field.name)
        if is_dataclass(value):
            yield from _flags(value, f"{name}.")
        else:
            yield name


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
        value = parse_yaml(text)
    except ValueError:
        return text
    return value if value is None or isinstance(value, bool | int | float) else text


def env_parameters(name: str) -> dict[str, inspect.Parameter]:
    """Options of an environment, from the signature of its class."""
    try:
        signature = inspect.signature(ENVIRONMENTS.get(name))
    except (TypeError, ValueError) as err:
        raise ConfigError(f"environment '{name}' does not say which options it takes: {err}.") from err
    return {n: p for n, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD}
