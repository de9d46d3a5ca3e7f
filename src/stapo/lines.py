"""Lines of files that others wrote, plain or compressed: one at a time, each of a bounded length.

A line that never ends, a small file that unpacks to gigabytes, a download that was cut off: each is one `ValueError`
with the number of the line, within seconds, and no more than one line is ever in memory.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

MOST_LINE_BYTES = 16 << 20
"""Bytes of a line unless told otherwise, unpacked."""

_MAGIC = {".gz": b"\x1f\x8b", ".xz": b"\xfd7zXZ\x00", ".bz2": b"BZh", ".zst": b"\x28\xb5\x2f\xfd"}
_BLOCK = 1 << 16
_PIECE = 512
# Text shrinks to a third or a tenth. What unpacks to this many times its size was made to.
_LARGEST_RATIO = 500
_FREE_BYTES = 64 << 20
# The largest preset of xz needs 65 MiB to unpack; a damaged or hostile header asks for any amount.
_MOST_DICTIONARY = 256 << 20


def compression_of(path: Path | str) -> str:
    """The suffix that stands for how a file is compressed, ".gz", ".xz", ".bz2" or ".zst"; "" for a plain file.

    The first bytes decide, and, for a file that does not begin as any of them, its name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is neither a file nor a folder: a pipe, say, which might never end.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError("it is no regular file")
    with open(path, "rb") as file:
        start = file.read(8)
    named = Path(path).suffix.lower()
    return next(
        (suffix for suffix, magic in _MAGIC.items() if start.startswith(magic)), named if named in _MAGIC else ""
    )


def read_lines(path: Path | str, most_bytes_per_line: int = MOST_LINE_BYTES) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of every line, its line feed included, unpacked where the file is compressed.

    Args:
        path: the file; gzip, xz, bzip2 and, with the package `zstandard`, Zstandard are unpacked.
        most_bytes_per_line: longer lines are refused.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line that is too long, or compressed data that is damaged, cut off, or unpacks to hundreds of
            times its size. The message begins with "line N: " and names no file.
    """
    suffix = compression_of(path)
    number = unpacked = 0
    check_at = _FREE_BYTES
    with open(path, "rb") as file:
        try:
            if suffix and not os.fstat(file.fileno()).st_size:
                raise EOFError("it is empty")
            stream = _unpack(file, suffix)
            while raw := stream.readline(most_bytes_per_line + 1):
                number += 1
                if len(raw) > most_bytes_per_line:
                    raise ValueError(f"line {number}: longer than {most_bytes_per_line:,} bytes")
                unpacked += len(raw)
                if suffix and unpacked > check_at:
                    if unpacked > _LARGEST_RATIO * file.tell():
                        raise ValueError(f"line {number}: it unpacks to more than {_LARGEST_RATIO} times its size")
                    check_at = unpacked + (1 << 20)
                yield number, raw
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as err:
            # The system's own errors have a number; damaged data has none.
            if isinstance(err, OSError) and err.errno is not None:
                raise
            raise ValueError(f"line {number + 1}: the compressed data is damaged or cut off ({err})") from None


def _unpack(file: IO[bytes], suffix: str) -> IO[bytes] | io.BufferedReader:
    if suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=file, mode="rb"), _BLOCK)
    if suffix == ".bz2":
        return io.BufferedReader(bz2.BZ2File(file, "rb"), _BLOCK)
    if suffix == ".xz":
        return io.BufferedReader(_Xz(file), _BLOCK)
    if suffix == ".zst":
        return io.BufferedReader(_Zstandard(file), _BLOCK)
    return file


class _Unpacking(io.RawIOBase):
    """Unpacks streams that follow one another, with a limit on memory; a file that ends inside one is an EOFError."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._unpacker = self._new()

    def _new(self) -> Any:
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def _next_stream(self) -> bytes:
        """The beginning of what follows a finished stream; zero bytes may stand in between."""
        block = bytes(self._unpacker.unused_data).lstrip(b"\0")
        while not block:
            more = self._file.read(_BLOCK)
            if not more:
                return b""
            block = more.lstrip(b"\0")
        return block


class _Xz(_Unpacking):
    """Unlike `lzma.LZMAFile`, it limits the memory that a file may ask for, and minds what follows the last stream."""

    def _new(self) -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(memlimit=_MOST_DICTIONARY)

    def readinto(self, buffer: Any) -> int:
        while True:
            block = b""
            if self._unpacker.eof:
                block = self._next_stream()
                if not block:
                    return 0
                self._unpacker = self._new()
            elif self._unpacker.needs_input:
                block = self._file.read(_BLOCK)
                if not block:
                    raise EOFError("it ends too early")
            found = self._unpacker.decompress(block, len(buffer))
            if found:
                buffer[: len(found)] = found
                return len(found)


class _Zstandard(_Unpacking):
    """The package's own reader takes a file that was cut off for a whole one."""

    def __init__(self, file: IO[bytes]) -> None:
        try:
            self._library = importlib.import_module("zstandard")
        except ImportError:
            raise ValueError(
                "line 1: the file is compressed with Zstandard; pip install zstandard, or unpack it first"
            ) from None
        super().__init__(file)
        self._packed = self._ready = b""

    def _new(self) -> Any:
        return self._library.ZstdDecompressor(max_window_size=_MOST_DICTIONARY).decompressobj()

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            if self._unpacker.eof:
                self._packed = self._next_stream() + self._packed
                if not self._packed:
                    return 0
                self._unpacker = self._new()
            self._packed = self._packed or self._file.read(_BLOCK)
            if not self._packed:
                raise EOFError("it ends too early")
            # It unpacks all that it is given: 4 bytes may be 128 KiB.
            piece, self._packed = self._packed[:_PIECE], self._packed[_PIECE:]
            try:
                self._ready = self._unpacker.decompress(piece)
            except self._library.ZstdError as err:
                raise OSError(str(err)) from None
        found = self._ready[: len(buffer)]
        self._ready = self._ready[len(found) :]
        buffer[: len(found)] = found
        return len(found)
