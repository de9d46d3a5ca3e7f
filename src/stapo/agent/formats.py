"""Response formats for any environment: case, language and length of an action are the agent's own.

Those of the published protocols are in `stapo.agent.parsing` and with their environments. Nothing here raises on any
text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from stapo.agent.parsing import ParsedResponse, write_tagged
from stapo.agent.thoughts import begins_thought, thought_length
from stapo.registry import traits

_OPENING, _CLOSING = (re.compile(f"<{end}action>", re.IGNORECASE | re.ASCII) for end in ("", "/"))


class Thought(NamedTuple):
    """The thought that a text begins with.

    Attributes:
        text: without its tags; all of a text whose thought never ends.
        end: where what comes after it begins.
        unfinished: it never ends.
    """

    text: str
    end: int
    unfinished: bool


def thought_of(text: str) -> Thought:
    """The thought that a text begins with; an empty one where it begins with none."""
    end = thought_length(text)
    if not end:
        opened = begins_thought(text)
        return Thought(text.partition(">")[2].strip(), len(text), True) if opened else Thought("", 0, False)
    inner = text[: text.rindex("<", 0, end)]
    return Thought((inner.partition(">")[2] if begins_thought(inner) else inner).strip(), end, False)


def _spans(text: str) -> dict[str, tuple[int, int]]:
    end = thought_length(text)
    spans = {"think": (text.index(">") + 1 if begins_thought(text) else 0, text.rindex("<", 0, end))} if end else {}
    action = _action_span(text, end)
    return spans | ({"action": action} if action else {})


def _action_span(text: str, end: int) -> tuple[int, int] | None:
    """Where the first command between tags stands, behind a thought that ends at `end`."""
    opening = _OPENING.search(text, end)
    closing = _CLOSING.search(text, opening.end()) if opening else None
    return (opening.end(), closing.start()) if opening and closing else None


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
    thought, end, unfinished = thought_of(text)
    if unfinished:
        return ParsedResponse("", thought, False, "unfinished_thought")
    span = _action_span(text, end)
    if span is None:
        return ParsedResponse(text[end:].strip(), thought, False, "no_action_tag")
    action = text[slice(*span)].strip()
    if not action:
        return ParsedResponse("", thought, False, "empty_action")
    if _OPENING.search(text, span[1]):
        return ParsedResponse(action, thought, False, "more_than_one_action")
    return ParsedResponse(action, thought, True)
