"""How the commands and pages of a world look, as far as prompts are concerned: what an environment says of itself.

With it, lists of commands are shortened, and pages are shown with their links numbered. Whatever it says, what it puts
into a prompt is bounded: one endless page must not hold up everybody else's episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stapo.agent.marking import MARK, covers, first_mention
from stapo.agent.tools import Tool


@dataclass(frozen=True)
class CommandShapes:
    """Shapes of an environment's commands and pages; without any, prompts list commands as they are.

    Attributes:
        grouped: beginnings that many commands share; compact prompts write each of them once.
        distant: beginnings of commands that lead elsewhere; short prompts of demonstrations leave them out.
        link: beginning and end of the command that follows the link whose text stands between them; ("", "") for none.
        query: beginning and end of a command with words of the agent's own between them; ("", "") for none.
        separator: what stands between the parts of a page.
        place: where an agent acts, for the sentence that tells it its role: "in a text world"; "" says nothing of it.
        tools: what the response format `tool_call` offers; without any, one tool takes a command as text.
        choice_hint: what to set where no complete command is offered and a response is the number of one: a sentence
            for the error; "" for none.
    """

    grouped: tuple[str, ...] = ()
    distant: tuple[str, ...] = ()
    link: tuple[str, str] = ("", "")
    query: tuple[str, str] = ("", "")
    separator: str = "\n"
    place: str = ""
    tools: tuple[Tool, ...] = ()
    choice_hint: str = ""

    def __post_init__(self) -> None:
        lists = (self.grouped, self.distant, self.link, self.query)
        texts = all(isinstance(part, tuple) and all(isinstance(text, str) for text in part) for part in lists)
        if not texts or not len(self.link) == len(self.query) == 2 or not self.separator:
            raise ValueError(
                f"{self} has a part that is not a tuple of texts, or no beginning and end, or no separator."
            )
        names = [tool.name for tool in self.tools if isinstance(tool, Tool)]
        if not (isinstance(self.place, str) and isinstance(self.choice_hint, str)) or len(set(names)) < len(self.tools):
            raise ValueError(
                f"{self} has a place or a hint that is not a text, or tools that are not `Tool`s with different names."
            )

    def link_of(self, command: str) -> str | None:
        """The link that a command follows, in lower case; None where it follows none."""
        begin, end = self.link
        follows = begin and command.startswith(begin) and command.endswith(end)
        return command[len(begin) : len(command) - len(end)].casefold() if follows else None

    def without_query(self, command: str) -> str:
        """A command without the words that the agent chose itself: they repeat the goal that it was given."""
        begin, end = self.query
        return f"{begin}…{end}" if begin and command.startswith(begin) and command.endswith(end) else command

    def in_groups(self, commands: Sequence[str]) -> list[str]:
        """One command a line, but beginnings that many share once, behind the others."""
        lines = [command for command in commands if not command.startswith(self.grouped)]
        for begin in self.grouped:
            rest = [command[len(begin) :] for command in commands if command.startswith(begin)]
            lines += [begin + " ".join(rest)] if rest else []
        return lines


NO_SHAPES = CommandShapes()


def in_page_order(commands: Sequence[str], page: str, shapes: CommandShapes) -> tuple[str, ...]:
    """Commands in the order in which a page has their links; those of no link keep their order, behind the others."""
    places: dict[str, int] = {}
    for place, part in enumerate(page.split(shapes.separator)):
        places.setdefault(part.strip().casefold(), place)
    return tuple(sorted(commands, key=lambda command: places.get(shapes.link_of(command) or "", len(places))))


def number_links(
    page: str, commands: Sequence[str], goal: str | None, shapes: CommandShapes
) -> tuple[str, frozenset[int], list[int]]:
    """Put the numbers of commands, from 1, in front of their links: what is chosen stands beside what tells of it.

    Args:
        page: the page; words in it may be marked.
        commands: in the order of their numbers.
        goal: decides which links are asked for; None asks for none.
        shapes: how commands follow links.

    Returns:
        the page, the indices of the commands whose links it has, and the numbers of the links of which the goal has
        every word, in the order in which it names them.
    """
    numbers: dict[str, int] = {}
    for index, command in enumerate(commands):
        link = shapes.link_of(command)
        if link is not None:
            numbers.setdefault(link, index)
    parts, found = page.split(shapes.separator), set[int]()
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
    return shapes.separator.join(parts), frozenset(found), [number for _, number in sorted(asked)]


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
