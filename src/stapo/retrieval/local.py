"""Retrievers over a corpus of this machine: an engine that ranks rows, and the passages of those rows."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Protocol

from stapo.errors import IndexFileError
from stapo.retrieval.bm25 import BM25Index
from stapo.retrieval.cache import IndexCache, keep_in_memory
from stapo.retrieval.corpus import Corpus
from stapo.retrieval.protocol import Closing, Passage, check_k
from stapo.texts import counted, replace_surrogates

# Where queries are searched for one by one, asking for a few costs nothing.
_PORTION = 8


class Engine(Protocol):
    """Ranks the rows of a corpus."""

    def search_many(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        """For each query at most k rows with their scores, the best first."""
        ...


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
        check_k(k)
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
        return CorpusRetriever(passages, BM25Index.build(passages.texts(), k1=k1, b=b), portion=_PORTION)
    store = IndexCache(path, cache)
    passages = store.corpus()
    folder = store.get(
        f"bm25-k1_{k1:g}-b_{b:g}",
        build=lambda folder: BM25Index.build(passages.texts(), k1=k1, b=b).save(folder),
        check=lambda folder: check_size(BM25Index.open(folder), passages, folder),
    )
    return CorpusRetriever(passages, BM25Index.open(folder, verify=False), portion=_PORTION)


def check_size(index: Sized, passages: Corpus, folder: Path) -> None:
    """Raise IndexFileError unless an index has as many documents as its corpus has passages."""
    if len(index) != len(passages):
        raise IndexFileError(
            f"index {folder} is damaged: it holds {counted(len(index), 'document')}, the corpus "
            f"{counted(len(passages), 'passage')}."
        )
