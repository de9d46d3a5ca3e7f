"""Passages on disk: read by place in the file, never all at once.

A corpus is a JSONL file with an object per line that has ``id`` and ``contents``, which is the title in quotes, a line
feed and the text, as in Search-R1's, or ``id``, ``title`` and ``text``; further keys are ignored. What is kept in
memory is a map of the places where the lines start: 21 million passages cost no memory to speak of, and any number of
processes share the pages they read.
"""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stapo.documents import compression_of, parse_json, read_lines
from stapo.errors import CorpusError, reading
from stapo.progress import tell
from stapo.retrieval.protocol import Passage, bare_title, id_of
from stapo.texts import replace_surrogates

MOST_LINE_BYTES = 8 << 20
"""Bytes of a line; a long novel has 3 MB, a passage a thousandth of that."""

_EXPECTED = (
    'expected {"id": "0", "contents": "\\"Title\\"\\ntext"} or {"id": "0", "title": "Title", "text": "text"} '
    "on every line"
)
_TOLD = 1_000  # passages between two words about the progress
_BOM = b"\xef\xbb\xbf"
_UNPACK = {".gz": "gzip -d", ".xz": "xz -d", ".bz2": "bzip2 -d", ".zst": "zstd -d"}


def parse_line(raw: bytes, name: str, number: int) -> Passage:
    """The passage of one line, whose contents are title and text in one.

    Raises:
        CorpusError: not JSON, no contents, or no id; with the number of the line.
    """
    try:
        record = parse_json(raw)
    except ValueError as err:
        raise CorpusError(f"corpus {name}, line {number}: no JSON ({err}); {_EXPECTED}.") from None
    if not isinstance(record, dict):
        raise CorpusError(f"corpus {name}, line {number}: a {type(record).__name__}; {_EXPECTED}.")
    contents, identity = record.get("contents"), replace_surrogates(id_of(record) or "")
    if contents is None and record.get("text") is not None:
        title, text = _title_of(record, name, number), _text_of(record, "text", name, number)
        found = Passage(identity, title, text)
        if not title and not text.strip():
            raise CorpusError(f"corpus {name}, line {number}: neither title nor text; {_EXPECTED}.")
    elif contents is None:
        raise CorpusError(f"corpus {name}, line {number}: no 'contents'; {_EXPECTED}.")
    else:
        contents = _text_of(record, "contents", name, number)
        if not contents.strip():
            raise CorpusError(f"corpus {name}, line {number}: 'contents' is {contents[:40]!r}; {_EXPECTED}.")
        found = Passage.of_contents(identity, contents)
    if id_of(record) is None:
        raise CorpusError(f"corpus {name}, line {number}: no 'id'; {_EXPECTED}.")
    return found


def _text_of(record: dict[str, Any], key: str, name: str, number: int) -> str:
    found = record[key]
    if isinstance(found, str):
        return replace_surrogates(found)
    # Whatever is nested in it may be too deep or too long to be spelt out.
    shown = repr(str(found)[:40]) if isinstance(found, int | float) else f"a {type(found).__name__}"
    raise CorpusError(f"corpus {name}, line {number}: '{key}' is {shown}; {_EXPECTED}.")


def _title_of(record: dict[str, Any], name: str, number: int) -> str:
    found = record.get("title")
    if isinstance(found, int | float) and not isinstance(found, bool):
        found = str(found)
    return "" if found is None else bare_title(_text_of({"title": found}, "title", name, number))


def _passages(path: Path) -> Iterator[tuple[int, bytes, Passage | None]]:
    """Number, bytes and passage of every line, None for a blank one.

    Raises:
        CorpusError: the file cannot be read, or a line is not a passage.
    """
    try:
        with reading(f"corpus {path}", CorpusError):
            compressed = compression_of(path)
            if compressed:
                raise CorpusError(
                    f"corpus {path} is compressed, and passages are looked up by their place in the file; unpack it "
                    f"first: {_UNPACK[compressed]} {path}"
                )
            for number, raw in read_lines(path, MOST_LINE_BYTES):
                blank = not (raw.removeprefix(_BOM) if number == 1 else raw).strip()
                yield number, raw, None if blank else parse_line(raw, str(path), number)
    except CorpusError:
        raise
    except ValueError as err:
        raise CorpusError(f"corpus {path}, {err}; {_EXPECTED}.") from None


def scan(path: Path) -> np.ndarray:
    """Check every line of a corpus; blank lines are passed over.

    Returns:
        where each passage starts, and the end of the file, shape (passages + 1,), int64. A blank line belongs to the
        passage before it.

    Raises:
        CorpusError: the file cannot be read, a line is not a passage, or there is none.
    """
    starts, place = array("q"), 0
    for number, raw, found in _passages(path):
        if found is not None:
            starts.append(place)
        place += len(raw)
        if number % _TOLD == 0:
            tell("reading the corpus (bytes)", place, path.stat().st_size)
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
            CorpusError: the file cannot be read, or is not a corpus.
        """
        self.path = Path(path)
        self._starts = scan(self.path) if starts is None else starts
        self._closing = threading.Lock()
        with reading(f"corpus {path}", CorpusError):
            self._descriptor: int | None = os.open(self.path, os.O_RDONLY)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def passage(self, i: int, score: float = 0.0) -> Passage:
        """Passage i, with a score.

        Raises:
            CorpusError: the file has changed since it was scanned, or the corpus is closed.
            IndexError: no such passage.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"passage {i} of {len(self)}")
        if self._descriptor is None:
            raise CorpusError(f"corpus {self.path} is closed.")
        start, end = int(self._starts[i]), int(self._starts[i + 1])
        # Blank lines that follow belong to the passage, however many.
        size = max(0, min(end - start, MOST_LINE_BYTES)) if start >= 0 else 0
        try:
            raw = os.pread(self._descriptor, size, start) if size else b""
            return replace(parse_line(raw.partition(b"\n")[0], str(self.path), i + 1), score=score)
        except (CorpusError, OSError, OverflowError) as err:
            raise CorpusError(f"{err} The file may have changed since its index was built; open it anew.") from err

    def texts(self) -> Iterator[str]:
        """Title and text of every passage in order, reading the file from start to end."""
        done = 0
        for _, _, found in _passages(self.path):
            if found is not None:
                yield found.contents
                done += 1
                if done % _TOLD == 0:
                    tell("indexing passages", done, len(self))

    def close(self) -> None:
        """Close the file; more than once is fine."""
        with self._closing:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
