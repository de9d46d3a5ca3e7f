"""Passages on disk: read by place in the file, never all at once.

A corpus is a JSONL file with an object per line that has ``id`` and ``contents``, which is the title in quotes, a line
feed and the text, as in Search-R1's; further keys are ignored. What is kept in memory is a map of the places where the
lines start: 21 million passages cost no memory to speak of, and any number of processes share the pages they read.
"""

from __future__ import annotations

import json
import os
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stapo.errors import CorpusError
from stapo.retrieval.protocol import Passage, split_contents

_EXPECTED = 'expected {"id": "0", "contents": "\\"Title\\"\\ntext"} on every line'


class Line(NamedTuple):
    """What one line of a corpus says."""

    id: str
    contents: str


def parse_line(raw: bytes, name: str, number: int) -> Line:
    """Read one line.

    Args:
        raw: the line.
        name: the file, for messages.
        number: number of the line, from 1.

    Raises:
        CorpusError: not JSON, no contents, or no id; with the number of the line.
    """
    try:
        record = json.loads(raw)
    except ValueError as err:
        raise CorpusError(f"corpus {name}, line {number}: no JSON ({err}); {_EXPECTED}.") from None
    if not isinstance(record, dict):
        raise CorpusError(f"corpus {name}, line {number}: a {type(record).__name__}; {_EXPECTED}.")
    contents, identity = record.get("contents"), record.get("id")
    if not isinstance(contents, str) or not contents.strip():
        found = "no 'contents'" if contents is None else f"'contents' is {str(contents)[:40]!r}"
        raise CorpusError(f"corpus {name}, line {number}: {found}; {_EXPECTED}.")
    if not isinstance(identity, str | int) or isinstance(identity, bool):
        raise CorpusError(f"corpus {name}, line {number}: no 'id'; {_EXPECTED}.")
    return Line(str(identity), contents)


def scan(path: Path) -> np.ndarray:
    """Check every line of a corpus; blank lines are passed over.

    Returns:
        where each passage starts, and the end of the file, shape (passages + 1,), int64. A blank line belongs to the
        passage before it.

    Raises:
        CorpusError: the file cannot be read, a line is no passage, or there is none.
    """
    starts, place = array("q"), 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if raw.strip():
                    parse_line(raw, str(path), number)
                    starts.append(place)
                place += len(raw)
    except OSError as err:
        raise CorpusError(f"corpus {path} cannot be read: {err.strerror or err}.") from err
    if not starts:
        raise CorpusError(f"corpus {path} has no passage; {_EXPECTED}.")
    starts.append(place)
    return np.frombuffer(starts, np.int64)


class Corpus:
    """The passages of a file, by number from 0.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path | str, starts: np.ndarray | None = None) -> None:
        """Open a corpus.

        Args:
            path: JSONL file.
            starts: what `scan` returned for this file; without it the file is scanned now.

        Raises:
            CorpusError: the file cannot be read, or is no corpus.
        """
        self.path = Path(path)
        self._starts = scan(self.path) if starts is None else starts
        self._closing = threading.Lock()
        try:
            self._descriptor: int | None = os.open(self.path, os.O_RDONLY)
        except OSError as err:
            raise CorpusError(f"corpus {path} cannot be read: {err.strerror or err}.") from err

    def __len__(self) -> int:
        return len(self._starts) - 1

    def line(self, i: int) -> Line:
        """Id and contents of passage i.

        Raises:
            CorpusError: the file has changed since it was scanned, or the corpus is closed.
            IndexError: no such passage.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"passage {i} of {len(self)}")
        if self._descriptor is None:
            raise CorpusError(f"corpus {self.path} is closed.")
        start, end = int(self._starts[i]), int(self._starts[i + 1])
        raw = os.pread(self._descriptor, end - start, start)
        try:
            return parse_line(raw, str(self.path), i + 1)
        except CorpusError as err:
            raise CorpusError(f"{err} The file may have changed since its index was built; open it anew.") from err

    def passage(self, i: int, score: float = 0.0) -> Passage:
        """Passage i, with a score; raises as `line` does."""
        found = self.line(i)
        return Passage(found.id, *split_contents(found.contents), score)

    def texts(self) -> Iterator[str]:
        """Title and text of every passage in order, reading the file from start to end."""
        name = str(self.path)
        with self.path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if raw.strip():
                    yield parse_line(raw, name, number).contents

    def close(self) -> None:
        """Close the file; more than once is fine."""
        with self._closing:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
