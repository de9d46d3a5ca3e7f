"""The response format `tool_call`: a call of one of the environment's tools, in the form that the model has learned.

Three forms are read, of which the first is also the one that transformers' and servers' findings are written in:
Hermes' and Qwen's ``<tool_call>{"name": …, "arguments": …}</tool_call>``, the tags of Qwen3-Coder
(``<function=name><parameter=key>value</parameter></function>``, alone or between those), and Llama's bare JSON with
``parameters``. Nothing here raises on any text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stapo.agent.formats import thought_of
from stapo.agent.parsing import ParsedResponse
from stapo.agent.tools import ACT, Tool, read_call, write_call
from stapo.registry import traits

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_FUNCTION = re.compile(r"\s*<function=([^<>\n]{1,200})>")
_PARAMETER = re.compile(r"\s*<parameter=([^<>\n]{1,200})>")
_MARKS = re.compile(r"\s*(?:<\|python_tag\|>|\[TOOL_CALLS\])?\s*")
_BETWEEN = re.compile(r"[\s;,]*(?:<\|eom_id\|>|<\|eot_id\|>)?\s*")
_JSON = json.JSONDecoder(strict=False)


class _Unreadable(ValueError):
    """What is wrong with a call, said to the model that wrote it; none of its own words."""


def _write(action: str, listed: Sequence[str], thought: str = "") -> str:
    said = action if read_call(action) else write_call(ACT.name, {"command": action})
    return (f"<think>{thought}</think>" if thought else "") + f"{_OPEN}\n{said}\n{_CLOSE}"


@traits(
    calls_tools=True,
    write=_write,
    write_thought=_write,
    instruction="Call exactly one of your tools.",
    reminder="call one tool",
)
def tool_call(
    text: str, listed: Sequence[str], fallback_characters: int, tools: Sequence[Tool] = (ACT,)
) -> ParsedResponse:
    """A call of a tool, behind a thought or without one, and whatever is said beside it.

    The action is the call as one line of JSON, or, where the environment has no tools of its own, the command that the
    one tool was called with. What cannot be read is an invalid step, and the agent is told why.
    """
    thought, end, unfinished = thought_of(text)
    if unfinished:
        return ParsedResponse("", thought, False, "unfinished_thought", "Error: the response ended inside its thought.")
    names = ", ".join(tool.name for tool in tools)
    try:
        calls = list(_calls(text[end:]))
        if not calls:
            return ParsedResponse(
                text[end:].strip(), thought, False, "no_tool_call", f"Error: no tool was called. Call one of: {names}."
            )
        name, given = calls[0]
        tool = next((tool for tool in tools if tool.name == name), None)
        if tool is None:
            return ParsedResponse(
                write_call(name, given if isinstance(given, Mapping) else {}), thought, False, "unknown_tool",
                f"Error: there is no such tool. Call one of: {names}.",
            )  # fmt: skip
        arguments = _arguments(tool, given)
    except (_Unreadable, RecursionError) as err:
        why = str(err) if isinstance(err, _Unreadable) else "it is nested too deep"
        told = f"Error: the tool call cannot be read: {why}."
        return ParsedResponse(text[end:].strip(), thought, False, "unreadable_call", told)
    action = str(arguments["command"]) if tools[0] is ACT else write_call(name, arguments)
    if len(calls) > 1:
        told = f"Only the first of {len(calls)} tool calls was made: call one at a time."
        return ParsedResponse(action, thought, False, "more_than_one_call", told)
    return ParsedResponse(action, thought, True)


def _calls(said: str) -> Iterator[tuple[str, Any]]:
    """Names and arguments of the calls in a text; the arguments of tags are texts (`_Tags`)."""
    if _OPEN in said:
        at = said.find(_OPEN)
        while at >= 0:
            end = said.find(_CLOSE, at)
            if end < 0:
                raise _Unreadable("it has no closing tag")
            inner = said[at + len(_OPEN) : end]
            yield _tags(inner) if _FUNCTION.match(inner) else _from_json(_whole(inner))
            at = said.find(_OPEN, end)
    elif "<function=" in said:
        yield _tags(said[said.index("<function=") :])
    else:
        at = _MARKS.match(said).end()  # type: ignore[union-attr]
        if said[at : at + 1] not in ("{", "["):
            return
        while at < len(said):
            try:
                value, at = _JSON.raw_decode(said, at)
            except ValueError as err:
                raise _Unreadable(_where(err)) from None
            yield from map(_from_json, value if isinstance(value, list) else [value])
            at = _BETWEEN.match(said, at).end()  # type: ignore[union-attr]


def _whole(text: str) -> Any:
    """The JSON value that a text is; line ends in its strings are the model's way to write them."""
    try:
        value, end = _JSON.raw_decode(text.strip())
    except ValueError as err:
        raise _Unreadable(_where(err)) from None
    if text.strip()[end:].strip():
        raise _Unreadable("something follows the JSON object")
    return value


def _where(err: ValueError) -> str:
    return f"not JSON, {err.msg} at character {err.pos}" if isinstance(err, json.JSONDecodeError) else "not JSON"


def _from_json(call: Any) -> tuple[str, Any]:
    if isinstance(call, dict) and isinstance(call.get("function"), dict):
        call = call["function"]
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise _Unreadable("expected a JSON object with name and arguments")
    given = call.get("arguments", call.get("parameters", {}))
    return call["name"], _whole(given) if isinstance(given, str) else {} if given is None else given


class _Tags(dict[str, str]):
    """Arguments whose values stood between tags, as text."""


def _tags(text: str) -> tuple[str, Any]:
    head = _FUNCTION.match(text)
    close = text.rfind("</function>")
    if head is None or close < head.end():
        raise _Unreadable("it has no closing tag")
    inner, given, at = text[head.end() : close], _Tags(), 0
    if inner.lstrip().startswith("{"):  # Llama's form with a schema of one's own
        return head[1].strip(), _whole(inner)
    while found := _PARAMETER.match(inner, at):
        end = inner.find("</parameter>", found.end())
        if end < 0:
            raise _Unreadable("a parameter has no closing tag")
        # One line end on each side belongs to the tags.
        given[found[1].strip()] = inner[found.end() : end].removeprefix("\n").removesuffix("\n")
        at = end + len("</parameter>")
    if inner[at:].strip():
        raise _Unreadable("something stands between its parameters")
    return head[1].strip(), given


def _arguments(tool: Tool, given: Any) -> dict[str, Any]:
    """The arguments of a call, those between tags by the tool's schema."""
    if not isinstance(given, dict):
        raise _Unreadable("its arguments are not a JSON object")
    if isinstance(given, _Tags):
        given = {key: _value(text, tool.properties.get(key)) for key, text in given.items()}
    lacks = [name for name in tool.parameters.get("required", ()) if name not in given]
    if lacks:
        raise _Unreadable(f"it lacks the argument {', '.join(map(str, lacks))}")
    return dict(given)


def _value(text: str, schema: Any) -> Any:
    """A text as what its schema says; the text itself where it does not fit."""
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    kinds = {"integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}
    expected = kinds.get(kind) if isinstance(kind, str) else None
    if expected is None:
        return text
    try:
        value = json.loads(text.strip().lower() if kind == "boolean" else text)
    except (ValueError, RecursionError):
        return text
    wrong = not isinstance(value, expected) or (isinstance(value, bool) and kind != "boolean")  # type: ignore[arg-type]
    return text if wrong else value
