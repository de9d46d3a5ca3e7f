"""Messages of the OpenEnv protocol: what a client may send, and what it is sent.

The protocol is OpenEnv's: JSON objects ``{"type": ..., "data": ...}`` over a WebSocket, and the same data in the bodies
of plain requests. An action has one required field, ``command``; an observation has the text, the goal and what is
offered.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from typing import Any

from stapo.agent.formats import tagged
from stapo.documents import parse_json, shown
from stapo.errors import did_you_mean
from stapo.texts import escape_control_chars, replace_surrogates

_LONGEST_ID = 255
_LARGEST_SEED = 1 << 63
_LONGEST_REASON = 2_000
_LONGEST_FACT = 10_000
_DEEPEST_FACT = 4


class Code(StrEnum):
    """What went wrong, as the protocol names it."""

    INVALID_JSON = "INVALID_JSON"
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    VALIDATION_ERROR = "VALIDATION_ERROR"
    EXECUTION_ERROR = "EXECUTION_ERROR"
    CAPACITY_REACHED = "CAPACITY_REACHED"
    FACTORY_ERROR = "FACTORY_ERROR"
    SESSION_ERROR = "SESSION_ERROR"


class ProtocolError(Exception):
    """Something that a client is told.

    Attributes:
        code: of the protocol.
        reason: in a sentence.
    """

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = escape_control_chars(reason[:_LONGEST_REASON])


@dataclass(frozen=True, slots=True)
class ResetRequest:
    """Which episode a client asks for.

    Attributes:
        task_id: the task; None where a seed or nobody chooses.
        seed: number of a task of the split, counted round and round; None draws one.
        split: split that is drawn from, or that the task has to be of; None for that of the server.
        episode_id: what the client calls the episode; None leaves it to the server.
    """

    task_id: str | None = None
    seed: int | None = None
    split: str | None = None
    episode_id: str | None = None


def read_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ProtocolError: it is not one.
    """
    try:
        found = parse_json(text)
    except ValueError as err:
        raise ProtocolError(Code.INVALID_JSON, f"the message is {err}.") from None
    if not isinstance(found, dict):
        raise ProtocolError(Code.VALIDATION_ERROR, f"the message is {shown(found)}, expected a JSON object.")
    return found


def read_message(text: str) -> tuple[str, dict[str, Any]]:
    """Type and data of a message over a WebSocket.

    Raises:
        ProtocolError: it is not a message of this protocol.
    """
    message = read_object(text)
    kind = message.get("type")
    if kind == "mcp":
        raise ProtocolError(Code.UNKNOWN_TYPE, "this environment has no MCP tools; send 'reset' and 'step'.")
    if not isinstance(kind, str) or kind not in _TYPES:
        found = shown(kind) if "type" in message else "missing"
        raise ProtocolError(Code.UNKNOWN_TYPE, f"type is {found}, expected one of {', '.join(_TYPES)}.")
    _check_keys(message, _TYPES[kind], f"a message '{kind}'")
    data = message.get("data", {})
    if not isinstance(data, dict):
        raise ProtocolError(Code.VALIDATION_ERROR, f"data is {shown(data)}, expected a JSON object.")
    return kind, data


_TYPES = {"reset": ("type", "data"), "step": ("type", "data"), "state": ("type", "data"), "close": ("type", "data")}


def read_reset(data: Mapping[str, Any]) -> ResetRequest:
    """Which episode is asked for; the same fields may also stand in ``options``.

    Raises:
        ProtocolError: a field that is unknown, or has no value of its kind.
    """
    options = data.get("options")
    options = {} if options is None else options
    if not isinstance(options, dict):
        raise ProtocolError(Code.VALIDATION_ERROR, f"options is {shown(options)}, expected a JSON object.")
    _check_keys(options, _FIELDS, "options of 'reset'")
    _check_keys(data, (*_FIELDS, "options"), "the data of 'reset'")
    given = {key: part[key] for part in (options, data) for key in _FIELDS if part.get(key) is not None}
    for name in ("task_id", "split", "episode_id"):
        value = given.get(name, "x")
        if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_ID:
            raise ProtocolError(
                Code.VALIDATION_ERROR, f"{name} is {shown(value)}, expected a text of 1 to {_LONGEST_ID} characters."
            )
    seed = given.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < _LARGEST_SEED:
        raise ProtocolError(
            Code.VALIDATION_ERROR, f"seed is {shown(seed)}, expected a whole number from 0 to {_LARGEST_SEED - 1}."
        )
    return ResetRequest(**given)


_FIELDS = ("task_id", "seed", "split", "episode_id")


def read_command(data: object) -> str:
    """The command of an action, without the thought before it.

    Agents that know nothing of a format of their own send all that they have written: a thought counts to its last
    closing tag, and a command may stand in action tags.

    Raises:
        ProtocolError: it is not an action.
    """
    if not isinstance(data, dict):
        raise ProtocolError(Code.VALIDATION_ERROR, f"the action is {shown(data)}, expected a JSON object.")
    _check_keys(data, ("command", "metadata"), "an action")
    command = data.get("command")
    if not isinstance(command, str):
        found = "missing" if "command" not in data else shown(command)
        raise ProtocolError(Code.VALIDATION_ERROR, f"command is {found}, expected a text.")
    return tagged(command, (), 0).action


def _check_keys(given: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in known:
            raise ProtocolError(
                Code.VALIDATION_ERROR,
                f"{where} has the unknown field {shown(key)}.{did_you_mean(key, known)} Fields: {', '.join(known)}.",
            )


def write_message(kind: str, data: Mapping[str, Any]) -> str:
    """A message to a client."""
    return write_json({"type": kind, "data": data})


def write_error(error: ProtocolError) -> str:
    """The message that tells a client what is wrong."""
    return write_message("error", {"message": error.reason, "code": error.code.value})


def write_json(data: Mapping[str, Any]) -> str:
    """JSON in UTF-8; what UTF-8 cannot hold is replaced."""
    return replace_surrogates(json.dumps(data, ensure_ascii=False, allow_nan=False))


def facts(info: Mapping[str, Any]) -> dict[str, Any]:
    """What of an environment's `info` fits into JSON: texts, finite numbers, truth values, and lists and mappings of
    them. The rest is left out.
    """  # noqa: D205
    return {key: found for key, value in info.items() if (found := _plain(value, 0)) is not _NOTHING}


_NOTHING = object()


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value if math.isfinite(value) and abs(value) < _LARGEST_SEED else _NOTHING
    if isinstance(value, str):
        return value[:_LONGEST_FACT]
    if depth >= _DEEPEST_FACT or not isinstance(value, list | tuple | dict) or len(value) > _LONGEST_FACT:
        return _NOTHING
    if isinstance(value, dict):
        pairs = {key: _plain(item, depth + 1) for key, item in value.items() if isinstance(key, str)}
        return {key: item for key, item in pairs.items() if item is not _NOTHING}
    return [item for item in (_plain(one, depth + 1) for one in value) if item is not _NOTHING]


def schemas(name: str) -> dict[str, Any]:
    """JSON schemas of actions, observations and states of an environment."""
    found: dict[str, Any] = parse_json((files(__package__) / "schemas.json").read_text(encoding="utf-8"))
    found["action"]["description"] = f"One command to the environment '{name}'."
    return found
