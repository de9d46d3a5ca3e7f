"""Reading a model's response. Nothing here raises on any text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from stapo.agent.registries import RESPONSE_FORMATS
from stapo.agent.tools import ACT, Tool
from stapo.documents import shown
from stapo.errors import ConfigError
from stapo.registry import trait, traits

_CHINESE = re.compile(r"[\u4e00-\u9fff]")
# Searched in the text itself: lower-casing can change its length, and with it every position.
_TAGS = {tag: re.compile(tag, re.IGNORECASE | re.ASCII) for tag in ("<think>", "</think>", "<action>", "</action>")}
# With an attribute as well; "< action figures >" is text.
_LOOSE_TAG = re.compile(
    r"<[ \t]*(?:/[ \t]*)?(?:think|action)[ \t]*(?:/[ \t]*|(?<=[ \t])[^<>=]*=[^<>]*)?>", re.IGNORECASE | re.ASCII
)
_NUMBER = re.compile(r"[0-9]{1,6}")
_MAX_ACTION_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class ParsedResponse:
    """A response split into its parts.

    Attributes:
        action: the command handed to the environment (also when invalid: the world answers, the step is penalized).
        thought: the reasoning, or "" where there is none.
        valid: the response kept the format.
        problem: "" or a short name of what is wrong, for counting.
        told: what the agent is told of it before it sees what its action led to; "" for nothing. It repeats none of the
            agent's words: they may be those of the goal.
    """

    action: str
    thought: str
    valid: bool
    problem: str = ""
    told: str = ""


class ResponseFormat(Protocol):
    """How a response is read: what `agent.response` names.

    A pure function that raises on no text. Traits (`stapo.registry.traits`): ``write(action, listed)`` returns the
    response that gives a command, for demonstrations (the command itself where there is none);
    ``write_thought(action, listed, thought)`` does so with a thought of the demonstrator; ``instruction`` is the
    sentence that the standard prompt asks for it with, ``reminder`` the line of the compact one, ``rules`` what a
    conversation asks for it with, where that is another sentence; ``numbered`` says that it is the number of a listed
    command; ``has_parts`` that it has a thought and an action between their tags, ``spans(text)`` where they stand, if
    not between the first ones; ``whole_command`` that it is what
    ``write`` returns and nothing else, so that `agent.decode` can be `constrained`; ``keeps_thought`` that the action
    begins with the thought that a server hands over apart; ``calls_tools`` that it is a call of a tool: prompts have
    the environment's tools, which the function is given as a fourth argument.
    """

    def __call__(self, text: str, listed: Sequence[str], fallback_characters: int, /) -> ParsedResponse:
        """Split a response; `listed` are the commands that the prompt shows."""
        ...


def parse_response(
    text: str,
    response_format: str,
    fallback_characters: int = 30,
    listed: Sequence[str] = (),
    tools: Sequence[Tool] = (),
) -> ParsedResponse:
    """Split a response into thought and action.

    Args:
        text: what the model said.
        response_format: name of the format.
        fallback_characters: as in `AgentConfig`.
        listed: the commands that the prompt shows.
        tools: those of the environment, for formats that call them; () for the one that takes a command.

    Raises:
        ConfigError: the format is another package's, and failed or returned something else.
    """
    with RESPONSE_FORMATS.calling(response_format) as read:
        called = (tools or (ACT,),) if trait(read, "calls_tools", False) else ()
        found = read(text, listed, fallback_characters, *called)
    if not isinstance(found, ParsedResponse) or not isinstance(found.action, str):
        raise ConfigError(f"response format '{response_format}' returned {shown(found)}; expected a ParsedResponse.")
    return found


def write_response(action: str, response_format: str, listed: Sequence[str] = (), thought: str = "") -> str:
    """The response that gives a command, for demonstrations: what `parse_response` reads back.

    Args:
        action: the command.
        response_format: name of a response format.
        listed: the commands that the prompt offers.
        thought: the demonstrator's, for a format that can write one; "" where it said none.
    """
    form = RESPONSE_FORMATS.get(response_format)
    with_thought: Callable[[str, Sequence[str], str], str] | None = trait(form, "write_thought", None)
    if thought and with_thought is not None:
        return with_thought(action, listed, thought)
    write: Callable[[str, Sequence[str]], str] | None = trait(form, "write", None)
    return action if write is None else write(action, listed)


def write_tagged(action: str, listed: Sequence[str], thought: str = "I do the next step of my plan.") -> str:
    """A thought and a command, each in its tags."""
    return f"<think>{thought}</think><action>{action}</action>"


@traits(
    has_parts=True,
    write=write_tagged,
    write_thought=write_tagged,
    instruction="First reason about the situation inside <think> </think>, then give exactly one command inside "
    "<action> </action>.",
    reminder="answer <think> </think><action> </action>",
)
def think_action(text: str, listed: Sequence[str], fallback_characters: int) -> ParsedResponse:
    """A thought, and the command behind it: the field's reference protocol, its odd rules included.

    The action is the lower-cased text between the first ``<action>`` and the first ``</action>``, wherever they stand,
    and 1,000 characters of it at most; without them the last `fallback_characters` are taken and the step is invalid,
    as it is when the think tags are missing or a Chinese character occurs.
    """
    spans = _first_tags(text)
    thought = text[slice(*spans["think"])].strip() if "think" in spans else ""
    if "action" not in spans:
        lowered = text.lower()
        # Not stripped, as there: a shop takes no command with blanks before it. Nor `[-fallback_characters:]`, which
        # is everything for 0.
        end = lowered[max(0, len(lowered) - fallback_characters) :]
        return ParsedResponse(end, thought, False, "no_action_tag")
    action = text[slice(*spans["action"])].lower().strip()[:_MAX_ACTION_CHARACTERS]
    if not (_TAGS["<think>"].search(text) and _TAGS["</think>"].search(text)):
        return ParsedResponse(action, thought, False, "no_think_tag")
    if _CHINESE.search(text):
        return ParsedResponse(action, thought, False, "chinese_text")
    if not action:
        return ParsedResponse(action, thought, False, "empty_action")
    return ParsedResponse(action, thought, True)


def part_spans(text: str, response_format: str = "think_action") -> dict[str, tuple[int, int]]:
    """Where the thought and the action of a response stand: part -> (start, end), without the tags around it.

    A part reaches from the first opening to the first closing tag, where the format has no `spans` of its own; it is
    missing where one of them is, or where they stand the wrong way round.
    """
    return trait(RESPONSE_FORMATS.get(response_format), "spans", _first_tags)(text)


def _first_tags(text: str) -> dict[str, tuple[int, int]]:
    spans = {}
    for part in ("think", "action"):
        opening, closing = _TAGS[f"<{part}>"].search(text), _TAGS[f"</{part}>"].search(text)
        if opening and closing and opening.end() <= closing.start():
            spans[part] = (opening.end(), closing.start())
    return spans


def _number_of(action: str, listed: Sequence[str]) -> str:
    return str(list(listed).index(action) + 1)


@traits(
    numbered=True,
    whole_command=True,
    write=_number_of,
    instruction="Answer with the number of exactly one command and nothing else.",
)
def choice(text: str, listed: Sequence[str], fallback_characters: int) -> ParsedResponse:
    """The number of one of the commands listed, counted from 1."""
    answer = text.strip()
    # Not isdigit(), which takes numerals of every script, and some that int() cannot read.
    if not _NUMBER.fullmatch(answer):
        return ParsedResponse(answer, "", False, "no_number")
    number = int(answer)
    if not 1 <= number <= len(listed):
        return ParsedResponse(answer, "", False, "no_such_number")
    return ParsedResponse(listed[number - 1], "", True)


@traits(whole_command=True)
def action(text: str, listed: Sequence[str], fallback_characters: int) -> ParsedResponse:
    """The command alone: one line that is not empty, without think and action tags.

    Other signs are text, such as those of a button with an arrow.
    """
    said = text.strip()
    if not said:
        return ParsedResponse("", "", False, "empty_action")
    # A tag of the other format means that the agent mistook the format.
    if len(said.splitlines()) > 1 or _LOOSE_TAG.search(said):
        return ParsedResponse(said, "", False, "not_one_line")
    return ParsedResponse(said, "", True)
