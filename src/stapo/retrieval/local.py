"""Retrievers over a corpus of this machine: an engine that ranks rows, and the passages of those rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from stapo.retrieval.bm25 import BM25Index
from stapo.retrieval.cache import IndexCache, keep_in_memory
from stapo.retrieval.corpus import Corpus
from stapo.retrieval.protocol import Closing, Passage, check_k


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
    """

    def __init__(self, corpus: Corpus, engine: Engine) -> None:
        self.corpus = corpus
        self.engine = engine

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """For each query at most k passages, the best first.

        Raises:
            ConfigError: k below 1.
            CorpusError: the corpus changed on disk while it was open.
        """
        check_k(k)
        found = self.engine.search_many(queries, k)
        return [[self.corpus.passage(row, score) for row, score in rows] for rows in found]

    def close(self) -> None:
        """Close the corpus."""
        self.corpus.close()


def open_bm25(
    *, corpus: Path | str, cache: Path | str | None = None, k1: float = 0.9, b: float = 0.4
) -> CorpusRetriever:
    """BM25 over a JSONL corpus; its index is built on first use and kept in the cache.

    Args:
        corpus: the JSONL file.
        cache: folder for indexes; by default `stapo.retrieval.cache.default_cache()`.
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
        return CorpusRetriever(passages, BM25Index.build(passages.texts(), k1=k1, b=b))
    store = IndexCache(path, cache)
    passages = store.corpus()
    folder = store.get(
        f"bm25-k1_{k1:g}-b_{b:g}",
        build=lambda folder: BM25Index.build(passages.texts(), k1=k1, b=b).save(folder),
        check=lambda folder: BM25Index.open(folder),
    )
    return CorpusRetriever(passages, BM25Index.open(folder, verify=False))
