"""What passes between a pool and its workers: JSON, one value a line.

Text keeps every character, half characters included, and numbers keep NaN and infinity.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

from stapo.documents import plain
from stapo.envs.guard import EnvFailure, Started, short
from stapo.envs.protocol import CommandShapes, Observation, StepResult, Tool
from stapo.errors import ConfigError

_DEEPEST = 6


def dump(value: Any) -> bytes:
    """One line, its end included.

    Raises:
        TypeError: or ValueError, if the value is not made of JSON's types.
    """
    # Not ASCII: there, two half characters in a row would come back as one whole character.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def load(line: bytes) -> Any:
    """The value of one line.

    Raises:
        ValueError: not a line of ours.
    """
    return json.loads(line.decode("utf-8", "surrogatepass"))


def pack(value: Started | StepResult | EnvFailure) -> list[Any]:
    """A value that a pool answers with, in JSON's types; the values are checked already."""
    if isinstance(value, Started):
        seen = value.observation
        texts = [seen.text, seen.goal, seen.admissible, seen.blind_text]
        return ["started", *texts, value.task_type, asdict(value.shapes)]
    if isinstance(value, StepResult):
        told = [value.text, value.admissible, value.reward, value.done, value.won]
        return ["result", *told, jsonable(value.info), value.blind_text]
    return ["failure", value.boundary, value.error, value.detail]


def unpack(packed: list[Any]) -> Started | StepResult | EnvFailure:
    """The value that `pack` packed.

    Raises:
        ValueError: or TypeError, if it is not one.
    """
    kind, *rest = packed
    if kind == "started":
        *seen, task_type, said = rest
        tools = tuple(Tool(**tool) for tool in said.pop("tools"))
        texts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in said.items()}
        shapes = CommandShapes(**texts, tools=tools)
        return Started(Observation(*seen), task_type, shapes)
    if kind == "result":
        return StepResult(*rest)
    if kind == "failure":
        return EnvFailure(*rest)
    raise ValueError(f"unknown kind {kind!r}")


def jsonable(value: Any, depth: int = 0) -> Any:
    """Further facts in JSON's types: NumPy scalars become numbers, keys texts, and what JSON does not know its repr."""
    value = plain(value)
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int) and abs(value) < 1 << 1024:
        return value
    if depth < _DEEPEST and isinstance(value, dict):
        return {k if isinstance(k, str) else short(k): jsonable(v, depth + 1) for k, v in value.items()}
    if depth < _DEEPEST and isinstance(value, list | tuple):
        return [jsonable(v, depth + 1) for v in value]
    return short(value)


def target_of(name: str, cls: Any) -> str:
    """Where the class of an environment is, "module:qualified name".

    Raises:
        ConfigError: another process cannot import it.
    """
    module, qualified = getattr(cls, "__module__", "__main__"), getattr(cls, "__qualname__", "<locals>")
    if module == "__main__" or "<locals>" in qualified:
        raise ConfigError(
            f"environment '{name}' is {module}:{qualified}, which another process cannot import; expected a class "
            "at the top of a module. Move it into a file of its own, or set rollout.workers to 0."
        )
    return f"{module}:{qualified}"


def options_for(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of an environment in JSON's types; paths become texts.

    Raises:
        ConfigError: an option that JSON cannot hold.
    """
    found = {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in options.items()}
    try:
        json.dumps(found)
    except (TypeError, ValueError) as err:
        raise ConfigError(
            f"the options of environment '{name}' cannot be handed to a worker: {err}. Expected numbers, texts, lists "
            "and mappings; or set rollout.workers to 0."
        ) from err
    return found
