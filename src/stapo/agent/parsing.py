"""Reading a model's response. Nothing here raises on any text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stapo.agent.config import ResponseFormat
from stapo.tags import first_block

_CHINESE = re.compile(r"[\u4e00-\u9fff]")
# Searched in the text itself: lower-casing can change its length, and with it every position.
_TAGS = {tag: re.compile(tag, re.IGNORECASE | re.ASCII) for tag in ("<think>", "</think>", "<action>", "</action>")}
# With an attribute, too; "< action figures >" is text.
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
    """

    action: str
    thought: str
    valid: bool
    problem: str = ""


def parse_response(
    text: str, response_format: ResponseFormat, fallback_characters: int = 30, listed: Sequence[str] = ()
) -> ParsedResponse:
    """Split a response into thought and action; never raises.

    `think_action` follows the field's reference protocol: lower-cased text between the first ``<action>`` and the
    first ``</action>``; without them the last `fallback_characters` are taken and the step is invalid, as it is when
    the think tags are missing or a Chinese character occurs. `action` takes the whole stripped text, which must be
    one non-empty line without think and action tags (other signs are text: ``click[< prev]``). `choice` takes the
    number of one of the commands `listed`, counted from 1. `search_answer` and `search_answer_single` take the text up
    to the first closing tag of a search or an answer, thought included; their rules are those of Search-R1 and of
    verl-agent.
    """
    if response_format in ("search_answer", "search_answer_single"):
        return _parse_search(text, single=response_format == "search_answer_single")
    if response_format == "action":
        return _parse_bare(text)
    if response_format == "choice":
        return _parse_choice(text, listed)
    spans = part_spans(text)
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


def part_spans(text: str) -> dict[str, tuple[int, int]]:
    """Where the thought and the action of a response stand: part -> (start, end), without the tags around it.

    A part reaches from the first opening to the first closing tag; it is missing where one of them is, or where they
    stand the wrong way round.
    """
    spans = {}
    for part in ("think", "action"):
        opening, closing = _TAGS[f"<{part}>"].search(text), _TAGS[f"</{part}>"].search(text)
        if opening and closing and opening.end() <= closing.start():
            spans[part] = (opening.end(), closing.start())
    return spans


def _parse_search(text: str, single: bool) -> ParsedResponse:
    action = text
    for tag in ("</search>", "</answer>"):
        head, found, _ = text.partition(tag)
        if found:
            action = head + found
            break
    think = part_spans(text).get("think")
    thought = text[slice(*think)].strip() if think else ""
    if first_block(action, ("search", "answer"), ignore_case=single) is None:
        return ParsedResponse(action, thought, False, "no_search_or_answer")
    if single:
        searches, answers = (len(re.findall(tag, text, re.IGNORECASE)) for tag in ("<search>", "<answer>"))
        if searches > 1 or answers > 1 or (searches and answers):
            return ParsedResponse(action, thought, False, "more_than_one_action")
    return ParsedResponse(action, thought, True)


def _parse_choice(text: str, listed: Sequence[str]) -> ParsedResponse:
    answer = text.strip()
    # Not isdigit(), which takes numerals of every script, and some that int() cannot read.
    if not _NUMBER.fullmatch(answer):
        return ParsedResponse(answer[:_MAX_ACTION_CHARACTERS], "", False, "no_number")
    number = int(answer)
    if not 1 <= number <= len(listed):
        return ParsedResponse(answer, "", False, "no_such_number")
    return ParsedResponse(listed[number - 1], "", True)


def _parse_bare(text: str) -> ParsedResponse:
    action = text.strip()
    shown = action[:_MAX_ACTION_CHARACTERS]
    if not action:
        return ParsedResponse("", "", False, "empty_action")
    if len(action) > _MAX_ACTION_CHARACTERS:
        return ParsedResponse(shown, "", False, "too_long")
    # Signs are text, "click[< prev]" is a button; a tag of the other format means that the agent mistook the format.
    if len(action.splitlines()) > 1 or _LOOSE_TAG.search(action):
        return ParsedResponse(shown, "", False, "not_one_line")
    return ParsedResponse(action, "", True)
