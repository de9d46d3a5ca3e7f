"""Thoughts: told apart from what was said, kept, and read with the tag that a chat template has opened for them.

A server hands a thought over in a field of its own, in a part of the content, or inside the text, with or without the
tag that its chat template has opened. A thought may quote the tags of the format, a search, another command; the action
is what stands after it.
"""

from __future__ import annotations

import re
from dataclasses import replace

from stapo.agent.config import AgentConfig
from stapo.agent.parsing import ParsedResponse, parse_response
from stapo.agent.tools import Tool

_HELD = re.compile(r"(?:<think>\s*)?</think>\s*\Z|<think>\s*\Z", re.IGNORECASE | re.ASCII)
_THINK_TAG = re.compile(r"<(/?)think>", re.IGNORECASE | re.ASCII)
_FORMAT_TAG = re.compile(r"<(?=/?(think|action|search|answer|information)>)", re.IGNORECASE | re.ASCII)


def thought_length(text: str) -> int:
    """Characters of the thought that a text begins with, tags included; 0 where it begins with none.

    Tags that a thought quotes are counted in pairs. A text may begin inside the thought, whose opening tag was then
    written by the chat template; the thought has to end all the same.
    """
    tags = list(_THINK_TAG.finditer(text))
    closings = sum(bool(tag[1]) for tag in tags)
    if not closings:
        return 0
    begins_outside = bool(tags) and not tags[0][1] and not text[: tags[0].start()].strip()
    if not begins_outside and closings <= len(tags) - closings:
        return 0
    depth = 0 if begins_outside else 1
    for tag in tags:
        depth += -1 if tag[1] else 1
        if depth == 0:
            return tag.end()
    # An opening tag too many is one that the thought names; then its first closing tag ends it.
    return next(tag.end() for tag in tags if tag[1])


def held_thought(prompt: str) -> str:
    """What a rendered prompt holds of the response: the tag of a thought, opened or closed again at once; else "".

    A template that writes the closing tag alone (DeepSeek's, without a thought) has left its opening tag out.
    """
    found = _HELD.search(prompt)
    held = found.group() if found else ""
    return f"<think>{held}" if held.startswith("</") else held


def begins_thought(text: str) -> bool:
    """Whether a text begins with the opening tag of a thought."""
    return text.lstrip()[: len("<think>")].lower() == "<think>"


def opening_of(held: str, text: str) -> str:
    """What a response is read with before it, of what its prompt holds: nothing where it opens a thought itself."""
    return "" if begins_thought(text) else held


def without_held(held: str, text: str) -> str:
    """A response to be demonstrated, without what its prompt holds of it: the tag, or all of a thought."""
    if not held or not begins_thought(text):
        return text
    end = thought_length(text) if "</" in held else 0
    return text[end or text.index(">") + 1 :]


def read_response(
    held: str, text: str, agent: AgentConfig, listed: tuple[str, ...], tools: tuple[Tool, ...] = ()
) -> ParsedResponse:
    """Read a response whose prompt holds something of it.

    A format whose response is a command alone is given what stands behind the thought. A format that hands the thought
    on reads what was written: what the prompt holds stands there already.
    """
    whole = opening_of(held, text) + text
    if agent.keeps_thought or agent.constrained:
        whole = text
    elif held and agent.whole_command:
        whole = whole[thought_length(whole) :]
    return parse_response(whole, agent.response, agent.fallback_characters, listed, tools)


def with_opening_tag(text: str) -> str:
    """The text with the tag that a chat template has opened put back before it."""
    return f"<think>{text}" if thought_length(text) and not begins_thought(text) else text


def parse_spoken(
    thought: str,
    said: str,
    agent: AgentConfig,
    listed: tuple[str, ...],
    apart: bool,
    tools: tuple[Tool, ...] = (),
) -> ParsedResponse:
    """Read a response whose thought is known.

    Args:
        thought: with the tags around it.
        said: what comes after it.
        agent: response format and fallback.
        listed: the commands to choose from, where a number is the answer.
        apart: the server had the thought apart from the text, so that not even what is left of a response without an
            action is taken from it.
        tools: those of the environment.
    """
    quiet = quieted(thought)
    alone = parse_response(said, agent.response, agent.fallback_characters, listed, tools)
    if not agent.has_parts:
        # The transcript that a search agent reads on from holds its thoughts.
        return replace(alone, action=quiet + alone.action) if agent.keeps_thought else alone
    parsed = parse_response(quiet + said, agent.response, agent.fallback_characters, listed)
    return replace(parsed, action=alone.action) if apart and parsed.problem == "no_action_tag" else parsed


def quieted(thought: str) -> str:
    """A thought whose inner tags are tags no more; those around it stay, and so does every thought that quotes none."""
    opened, closed = _THINK_TAG.match(thought.lstrip()), thought.rfind("</")
    if not opened or closed < opened.end():
        return _FORMAT_TAG.sub("< ", thought)
    begin = len(thought) - len(thought.lstrip()) + opened.end()
    return thought[:begin] + _FORMAT_TAG.sub("< ", thought[begin:closed]) + thought[closed:]
