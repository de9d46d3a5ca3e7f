"""Pages with links: which command follows which link, and a page with its links numbered.

The text modes of web worlds part a page by `SEPARATOR`; the command ``click[x]`` follows the part that says x.
"""

from __future__ import annotations

from collections.abc import Sequence

from stapo.agent.marking import MARK, covers, first_mention

SEPARATOR = " [SEP] "
_CLICK = "click["


def in_page_order(commands: Sequence[str], page: str) -> tuple[str, ...]:
    """Commands in the order in which a page has their links; those of no link keep their order, behind the others."""
    places: dict[str, int] = {}
    for place, part in enumerate(page.split(SEPARATOR)):
        places.setdefault(part.strip().casefold(), place)
    return tuple(sorted(commands, key=lambda command: places.get(_link(command) or "", len(places))))


def number_links(page: str, commands: Sequence[str], goal: str | None) -> tuple[str, frozenset[int], list[int]]:
    """Put the numbers of commands, from 1, in front of their links: what is chosen stands beside what tells of it.

    Args:
        page: the page; words in it may be marked.
        commands: in the order of their numbers.
        goal: decides which links are asked for; None asks for none.

    Returns:
        the page, the indices of the commands whose links it has, and the numbers of the links of which the goal has
        every word, in the order in which it names them.
    """
    numbers: dict[str, int] = {}
    for index, command in enumerate(commands):
        link = _link(command)
        if link is not None:
            numbers.setdefault(link, index)
    parts, found = page.split(SEPARATOR), set[int]()
    asked: list[tuple[int, int]] = []
    for place, part in enumerate(parts):
        said = part.strip().casefold()
        link = said if said in numbers else said.replace(MARK, "")
        if link in numbers:
            index = numbers.pop(link)
            found.add(index)
            parts[place] = f"[{index + 1}] {part}"
            if goal is not None and covers(goal, part):
                asked.append((first_mention(goal, part), index + 1))
    return SEPARATOR.join(parts), frozenset(found), [number for _, number in sorted(asked)]


def _link(command: str) -> str | None:
    return command[len(_CLICK) : -1].casefold() if command.startswith(_CLICK) and command.endswith("]") else None
