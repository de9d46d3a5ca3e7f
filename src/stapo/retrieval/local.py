"""Retrievers over a corpus of this machine: an engine that ranks rows, and the passages of those rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Sized
from pathlib import Path
from typing import Protocol

from stapo.checks import check_integer
from stapo.errors import IndexFileError
from stapo.retrieval.bm25 import BM25Index
from stapo.retrieval.cache import IndexCache, keep_in_memory
from stapo.retrieval.corpus import Corpus
from stapo.retrieval.protocol import Closing, Passage
from stapo.texts import counted, replace_surrogates

# Where queries are searched for one by one, asking for a few costs nothing.
PORTION = 8


class Engine(Protocol):
    """Ranks the rows of a corpus."""

    def search_many(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        """For each query at most k rows with their scores, the best first."""
        ...


class SizedEngine(Engine, Sized, Protocol):
    """One that knows how many documents it has."""


class CorpusRetriever(Closing):
    """An engine and its corpus.

    Attributes:
        corpus: the passages.
        engine: ranks them.
        portion: how many queries whoever has to be able to stop may ask at once; None where the number matters to the
            engine.
    """

    def __init__(self, corpus: Corpus, engine: Engine, *, portion: int | None = None) -> None:
        self.corpus = corpus
        self.engine = engine
        self.portion = portion

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """For each query at most k passages, the best first.

        Raises:
            ConfigError: k below 1.
            CorpusError: the corpus changed on disk while it was open.
            IndexFileError: the index is damaged.
        """
        check_integer("k", k, 1)
        found = self.engine.search_many([replace_surrogates(query) for query in queries], k)
        try:
            return [[self.corpus.passage(row, score) for row, score in rows] for rows in found]
        except IndexError as err:
            raise IndexFileError(
                f"the index of {self.corpus.path} is damaged: it has no {err}. Build it anew."
            ) from err

    def close(self) -> None:
        """Close the corpus."""
        self.corpus.close()


def open_bm25(
    *, corpus: Path | str, cache: Path | str | None = None, k1: float = 0.9, b: float = 0.4
) -> CorpusRetriever:
    """BM25 over a JSONL corpus; its index is built on first use and kept in the cache.

    Args:
        corpus: the JSONL file.
        cache: folder for indexes; by default `stapo.stored.default_cache()`.
        k1: how soon repeats of a term stop counting.
        b: how much long passages are held back, 0 to 1.

    Raises:
        CorpusError: the corpus cannot be read.
        IndexFileError: the cache cannot be written.
        ConfigError: k1 or b out of range.
    """
    path = Path(corpus)
    if keep_in_memory(path):
        passages = Corpus(path)
        return CorpusRetriever(passages, BM25Index.build(passages.texts(), k1=k1, b=b), portion=PORTION)
    return open_indexed(
        path,
        cache,
        f"bm25-k1_{k1:g}-b_{b:g}",
        lambda texts, folder: BM25Index.build(texts, k1=k1, b=b).save(folder),
        lambda folder, verify: BM25Index.open(folder, verify=verify),
        portion=PORTION,
    )


def open_indexed(
    corpus: Path | str,
    cache: Path | str | None,
    name: str,
    build: Callable[[Iterable[str], Path], None],
    opened: Callable[[Path, bool | None], SizedEngine],
    portion: int | None = None,
) -> CorpusRetriever:
    """A retriever over the index `name` of a corpus: `build` writes it on first use, and it is kept in the cache.

    `opened` opens the index in a folder; its flag says whether hashes are compared (`index_files.read_manifest`).

    Raises:
        CorpusError: the corpus cannot be read.
        IndexFileError: the cache cannot be written.
    """
    store = IndexCache(Path(corpus), cache)
    passages = store.corpus()

    def check(folder: Path) -> None:
        if (found := len(opened(folder, None))) != len(passages):
            raise IndexFileError(
                f"index {folder} is damaged: it holds {counted(found, 'document')}, the corpus "
                f"{counted(len(passages), 'passage')}."
            )

    folder = store.get(name, lambda folder: build(passages.texts(), folder), check)
    return CorpusRetriever(passages, opened(folder, False), portion=portion)
