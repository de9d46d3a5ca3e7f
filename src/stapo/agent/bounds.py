"""Bounds of what an environment may put into a prompt: one endless page must not hold up everybody else's episodes."""

from __future__ import annotations

from collections.abc import Sequence


def cut_text(text: str, characters: int) -> str:
    """A text of so many characters at most, and then a mark that says how much is missing."""
    if len(text) <= characters:
        return text
    return f"{text[:characters]} [… {len(text) - characters:,} characters cut]"


def cut_commands(commands: Sequence[str], number: int, characters: int) -> tuple[str, ...]:
    """The first commands that are so many at most, and have so many characters together at most.

    A command is listed whole or not at all: half of it is another command.
    """
    kept: list[str] = []
    left = characters
    for command in commands:
        if len(kept) == number:
            break
        if len(command) <= left:
            kept.append(command)
            left -= len(command)
    return tuple(kept)
