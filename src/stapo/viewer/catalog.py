"""The runs that may be looked at, by name.

A request names a run, and the name is looked up here: no part of a request ever becomes a part of a path.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from stapo.errors import RunDirectoryError, did_you_mean
from stapo.run import RunDirectory
from stapo.run.folders import RunSummary, read_folder, run_folders, summed
from stapo.run.lock import is_held

T = TypeVar("T")

_MOST_RUNS = 20_000
_FRESH_S = 1.5
"""Seconds that a list of runs is used again; every open page asks for it, every two seconds."""
_READING_S = 1.0
"""Seconds that runs are read for one answer. Those behind are listed as "reading" and follow with the next ones."""


@dataclass(frozen=True)
class CatalogEntry:
    """A run or comparison with the name that requests use."""

    name: str
    found: RunSummary


class Catalog:
    """Runs and comparisons at or below some folders.

    Args:
        tops: run folders, or folders that hold runs.
        clock: seconds, for how old a list is.
    """

    def __init__(self, tops: Sequence[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._tops = list(tops)
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[str, CatalogEntry] = {}
        self._found: ReadCache[RunSummary] = ReadCache(_MOST_RUNS)
        self._read_at = -float("inf")

    def entries(self) -> list[CatalogEntry]:
        """All runs and comparisons, in the order of the folders and of their names."""
        with self._lock:
            if self._clock() - self._read_at > _FRESH_S:
                self._entries = self._read()
                self._read_at = self._clock()
            return list(self._entries.values())

    def entry(self, name: str) -> CatalogEntry:
        """The run or comparison of this name.

        Raises:
            RunDirectoryError: there is none.
        """
        found = self._entries.get(name)
        if found is None:
            names = [entry.name for entry in self.entries()]
            found = self._entries.get(name)
            if found is None:
                raise RunDirectoryError(f"there is no run '{name}' here.{did_you_mean(name, names)}")
        return found

    def run(self, name: str) -> RunDirectory:
        """The run of this name.

        Raises:
            RunDirectoryError: there is none, or its folder cannot be read (damaged, links in the place of files).
        """
        return RunDirectory.open(self.entry(name).found.folder)

    def status(self, name: str) -> str:
        """How the run of this name is doing now."""
        found = self.entry(name).found
        return self._read_again(found.folder, found.kind).status

    def _read_again(self, folder: Path, kind: str, until: float = float("inf")) -> RunSummary:
        files = (folder / name for name in ("run.json", "config.yaml", "compare.json", "metrics.jsonl", "evals.jsonl"))
        state = (*state_of(*files), is_held(folder))
        if not self._found.has(folder, state) and self._clock() > until:
            return RunSummary(folder=folder, kind=kind, status="reading")
        return self._found.get(folder, state, lambda: read_folder(folder, kind, sized=False))

    def _read(self) -> dict[str, CatalogEntry]:
        entries: dict[str, CatalogEntry] = {}
        until = self._clock() + _READING_S
        for top in self._tops:
            whole = top.resolve()
            for found in summed([self._read_again(folder, kind, until) for folder, kind in run_folders(top)]):
                below = found.folder.resolve().relative_to(whole).as_posix()
                # The folder that was asked for need not be told when it is the only one.
                name = whole.name if below == "." else below if len(self._tops) == 1 else f"{whole.name}/{below}"
                while name in entries and entries[name].found.folder.resolve() != found.folder.resolve():
                    name += "'"
                entries[name] = CatalogEntry(name, found)
        return entries


class ReadCache(Generic[T]):
    """The newest few results of reading files, each as long as its file stays the same.

    Args:
        most: results that are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Any, tuple[Any, T]] = OrderedDict()
        self._lock = threading.Lock()

    def has(self, key: Any, state: Any) -> bool:
        """Whether `get` would not have to read."""
        with self._lock:
            known = self._kept.get(key)
            return known is not None and known[0] == state

    def get(self, key: Any, state: Any, read: Callable[[], T]) -> T:
        """The result for `key`, read anew when `state` is another one than before."""
        with self._lock:
            known = self._kept.get(key)
            if known is not None and known[0] == state:
                self._kept.move_to_end(key)
                return known[1]
        result = read()
        with self._lock:
            self._kept[key] = (state, result)
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return result


def state_of(*paths: Path) -> tuple[tuple[int, int, int] | None, ...]:
    """What changes whenever one of the files does: inode, size and time of each, None where there is none."""
    states: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            facts = path.lstat()
            states.append((facts.st_ino, facts.st_size, facts.st_mtime_ns))
        except OSError:
            states.append(None)
    return tuple(states)
