"""Documents of OpenAI-compatible servers: what the model wrote, or why there is nothing that it wrote.

What a filter, a refusal or a call of a tool leaves without text is the server's failure and not an empty answer of the
policy, and has a name of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from stapo.agent.thoughts import thought_length, with_opening_tag
from stapo.documents import parse_json
from stapo.rollout.native_calls import hermes_call
from stapo.server_errors import ErrorReply, one_line, refusal_in, refusal_of
from stapo.texts import replace_surrogates

Api = Literal["chat", "completions"]

CHARACTERS_OF_A_TOKEN = 128
"""No token in use is longer; what a server sends beyond it has not kept the limit."""

_FILTERED = ("content_filter", "content_filtered", "sensitive", "safety", "blocked", "blocklist", "prohibited_content",
             "recitation", "spii", "guardrail_intervened", "guardrails", "image_safety")  # fmt: skip
_BROKEN = ("error", "network_error", "insufficient_system_resource", "abort", "aborted", "cancelled", "canceled",
           "failed", "timeout", "malformed_function_call", "backend_error")  # fmt: skip
_CUT = ("length", "max_tokens", "max_length", "model_length", "model_context_window_exceeded", "max_output_tokens",
        "context_length", "token_limit", "incomplete")  # fmt: skip
_ENDED = ("", "stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed", "refusal", "tool_calls",
          "function_call", "tool_use", "end", "done", "finished")  # fmt: skip
_THOUGHT_FIELDS = (
    "reasoning_content",
    "reasoning",
    "reasoning_text",
    "thinking",
    "thinking_blocks",
    "reasoning_details",
    "thought",
)
_THOUGHT_KEYS = ("thinking", "reasoning", "text", "content", "summary", "thought")
_DEEPEST = 8


class Unanswered(ValueError):
    """A document without a response.

    Attributes:
        kind: for counting: "malformed", "oversized", "content_filter", "refusal", "tool_calls", "rate_limit" or
            "provider_error".
        passes: another try may help.
    """

    def __init__(self, message: str, kind: str = "malformed", passes: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.passes = passes


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote.

    Attributes:
        thought: the thought that it begins with, in think tags; "" for none.
        said: what comes after it.
        ended: the model ended it by itself.
        apart: the thought came apart from the text.
        cut: more came than the limit on its length allows.
        stop: the stop text that the server ended it at, and has left out; "" for none, None of a server that never
            says so.
    """

    thought: str
    said: str
    ended: bool
    apart: bool = False
    cut: bool = False
    stop: str | None = None

    @property
    def text(self) -> str:
        """The whole response, as the model wrote it."""
        return self.thought + self.said


def read_message(
    data: bytes, api: Api, most_tokens: int | None = None, cut: bool = False, tools: bool = False
) -> Answer:
    """Read an answer.

    Args:
        data: the document.
        api: "chat" or "completions".
        most_tokens: limit that was sent with the request; a text far beyond it is cut.
        cut: only the beginning of the document is there.
        tools: some were offered; calls that the server hands over apart are written behind the text.

    Raises:
        Unanswered: there is no response in it; the message goes on after "answered with".
    """
    try:
        document = parse_json(_completed(data) if cut else data)
    except ValueError as err:
        if cut:
            raise Unanswered(f"more than {len(data) >> 10} KiB, and no text at their beginning.", "oversized") from err
        raise Unanswered(f"something that is not JSON, expected a chat completion ({err}).") from err
    _raise(refusal_in(document))
    chat, where = api == "chat", "choices[0].message" if api == "chat" else "choices[0].text"
    try:
        choices = document["choices"]
        choice = choices[0]
        if choice.get("error"):
            _raise(refusal_of(choice["error"], choice))
        message = choice.get("message", choice.get("delta"))
        # Servers that know one of the two forms answer in it whatever was asked for.
        bare = "text" in choice and (message is None or not chat)
        said = choice if bare else message
        given = said["text"] if bare else said.get("content")
        fields = {
            key: said.get(key) or choice.get(key)
            for key in (*_THOUGHT_FIELDS, "refusal", "tool_calls", "function_call", "error")
        }
        reason = next(filter(None, (choice.get(key) for key in ("finish_reason", "finish_details", "stop_reason"))), "")
    except (LookupError, TypeError, AttributeError) as err:
        if _filtered(document, "prompt_filter_results"):
            raise Unanswered("no choices: a filter of the server held the prompt back.", "content_filter") from err
        raise Unanswered(f"a document without {where}. Is this the address of an OpenAI-compatible API?") from err
    text, thought, refused, called = _content(given)
    if fields["error"]:
        _raise(refusal_of(fields["error"], choice))
    calls = _calls(fields["tool_calls"]) if tools else ""
    text = f"{text}\n{calls}".lstrip("\n") if calls else text
    thought = thought or next(filter(None, (_thought(fields[key]) for key in _THOUGHT_FIELDS)), "")
    why = "content_filter" if not text and _filtered(choice, "content_filter_results") else _reason(reason)
    _check(why, text, refused or fields["refusal"], called or fields["tool_calls"] or fields["function_call"])
    found = _answer(replace_surrogates(text), replace_surrogates(thought), why not in _CUT, most_tokens, cut)
    return replace(found, stop=_stop(choice))


def _answer(text: str, thought: str, ended: bool, most_tokens: int | None, cut: bool) -> Answer:
    most = None if most_tokens is None else most_tokens * CHARACTERS_OF_A_TOKEN
    cut = cut or (most is not None and (len(text) > most or len(thought) > most))
    text, thought = text[:most], thought[:most]
    text = with_opening_tag(text)
    length = thought_length(text)
    if length or not thought:
        return Answer(text[:length], text[length:], ended and not cut, False, cut)
    return Answer(f"<think>{thought}</think>", text, ended and not cut, True, cut)


def _stop(choice: Mapping[str, Any]) -> str | None:
    """The stop text that ended a choice: `stop_reason` of vLLM, `matched_stop` of SGLang; a token there is none."""
    for key in ("stop_reason", "matched_stop"):
        if key in choice:
            return choice[key] if isinstance(choice[key], str) else ""
    return None


def _calls(found: Any) -> str:
    """Calls of tools in the form of `hermes_call`; anything else is left out."""
    called = [call.get("function", call) for call in found if isinstance(call, Mapping)] if type(found) is list else []
    named = [call for call in called if isinstance(call, Mapping) and isinstance(call.get("name"), str)]
    return "\n".join(hermes_call(call["name"], call.get("arguments")) for call in named)


def _check(why: str, text: str, refused: Any, called: Any) -> None:
    """Raise for what has no text of the model's, or not all of it, through no choice of the policy."""
    if why in _BROKEN:
        raise Unanswered(f"finish_reason '{why}': the model's server broke off.", "provider_error", True)
    if why in _FILTERED:
        raise Unanswered(f"finish_reason '{why}': a filter of the server held the text back.", "content_filter")
    if text.strip():
        return
    if why == "refusal" or (isinstance(refused, str) and refused.strip()):
        said = one_line(refused) if isinstance(refused, str) else ""
        raise Unanswered("a refusal in the place of a text" + (f": {said}" if said else "."), "refusal")
    if called or why in ("tool_calls", "function_call", "tool_use"):
        raise Unanswered("a call of a tool and no text; no tool was offered.", "tool_calls")
    if why not in (*_ENDED, *_CUT):
        raise Unanswered(f"finish_reason '{one_line(why)}' and no text.", "provider_error")


def _raise(refusal: ErrorReply | None) -> None:
    if refusal is not None:
        said = f" It says: {refusal.reason}" if refusal.reason else " It gives no reason."
        raise Unanswered(f"status 200 and an error inside.{said}", refusal.kind, refusal.passes)


def _filtered(document: Any, key: str) -> bool:
    """Whether the results of a server's filters, in the form of Azure, name one that held something back."""
    found = document.get(key) if isinstance(document, Mapping) else None
    return bool(found) and '"filtered": true' in json.dumps(found)


def _reason(found: Any) -> str:
    """The reason for the end in lower case; "" for none. Some servers wrap it into an object."""
    if isinstance(found, Mapping):
        found = found.get("type")
    return found.lower() if isinstance(found, str) else ""


def _content(found: Any) -> tuple[str, str, Any, bool]:
    """Text, thought, refusal and whether a tool is called, of content in any of its forms.

    Raises:
        Unanswered: it has none of these forms.
    """
    if found is None or isinstance(found, str):
        return found or "", "", None, False
    parts = found.get("parts", [found]) if isinstance(found, Mapping) else found
    if not isinstance(parts, list):
        raise Unanswered("content that is not text.")
    texts, thoughts, refused, called = [], [], None, False
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping):
            kind = str(part.get("type", "text")).lower()
            if part.get("thought") is True or any(word in kind for word in ("think", "reason", "thought", "summary")):
                thoughts.append(_thought(part))
            elif "refusal" in kind:
                refused = refused or part.get("refusal") or part.get("text")
            elif "tool" in kind or "function" in kind:
                called = True
            else:
                texts.append(_text(part.get("text", part.get("content"))))
        elif part is not None:
            raise Unanswered("content that is not text.")
    text, thought = "".join(texts), "\n".join(filter(None, thoughts))
    if not (text or thought or refused or called or any(_is_empty_text(part) for part in parts or [""])):
        raise Unanswered("content that is not text.")
    return text, thought, refused, called


def _is_empty_text(part: Any) -> bool:
    """Whether a part could hold text and holds none: the model's empty answer, not a picture or a sound."""
    return not part or (isinstance(part, Mapping) and any(key in part and not part[key] for key in ("text", "content")))


def _text(found: Any) -> str:
    if isinstance(found, Mapping):
        found = found.get("value")
    return found if isinstance(found, str) else ""


def _thought(found: Any, depth: int = 0) -> str:
    """The text of a thought in any of its forms, "" for none."""
    if isinstance(found, str):
        return found
    if depth > _DEEPEST:
        return ""
    if isinstance(found, list):
        return "\n".join(filter(None, (_thought(part, depth + 1) for part in found)))
    if isinstance(found, Mapping):
        return next((text for key in _THOUGHT_KEYS if (text := _thought(found.get(key), depth + 1))), "")
    return ""


def _completed(data: bytes) -> bytes:
    """The beginning of a JSON document, with what it has opened closed, so that it can be read."""
    text = data.decode("utf-8", "ignore")
    open_, quoted, escape, until = list[str](), False, 0, 0
    for i, c in enumerate(text):
        if quoted:
            if i < until:
                # \uXXXX has six characters, every other escape two.
                until = escape + 6 if c == "u" and i == escape + 1 else until
            elif c == "\\":
                escape, until = i, i + 2
            elif c == '"':
                quoted = False
        elif c == '"':
            quoted = True
        elif c in "{[":
            open_.append("}" if c == "{" else "]")
        elif c in "}]" and open_:
            open_.pop()
    if quoted:
        text = (text[:escape] if until > len(text) else text) + '"'
    return (text + "".join(reversed(open_))).encode()
