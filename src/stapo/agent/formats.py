"""Response formats for any environment: case, language and length of an action are the agent's own.

Those of the published protocols are in `stapo.agent.parsing` and with their environments. Nothing here raises on any
text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from stapo.agent.parsing import ParsedResponse, write_tagged
from stapo.agent.thoughts import begins_thought, thought_length
from stapo.registry import traits

_OPENING, _CLOSING = (re.compile(f"<{end}action>", re.IGNORECASE | re.ASCII) for end in ("", "/"))


def thought_and_rest(text: str) -> tuple[str, int]:
    """The thought that a text begins with, without its tags, and where what comes after it begins.

    A thought that never ends is all of the text.
    """
    end = thought_length(text)
    if not end:
        return (text.partition(">")[2].strip(), len(text)) if begins_thought(text) else ("", 0)
    inner = text[: text.rindex("<", 0, end)]
    return (inner.partition(">")[2] if begins_thought(inner) else inner).strip(), end


def unfinished(text: str) -> bool:
    """Whether a text is a thought that never ends."""
    return begins_thought(text) and not thought_length(text)


def _spans(text: str) -> dict[str, tuple[int, int]]:
    spans = {}
    end = thought_length(text)
    if end:
        spans["think"] = (text.index(">") + 1 if begins_thought(text) else 0, text.rindex("<", 0, end))
    opening = _OPENING.search(text, end)
    closing = _CLOSING.search(text, opening.end()) if opening else None
    if opening and closing:
        spans["action"] = (opening.end(), closing.start())
    return spans


@traits(
    has_parts=True,
    spans=_spans,
    write=write_tagged,
    write_thought=write_tagged,
    instruction="You may reason about the situation first, inside <think> </think>. Then give exactly one command "
    "inside <action> </action>.",
    reminder="answer <action> </action>",
)
def tagged(text: str, listed: Sequence[str], fallback_characters: int) -> ParsedResponse:
    """A command between action tags, as it was written, behind a thought or without one.

    Tags inside the thought are the thought's. Without action tags, all that stands behind the thought is the action of
    an invalid step; of several commands it is the first.
    """
    thought, end = thought_and_rest(text)
    if unfinished(text):
        return ParsedResponse("", thought, False, "unfinished_thought")
    span = _spans(text).get("action")
    if span is None:
        return ParsedResponse(text[end:].strip(), thought, False, "no_action_tag")
    action = text[slice(*span)].strip()
    if not action:
        return ParsedResponse("", thought, False, "empty_action")
    if _OPENING.search(text, span[1]):
        return ParsedResponse(action, thought, False, "more_than_one_action")
    return ParsedResponse(action, thought, True)
