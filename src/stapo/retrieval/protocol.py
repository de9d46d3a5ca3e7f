"""What a retriever is: questions in, ranked passages out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

_ID_KEYS = ("id", "_id", "docid", "doc_id")


@dataclass(frozen=True, slots=True)
class Passage:
    """One passage that was found.

    Attributes:
        id: its id in the corpus.
        title: title of the article, without quotes; may be empty.
        text: the passage without its title.
        score: larger is better; comparable inside one answer only.
        heading: the first line of its contents as the corpus has it; None stands for the title in quotes.
    """

    id: str
    title: str
    text: str
    score: float = 0.0
    heading: str | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of_contents(cls, identity: str, contents: str, score: float = 0.0) -> Passage:
        """The passage with these contents, which it gives back exactly as they stand.

        The first line is the title, quotes around it go; one line alone is text.
        """
        first, line_feed, text = contents.partition("\n")
        return cls(identity, bare_title(first), text, score, first) if line_feed else cls(identity, "", contents, score)

    @property
    def contents(self) -> str:
        """Title and text in one, as the corpus has them; by default ``"Title"``, a line feed, the text."""
        if self.heading is not None:
            return f"{self.heading}\n{self.text}"
        return f'"{self.title}"\n{self.text}' if self.title else self.text


def bare_title(title: str) -> str:
    """A title on one line, without the quotes around it."""
    title = " ".join(title.splitlines()).strip()
    return title[1:-1] if len(title) > 1 and title[0] == title[-1] == '"' else title


def id_of(document: Mapping[str, Any]) -> str | None:
    """The id of a passage, under any of the names in use; numbers are also ids. None where there is none."""
    for key in _ID_KEYS:
        found = document.get(key)
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if isinstance(found, str | int) and not isinstance(found, bool):
            return str(found)
    return None


@runtime_checkable
class Retriever(Protocol):
    """Finds passages. May be asked from several threads at once.

    `search` raises `stapo.errors.RetrieverError` if the retriever cannot answer, and `ConfigError` for a k below 1.
    """

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """For each query at most k passages, the best first; none for a query that matches nothing."""
        ...

    def close(self) -> None:
        """Let go of files and connections; more than once is fine."""
        ...


class Closing:
    """Makes a retriever usable in a ``with`` block."""

    def close(self) -> None:
        """Let go of files and connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
