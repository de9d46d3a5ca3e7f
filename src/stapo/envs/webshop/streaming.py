"""Reading JSON files that do not fit into memory, one element at a time.

The released catalog is one list of more than a million products. The text is read in pieces; each element is decoded
by the standard library as soon as it is complete, and the one that is broken is named.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from stapo.errors import GameFileError, reading

_PIECE = 1 << 20
_LONGEST_ELEMENT = 1 << 26
_SPACE = " \t\n\r"
# An error this close to the end of what was read may go away with more text: a token was cut.
_CUT = 16


class _Text:
    """The part of a file that is not used up yet."""

    def __init__(self, path: Path, file: TextIO, what: str) -> None:
        self.path = path
        self.what = what
        self.count = 0
        self._file = file
        self._buffer = ""
        self._at = 0
        self._ended = False
        self._decoder = json.JSONDecoder()

    def wrong(self, found: str, expected: str) -> GameFileError:
        return GameFileError(
            f"'{self.path}' is not usable JSON: found {found} at {self.what} number {self.count}, expected {expected}. "
            "Get the file again, or point the option at the right one."
        )

    def _more(self, least: int = _PIECE) -> bool:
        piece = "" if self._ended else self._file.read(max(least, _PIECE))
        self._ended = self._ended or not piece
        self._buffer = self._buffer[self._at :] + piece
        self._at = 0
        return bool(piece)

    def peek(self) -> str:
        """The next character that is not a space, "" at the end of the file."""
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def take(self, expected: str) -> str:
        """Use up the next character, one of `expected`."""
        found = self.peek()
        if not found or found not in expected:
            names = " or ".join(f"'{c}'" for c in expected)
            raise self.wrong(f"'{found}'" if found else "the end of the file", names)
        self._at += 1
        return found

    def end(self) -> None:
        """Make sure that nothing follows: of files that were joined, only the first would be read."""
        if self.peek():
            raise self.wrong(f"'{self._buffer[self._at : self._at + 20]}' behind the end", "nothing after it")

    def value(self) -> Any:
        """Decode the next value."""
        if not self.peek():
            raise self.wrong("the end of the file", f"a whole {self.what}")
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as err:
                left = len(self._buffer) - self._at
                cut = err.msg.startswith("Unterminated string") or err.pos >= len(self._buffer) - _CUT
                if not cut:
                    raise self.wrong(f"'{self._buffer[err.pos : err.pos + 20]}'", f"JSON ({err.msg})") from err
                if left > _LONGEST_ELEMENT:
                    raise self.wrong(f"more than {_LONGEST_ELEMENT} characters", "an end of it") from err
                if not self._more(left):
                    raise self.wrong("the end of the file", f"a whole {self.what} (is it cut short?)") from err
                continue
            except ValueError as err:
                # Whole numbers of thousands of digits are refused.
                raise self.wrong("a number that is too long", f"a plain {self.what}") from err
            except RecursionError as err:
                raise self.wrong("values nested too deeply", f"a plain {self.what}") from err
            # A number at the end of what was read may go on.
            if end == len(self._buffer) and self._more():
                continue
            self._at = end
            return value


def _parts(path: Path, what: str, wanted: str, other: tuple[str, str], keyed: bool) -> Iterator[tuple[str, Any]]:
    """Keys and values of a file's one object, or empty keys and the elements of its one list.

    Args:
        path: the file.
        what: an element, in messages.
        wanted: what the file should hold, in messages.
        other: the bracket that the file may begin with instead, and what it then holds.
        keyed: it should be an object.
    """
    opening, closing = "{}" if keyed else "[]"
    try:
        with reading(f"'{path}'", GameFileError), path.open(encoding="utf-8-sig") as file:
            text = _Text(path, file, what)
            if text.peek() == other[0]:
                raise text.wrong(other[1], wanted)
            text.take(opening)
            more = text.peek() != closing or text.take(closing) != closing
            while more:
                key = text.value() if keyed else ""
                if not isinstance(key, str):
                    raise text.wrong(f"{key!r:.20}", "a product id in quotes")
                if keyed:
                    text.take(":")
                yield key, text.value()
                text.count += 1
                more = text.take(f",{closing}") == ","
            text.end()
    except UnicodeDecodeError as err:
        raise GameFileError(f"'{path}' is not text in UTF-8 ({err}); expected a JSON file. Get it again.") from err


def iter_list(path: Path, what: str) -> Iterator[Any]:
    """The elements of a file that holds one JSON list.

    Raises:
        GameFileError: missing, cut short, not JSON or not a list; the element is named by its number.
    """
    for _, value in _parts(path, what, f"a list of {what}s", ("{", "an object with keys"), keyed=False):
        yield value


def iter_items(path: Path, what: str) -> Iterator[tuple[str, Any]]:
    """The keys and values of a file that holds one JSON object.

    Raises:
        GameFileError: missing, cut short, not JSON or not an object; the entry is named by its number.
    """
    return _parts(path, what, f"an object with one {what} per product id", ("[", "a list"), keyed=True)
