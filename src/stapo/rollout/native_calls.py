"""Tools between prompts and models: told in words where a template has no place for them, read as tokenizers say.

A tokenizer may have a `response_template`, which says how its model writes calls, and which transformers reads. Only
one without regular expressions is used: those of a stranger's file can take forever on some text. All other calls are
read by the forms that `stapo.agent.tool_calls` knows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from stapo.agent import Prompt
from stapo.agent.tools import ACT, Tool

_FORM = 'Call one by writing <tool_call>{"name": its name, "arguments": {its arguments}}</tool_call>.'


def hermes_call(name: object, arguments: object) -> str:
    """A call as Hermes' and Qwen's models write it; arguments may be JSON already, or None for none."""
    said = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {said or "{}"}}}\n</tool_call>'


def with_tools_told(prompt: Prompt) -> Prompt:
    """A prompt that tells of its tools in its first message, in words."""
    lines = [json.dumps(tool["function"], ensure_ascii=False) for tool in json.loads(prompt.tools)]
    told = "\n".join(["You have these tools:", *lines, _FORM])
    rewritten = prompt.rewritten
    return replace(
        prompt,
        tools="",
        system=f"{told}\n\n{prompt.system}" if prompt.system else "",
        text=prompt.text if prompt.system else f"{told}\n\n{prompt.text}",
        rewritten=rewritten and (lambda change: with_tools_told(replace(rewritten(change), tools=prompt.tools))),
    )


def native_calls(tokenizer: Any, ids: Sequence[int], prompt: str, tools: Sequence[Tool]) -> str | None:
    """A response with its calls in the form of `hermes_call`; None where transformers does not know how to read it.

    Args:
        tokenizer: of the model.
        ids: of the response.
        prompt: a rendered one, whose end the response goes on from.
        tools: () for the one that takes a command.
    """
    template = getattr(tokenizer, "response_template", None)
    if not isinstance(template, Mapping) or _has_patterns(template):
        return None
    try:
        schemas = [tool.schema for tool in tools or (ACT,)]
        message = tokenizer.parse_response(list(ids), prefix=prompt, tools=schemas)
        calls = [call.get("function", call) for call in message.get("tool_calls") or ()]
        said = [hermes_call(call["name"], call.get("arguments", {})) for call in calls]
        thought = message.get("thinking") or message.get("reasoning_content") or ""
        content = message.get("content") or ""
    except Exception:  # a template that does not fit the text
        return None
    if not said:
        return None  # such a text may hold one in another form
    return (f"<think>{thought}</think>" if thought else "") + "\n".join([content, *said] if content else said)


def _has_patterns(part: Any) -> bool:
    if isinstance(part, Mapping):
        return any("pattern" in str(key) or "regex" in str(key) or _has_patterns(value) for key, value in part.items())
    return isinstance(part, list | tuple) and any(map(_has_patterns, part))
