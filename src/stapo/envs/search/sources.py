"""Which questions are played and what is searched, from the options of the environment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from stapo.checks import check_number, user_path
from stapo.envs.overlap import plain_text
from stapo.envs.search.loading import overlap_notes, read_questions
from stapo.envs.search.questions import QuestionSet, digest_of
from stapo.envs.search.world import generate_world
from stapo.errors import ConfigError, GameFileError
from stapo.retrieval.bm25 import BM25Index
from stapo.retrieval.http_client import HttpOptions
from stapo.retrieval.opening import check_sources, is_address, open_retriever
from stapo.retrieval.protocol import Closing, Passage, Retriever

Paths = str | os.PathLike[str] | Sequence[str] | None


def open_questions(questions: Paths, *, heldout: float, size: str, seed: int) -> QuestionSet:
    """The questions to play.

    Args:
        questions: None for a generated world, else files.
        heldout: share of the training questions that are taken out of it into a split "heldout", by their content.
        size: of the generated world.
        seed: of the generated world.

    Raises:
        ConfigError: an option that cannot be used.
        GameFileError: questions that cannot be read.
    """
    heldout = check_number("heldout", heldout, 0, 1, open_high=True)
    if questions is None:
        return _generated_questions(size, seed)
    paths = tuple(_paths(questions))
    return _read(paths, _stamps(paths), heldout)


def open_search(
    questions: Paths,
    corpus: str | os.PathLike[str] | None,
    retriever: str,
    *,
    request: str,
    seconds: float,
    size: str,
    seed: int,
) -> Retriever:
    """What answers searches: the passages of the generated world, of a corpus, or a server.

    Args:
        questions: None for a generated world, whose passages are searched where no corpus is given.
        corpus: file of passages.
        retriever: name, or address of a server.
        request: how a server is asked, "batch" or "single".
        seconds: for one search of a server, with every further try.
        size: of the generated world.
        seed: of the generated world.

    Raises:
        ConfigError: a retriever that cannot be used here.
        UnknownNameError: no such retriever.
        CorpusError: passages that cannot be read.
    """
    if not isinstance(retriever, str) or not retriever:
        raise ConfigError(f"retriever must be a name or an address, found {retriever!r}.")
    check_sources(retriever, corpus)
    path = None if corpus is None else user_path(corpus)
    if path is not None and not path.exists():
        raise GameFileError(f"corpus '{path}' does not exist; expected a .jsonl file with a passage per line.")
    if path is None and questions is None and retriever == "bm25":
        return _world_search(size, seed)
    if path is None and not is_address(retriever):
        raise ConfigError(
            f"retriever '{retriever}' needs passages to search: give env.corpus a .jsonl file, or env.retriever the "
            "address of a server."
        )
    if is_address(retriever):
        return _server(retriever, request, seconds)
    return _opened(retriever, str(path), _stamps([str(path)]))


def _paths(questions: str | os.PathLike[str] | Sequence[str]) -> list[str]:
    if isinstance(questions, str):
        return [part.strip() for part in questions.split(",") if part.strip()]
    if isinstance(questions, os.PathLike):
        return [os.fspath(questions)]
    if isinstance(questions, Sequence) and questions and all(isinstance(part, str) for part in questions):
        return list(questions)
    raise ConfigError(f"questions must be a path, several, or None, found {questions!r}.")


def _stamps(paths: Sequence[str]) -> tuple[object, ...]:
    """Change when a file changed, so that an edited file is read again."""
    found: list[object] = []
    for given in paths:
        path = user_path(given)
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.exists():
                found.append((str(file.resolve()), file.stat().st_mtime_ns, file.stat().st_size))
    return tuple(found)


# Environments of one process share what they read: a group of eight costs no more than one.
@lru_cache(maxsize=4)
def _read(paths: tuple[str, ...], stamps: tuple[object, ...], heldout: float) -> QuestionSet:
    found = read_questions(paths)
    if not heldout:
        return found
    every = [found.question(i) for i in found.tasks]
    # A text that is another's but for case, blanks and final marks goes where the first of them goes.
    spelled: dict[str, str] = {}
    for question in every:
        plain = plain_text(question.text)
        spelled[plain] = min(question.text, spelled.get(plain, question.text))
    parted = [
        replace(q, split="heldout") if q.split == "train" and _position(spelled[plain_text(q.text)]) < heldout else q
        for q in every
    ]
    odd = [text for text in found.notes if text not in overlap_notes(every)]
    return QuestionSet(parted, [*odd, *overlap_notes(parted)])


def _position(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: the same text is never on both sides."""
    return int(digest_of(text, ()), 16) / 16**12


@lru_cache(maxsize=4)
def _generated_questions(size: str, seed: int) -> QuestionSet:
    return QuestionSet(generate_world(size, seed).questions)


@lru_cache(maxsize=4)
def _world_search(size: str, seed: int) -> Retriever:
    return WorldSearch(generate_world(size, seed).passages)


@lru_cache(maxsize=4)
def _opened(retriever: str, corpus: str, stamps: tuple[object, ...]) -> Retriever:
    return open_retriever(retriever, corpus=Path(corpus))


@lru_cache(maxsize=4)
def _server(address: str, request: str, seconds: float) -> Retriever:
    return open_retriever(address, shape=request, total_s=seconds, read_s=min(seconds, HttpOptions().read_s))


class WorldSearch(Closing):
    """BM25 over passages that are in memory.

    Args:
        passages: (id, title, text) of each.
    """

    def __init__(self, passages: Sequence[tuple[str, str, str]]) -> None:
        self._passages = [Passage(*passage) for passage in passages]
        self._index = BM25Index.build(passage.contents for passage in self._passages)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """For each query at most k passages, the best first. Raises ConfigError for a k below 1."""
        return [
            [replace(self._passages[row], score=score) for row, score in rows]
            for rows in self._index.search_many(queries, k)
        ]
