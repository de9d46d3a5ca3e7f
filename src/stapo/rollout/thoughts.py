"""Thoughts of models behind servers: told apart from what was said, kept, and never read as commands.

A server hands a thought over in a field of its own, in a part of the content, or inside the text, with or without the
tag that its chat template has opened. A thought may quote the tags of the format, a search, another command; the action
is what stands after it.
"""

from __future__ import annotations

import re
from dataclasses import replace

from stapo.agent import AgentConfig, ParsedResponse, parse_response

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


def with_opening_tag(text: str) -> str:
    """The text with the tag that a chat template has opened put back before it."""
    length = thought_length(text)
    opened = _THINK_TAG.match(text.lstrip())
    return f"<think>{text}" if length and not (opened and not opened[1]) else text


def parse_spoken(thought: str, said: str, agent: AgentConfig, listed: tuple[str, ...], apart: bool) -> ParsedResponse:
    """Read a response whose thought is known.

    Args:
        thought: with the tags around it.
        said: what comes after it.
        agent: response format and fallback.
        listed: the commands to choose from, where a number is the answer.
        apart: the server had the thought apart from the text, so that not even what is left of a response without an
            action is taken from it.
    """
    quiet = quieted(thought)
    alone = parse_response(said, agent.response, agent.fallback_characters, listed)
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
