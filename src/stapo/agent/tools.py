"""Tools: what an environment lets a model call by name, in the form that chat templates are given."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True)
class Tool:
    """A function that a model may call.

    Attributes:
        name: 1 to 64 letters, digits, underscores, dots and hyphens.
        description: what it does, in a sentence.
        parameters: of its arguments, the JSON schema of an object.

    Raises:
        ValueError: a part of it is of another kind.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}}, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name) or not isinstance(self.description, str):
            raise ValueError(f"{self.name!r} is not a tool's name, or its description is not a text.")
        required = self.parameters.get("required", []) if isinstance(self.parameters, Mapping) else None
        if not isinstance(required, list | tuple) or not isinstance(self.properties, Mapping):
            raise ValueError(f"the parameters of tool '{self.name}' are not the JSON schema of an object.")
        try:
            json.dumps(self.schema)
        except (TypeError, ValueError) as err:
            raise ValueError(f"the parameters of tool '{self.name}' are not JSON: {err}.") from err

    @property
    def properties(self) -> Mapping[str, Any]:
        """The schema of each argument."""
        found: Mapping[str, Any] = self.parameters.get("properties", {})
        return found

    @property
    def schema(self) -> dict[str, Any]:
        """What a chat template and a server are given."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


ACT = Tool(
    "act",
    "Give the next command.",
    {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
)
"""The one tool of an environment that has none of its own; what it is called with is the command."""


def tools_text(tools: Sequence[Tool]) -> str:
    """Tools as one JSON text, for prompts."""
    return json.dumps([tool.schema for tool in tools], ensure_ascii=False)


def write_call(name: str, arguments: Mapping[str, Any]) -> str:
    """A call as an action of an environment: one line of JSON with `name` and `arguments`."""
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


def read_call(action: str) -> tuple[str, dict[str, Any]] | None:
    """Name and arguments of an action that `write_call` wrote; None for any other text."""
    try:
        call = json.loads(action)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or set(call) != {"name", "arguments"}:
        return None
    name, arguments = call["name"], call["arguments"]
    return (name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None
