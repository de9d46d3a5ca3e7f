"""Indexes that were built once, found again by the content of their corpus.

``<cache>/<SHA-256 of the corpus>/<kind and settings>/``: a corpus that changes gets another folder, a renamed or copied
one finds its own again. Of several processes that need the same index one builds it, the others wait.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from stapo.errors import CorpusError, IndexFileError, reading, writing
from stapo.retrieval.corpus import Corpus, scan
from stapo.retrieval.index_files import open_array, read_manifest, written_whole
from stapo.stored import CACHE_VARIABLE, VERIFIED_BYTES, Manifest, default_cache, known_digest, turn

IN_MEMORY_BYTES = 1 << 20
"""A corpus of at most this size is indexed in memory at each start (in under a second), and nothing is written."""

_VERSION = 1
_PATIENCE = 6 * 3600.0  # an index of 21 million passages takes long; more than this is a process that hangs


def keep_in_memory(corpus: Path) -> bool:
    """Whether a corpus is small enough to be indexed at each start."""
    with reading(f"corpus {corpus}", CorpusError):
        return corpus.stat().st_size <= IN_MEMORY_BYTES


class IndexCache:
    """The indexes of one corpus.

    Attributes:
        path: the corpus file.
        folder: where its indexes are.
    """

    def __init__(self, corpus: Path, cache: Path | str | None = None) -> None:
        """Find the folder of a corpus. Reads the whole file, unless it is known by path, size and time of change.

        Raises:
            CorpusError: the corpus cannot be read.
            IndexFileError: the cache cannot be written.
        """
        self.path = corpus
        self._cache = Path(cache) if cache is not None else default_cache()
        with writing(f"cache {self._cache}", f" Name another with {CACHE_VARIABLE}.", error=IndexFileError):
            self._cache.mkdir(parents=True, exist_ok=True)
        self.folder = self._cache / self._digest()

    def _digest(self) -> str:
        if not self.path.is_file():
            raise CorpusError(f"corpus {self.path} is not a file.")
        with reading(f"corpus {self.path}", CorpusError):
            return known_digest(self.path, self._cache)

    def corpus(self) -> Corpus:
        """The corpus, with the places of its passages from the cache.

        Raises:
            CorpusError: a line is not a passage.
            IndexFileError: the cache cannot be written.
        """

        def build(folder: Path) -> None:
            starts = scan(self.path)
            with written_whole(folder, Manifest("passages", _VERSION, {"passages": len(starts) - 1})) as inside:
                np.save(inside / "starts.npy", starts, allow_pickle=False)

        def check(folder: Path) -> None:
            read_manifest(folder, "passages", _VERSION)
            starts = open_array(folder / "starts.npy", np.int64)
            size = self.path.stat().st_size
            falling = starts.nbytes <= VERIFIED_BYTES and (np.diff(starts) <= 0).any()
            if len(starts) < 2 or starts[0] < 0 or starts[-1] != size or falling:
                raise IndexFileError(f"index {folder} is damaged: its places are not in the corpus.")

        folder = self.get("passages", build, check)
        return Corpus(self.path, open_array(folder / "starts.npy", np.int64))

    def get(self, name: str, build: Callable[[Path], None], check: Callable[[Path], object]) -> Path:
        """Folder of an index; builds it if it is missing, damaged or of another version.

        Args:
            name: kind and settings; names the folder.
            build: writes the index, whole or not at all.
            check: raises IndexFileError for an index that cannot be used.

        Raises:
            IndexFileError: the cache cannot be written.
        """
        folder = self.folder / name
        with ExitStack() as stack:
            with writing(f"cache {self.folder}", f" Name another with {CACHE_VARIABLE}.", error=IndexFileError):
                self.folder.mkdir(parents=True, exist_ok=True)
                held = stack.enter_context(turn(self.folder / f".{name}.lock", _PATIENCE))
            if not held:
                raise IndexFileError(
                    f"another process has been building '{folder}' for {_PATIENCE / 3600:.0f} hours. "
                    f"Stop it, or name another cache with {CACHE_VARIABLE}."
                )
            if folder.exists():
                try:
                    check(folder)
                    return folder
                except IndexFileError as err:
                    print(f"note: {err} Building it anew.", file=sys.stderr)
            build(folder)
        return folder
