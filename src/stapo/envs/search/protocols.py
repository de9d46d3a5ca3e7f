"""The two published ways to search: how actions are read, how results are worded, when an episode ends.

`search-r1` is the protocol of Search-R1 (arXiv 2503.09516): four turns with searches and a last one in which a search
is ignored. `stepwise` is verl-agent's: four turns, each with its own prompt; a search in the last ends the episode
unanswered. Nothing here raises on any text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from stapo.retrieval.protocol import Passage
from stapo.texts import first_block

ActionKind = Literal["search", "answer", "invalid"]

_TOKEN = re.compile(r"\w+|[^\w\s]")
_OPENING = re.compile("<(?:search|answer)>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Act:
    """An action as a protocol reads it.

    Attributes:
        kind: what it asks for.
        text: the query, or the answer; "" where it is neither.
        valid: it kept the form. One that did not may still search or answer.
    """

    kind: ActionKind
    text: str
    valid: bool


@dataclass(frozen=True)
class SearchProtocol:
    """One published setting.

    Attributes:
        max_steps: turns of an episode.
        read: an action's text to what it asks for.
        results: a page of passages to the text that the agent sees.
        page: passages to a page.
        written: a response to what is scored of it.
        invalid: what an invalid action is answered with.
        request: how its search server is asked, several queries at once ("batch") or one ("single").
        result_tokens: words and marks of a result that are shown at most, or None.
    """

    max_steps: int
    read: Callable[[str], Act]
    results: Callable[[str], str]
    page: Callable[[Sequence[Passage]], str]
    written: Callable[[str], str]
    invalid: str
    request: str
    result_tokens: int | None


def cut_response(text: str) -> str:
    """What comes after the first ``</search>`` falls away, or, without one, after the first ``</answer>``."""
    for tag in ("</search>", "</answer>"):
        head, found, _ = text.partition(tag)
        if found:
            return head + found
    return text


def is_single(text: str) -> bool:
    """Whether a text has at most one opening tag of a search or an answer, whatever its case."""
    return len(_OPENING.findall(text)) <= 1


def read_search_r1(text: str) -> Act:
    """The first search or answer block of the cut response decides; without one the turn is wasted."""
    block = first_block(cut_response(text), ("search", "answer"))
    if block is None:
        return Act("invalid", "", False)
    return Act("search" if block.kind == "search" else "answer", block.text.strip(), True)


def read_stepwise(text: str) -> Act:
    """A search block of the cut response, else an answer block; tags of both kinds, or one twice, are invalid.

    What is invalid in this way still counts as the search or answer it holds.
    """
    cut = cut_response(text)
    # A search anywhere goes before an answer.
    block = first_block(cut, ("search",), ignore_case=True) or first_block(cut, ("answer",), ignore_case=True)
    if block is not None:
        return Act("search" if block.kind == "search" else "answer", block.text.strip(), is_single(text))
    return Act("invalid", "", False)


def project_stepwise(text: str) -> tuple[str, bool]:
    """verl-agent's projection: the action that is left of a response, and whether the response was valid."""
    act = read_stepwise(text)
    return ("" if act.kind == "invalid" else f"<{act.kind}>{act.text}</{act.kind}>"), act.valid


def page_search_r1(passages: Sequence[Passage]) -> str:
    """The passages of a result, one block each, with the title in brackets: the first line as the corpus has it."""
    lines = [passage.contents.partition("\n") for passage in passages]
    return "\n".join(f"Doc {i}(Title: {title.strip()}) {text}" for i, (title, _, text) in enumerate(lines, start=1))


def page_stepwise(passages: Sequence[Passage]) -> str:
    """The passages of a result, one block each, with the title on a line of its own."""
    return "\n".join(f"Doc {i}: {p.contents}" for i, p in enumerate(passages, start=1))


def frame_search_r1(page: str) -> str:
    """A result between its tags, with the blank lines that the growing transcript has around it."""
    return f"\n\n<information>{page.strip()}</information>\n\n"


def frame_stepwise(page: str) -> str:
    """A result as a JSON document between its tags."""
    return f"<information>{json.dumps({'result': page}, ensure_ascii=False)}</information>"


def shorten(page: str, tokens: int | None, characters: int | None) -> str:
    """Cut a page to so many words and marks, and to so many characters; None does not cut.

    The published limit counts tokens of a model, which an environment does not know. A word or a mark is about one;
    models have somewhat more.
    """
    if tokens is not None:
        ends = (match.end() for match in _TOKEN.finditer(page))
        kept = 0
        for number, end in enumerate(ends, start=1):
            if number > tokens:
                page = page[:kept]
                break
            kept = end
    return page if characters is None else page[:characters]


PROTOCOLS = {
    "search-r1": SearchProtocol(
        max_steps=5,
        read=read_search_r1,
        results=frame_search_r1,
        page=page_search_r1,
        written=cut_response,
        invalid=(
            "\nMy previous action is invalid. A query has to stand between <search> and </search>, the final answer "
            "between <answer> and </answer>. Let me try again.\n"
        ),
        request="batch",
        result_tokens=500,
    ),
    "stepwise": SearchProtocol(
        max_steps=4,
        read=read_stepwise,
        results=frame_stepwise,
        page=page_stepwise,
        written=lambda text: project_stepwise(text)[0],
        invalid="",
        request="single",
        result_tokens=None,
    ),
}
