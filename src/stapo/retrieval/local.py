"""Retrievers over a corpus of this machine: an engine that ranks rows, and the passages of those rows.

Indexes are built once and found again by the content of their corpus, in
``<cache>/<SHA-256 of the corpus>/<kind and settings>/``: a corpus that changes gets another folder, a renamed or copied
one finds its own again. Of several processes that need the same index one builds it, the others wait.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from stapo.checks import check_integer
from stapo.errors import CorpusError, IndexFileError, reading, writing
from stapo.retrieval.bm25 import BM25Index
from stapo.retrieval.corpus import Corpus, scan
from stapo.retrieval.index_files import INDEXES, open_array, read_manifest, written_whole
from stapo.retrieval.protocol import Closing, Passage
from stapo.stored import CACHE_VARIABLE, VERIFIED_BYTES, default_cache, known_digest
from stapo.texts import counted, replace_surrogates

IN_MEMORY_BYTES = 1 << 20
"""A corpus of at most this size is indexed in memory at each start (in under a second), and nothing is written."""

_VERSION = 1
_PATIENCE = 6 * 3600.0  # an index of 21 million passages takes long; more than this is a process that hangs
_KEPT = replace(INDEXES, room=f" Name another with {CACHE_VARIABLE}.")

# Where queries are searched for one by one, asking for a few costs nothing.
PORTION = 8


class Engine(Sized, Protocol):
    """Ranks the rows of a corpus, as many as its length."""

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
    with reading(f"corpus {path}", CorpusError):
        small = path.stat().st_size <= IN_MEMORY_BYTES
    if small:
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
    opened: Callable[[Path, bool | None], Engine],
    portion: int | None = None,
) -> CorpusRetriever:
    """A retriever over the index `name` of a corpus: `build` writes it on first use, and it is kept in the cache.

    `opened` opens the index in a folder; its flag says whether hashes are compared (`index_files.read_manifest`).

    Raises:
        CorpusError: the corpus cannot be read.
        IndexFileError: the cache cannot be written.
    """
    path, folder = Path(corpus), Path(cache) if cache is not None else default_cache()
    with writing(f"cache {folder}", _KEPT.room, error=IndexFileError):
        folder.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        raise CorpusError(f"corpus {path} is not a file.")
    with reading(f"corpus {path}", CorpusError):
        folder /= known_digest(path, folder)
    passages = _passages(path, folder / "passages")

    def check(index: Path) -> None:
        if (found := len(opened(index, None))) != len(passages):
            raise IndexFileError(
                f"index {index} is damaged: it holds {counted(found, 'document')}, the corpus "
                f"{counted(len(passages), 'passage')}."
            )

    _kept(folder / name, check, lambda index: build(passages.texts(), index))
    return CorpusRetriever(passages, opened(folder / name, False), portion=portion)


def _passages(path: Path, folder: Path) -> Corpus:
    """A corpus, with the places of its passages from the cache."""

    def check(places: Path) -> None:
        read_manifest(places, "passages", _VERSION)
        starts = open_array(places / "starts.npy", np.int64)
        falling = starts.nbytes <= VERIFIED_BYTES and (np.diff(starts) <= 0).any()
        if len(starts) < 2 or starts[0] < 0 or starts[-1] != path.stat().st_size or falling:
            raise IndexFileError(f"index {places} is damaged: its places are not in the corpus.")

    def build(places: Path) -> None:
        starts = scan(path)
        with written_whole(places, "passages", _VERSION, {"passages": len(starts) - 1}) as inside:
            np.save(inside / "starts.npy", starts, allow_pickle=False)

    _kept(folder, check, build)
    return Corpus(path, open_array(folder / "starts.npy", np.int64))


def _kept(folder: Path, check: Callable[[Path], None], build: Callable[[Path], None]) -> None:
    """Let `build` write an index where `check` finds none there that can be used."""
    wrong: list[IndexFileError] = []

    def whole() -> bool:
        try:
            check(folder)
        except IndexFileError as err:
            wrong.append(err)
            return False
        return True

    with _KEPT.lacking(folder, whole, _PATIENCE) as lacks:
        if lacks:
            if folder.exists():
                print(f"note: {wrong[-1]} Building it anew.", file=sys.stderr)
            build(folder)
