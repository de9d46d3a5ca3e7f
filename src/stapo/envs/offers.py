"""Which commands a list of offered commands stands for.

Most offered commands are literal. One with a placeholder in angle brackets, such as ``search[<your query>]``, is a
template: it offers every command that has some text in the placeholder's stead. That text is one line, and not the end
of this command and the beginning of another: ``search[a] click[b]`` is two commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_BRACKET = re.compile(r"[][]")
_PLACEHOLDER = re.compile(r"<[^<>]+>")


def is_template(command: str) -> bool:
    """Whether an offered command has a placeholder that the agent has to fill in."""
    return _PLACEHOLDER.search(command) is not None


def offers(admissible: Iterable[str], command: str) -> bool:
    """Whether `command` is offered: it is in the list, or fills in a template of the list with text that is not blank.

    A template taken literally is not offered: its placeholder is not text of the agent's.
    """
    return any(_fills(command, offer) if is_template(offer) else command == offer for offer in admissible)


def _fills(command: str, template: str) -> bool:
    before, _, after = cut_template(template)
    inner = command[len(before) : len(command) - len(after)]
    return (
        command != template
        and len(command) > len(before) + len(after)
        and command.startswith(before)
        and command.endswith(after)
        and bool(inner.strip())
        and len(command.splitlines()) == 1
        and not (before.endswith("[") and after.startswith("]") and _leaves_brackets(inner))
    )


def _leaves_brackets(inner: str) -> bool:
    """Whether a text that stands in brackets closes them and opens others."""
    depth = 0
    for sign in _BRACKET.finditer(inner):
        depth += 1 if sign[0] == "[" else -1
        if depth < 0:
            return "[" in inner[sign.end() :]
    return False


def cut_template(template: str) -> tuple[str, str, str]:
    """What stands before, in and behind the placeholders of a template, taken together."""
    found = list(_PLACEHOLDER.finditer(template))
    start, end = found[0].start(), found[-1].end()
    return template[:start], template[start:end], template[end:]
