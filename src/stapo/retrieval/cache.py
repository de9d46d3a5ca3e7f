"""Indexes that were built once, found again by the content of their corpus.

``<cache>/<SHA-256 of the corpus>/<kind and settings>/``: a corpus that changes gets another folder, a renamed or copied
one finds its own again. Of several processes that need the same index one builds it, the others wait.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from stapo.errors import CorpusError, IndexFileError
from stapo.retrieval.corpus import Corpus, content_digest, scan
from stapo.retrieval.index_files import Manifest, open_array, read_manifest, written_whole

CACHE_VARIABLE = "STAPO_CACHE"

IN_MEMORY_BYTES = 1 << 20
"""A corpus of at most this size is indexed in memory at each start (in under a second), and nothing is written."""

_VERSION = 1
_PATIENCE = 6 * 3600.0  # an index of 21 million passages takes long; more than this is a process that hangs
_PAUSE = 0.1


def default_cache() -> Path:
    """`$STAPO_CACHE`, or `stapo` in the user's cache folder."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "stapo"


def keep_in_memory(corpus: Path) -> bool:
    """Whether a corpus is small enough to be indexed at each start."""
    try:
        return corpus.stat().st_size <= IN_MEMORY_BYTES
    except OSError as err:
        raise CorpusError(f"corpus {corpus} cannot be read: {err.strerror or err}.") from err


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
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise IndexFileError(
                f"cache {self._cache} cannot be written: {err.strerror or err}. Name another with {CACHE_VARIABLE}."
            ) from err
        self.folder = self._cache / self._digest()

    def _digest(self) -> str:
        facts = self.path.stat() if self.path.exists() else None
        if facts is None or not self.path.is_file():
            raise CorpusError(f"corpus {self.path} is no file.")
        known = self._cache / "known-corpora.json"
        key = f"{self.path.resolve()}|{facts.st_size}|{facts.st_mtime_ns}|{facts.st_ino}"
        record: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            read = json.loads(known.read_text(encoding="utf-8"))
            record = read if isinstance(read, dict) else {}
        found = record.get(key)
        if isinstance(found, str) and len(found) == 64:
            return found
        digest = content_digest(self.path)
        # A note that spares reading; that another process's note gets lost costs one more reading.
        with suppress(OSError):
            temporary = known.with_name(f".{known.name}.{os.getpid()}")
            temporary.write_text(json.dumps({**record, key: digest}, indent=1), encoding="utf-8")
            temporary.replace(known)
        return digest

    def corpus(self) -> Corpus:
        """The corpus, with the places of its passages from the cache.

        Raises:
            CorpusError: a line is no passage.
            IndexFileError: the cache cannot be written.
        """

        def build(folder: Path) -> None:
            starts = scan(self.path)
            with written_whole(folder, Manifest("passages", _VERSION, {"passages": len(starts) - 1})) as inside:
                np.save(inside / "starts.npy", starts, allow_pickle=False)

        folder = self.get("passages", build, lambda folder: read_manifest(folder, "passages", _VERSION))
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
        with self._locked(name):
            if folder.exists():
                try:
                    check(folder)
                    return folder
                except IndexFileError as err:
                    print(f"note: {err} Building it anew.", file=sys.stderr)
            build(folder)
        return folder

    def _wait_for(self, descriptor: int, name: str) -> None:
        """Take the lock, once the process that builds the same index has let go of it."""
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as err:
                if time.monotonic() > end:
                    raise IndexFileError(
                        f"another process has been building '{self.folder / name}' for {_PATIENCE / 3600:.0f} hours. "
                        f"Stop it, or name another cache with {CACHE_VARIABLE}."
                    ) from err
            time.sleep(_PAUSE)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / f".{name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as err:
            raise IndexFileError(
                f"cache {self.folder} cannot be written: {err.strerror or err}. Name another with {CACHE_VARIABLE}."
            ) from err
        try:
            self._wait_for(descriptor, name)
            yield
        finally:
            os.close(descriptor)
