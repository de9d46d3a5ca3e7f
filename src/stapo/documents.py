"""JSON and YAML from files and servers of others: a value, or one `ValueError` that says why not, within seconds.

The parsers of the libraries raise half a dozen kinds of error and can be made to hang; what is read from outside is
read here. What the value should be (a mapping, a list of rows) is the caller's to check.

Lines of files of others, plain or compressed, are read one at a time, each of a bounded length: a line that never ends,
a small file that unpacks to gigabytes, a download that was cut off, each is one `ValueError` that names the line.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import json
import lzma
import os
import re
import stat
import sys
import zlib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import IO, Any, Literal

import yaml
from yaml.composer import Composer

MOST_YAML_NODES = 20_000
"""Values in a YAML document once aliases are followed; a configuration has a few hundred."""

_DEEPEST = 100
_TOO_MANY_DIGITS = f"not readable: an integer has more than {sys.int_info.default_max_str_digits:,} digits"
_MEANT_OTHERWISE = re.compile(r"[-+]?(0[0-9_]+|[0-9_]+(:[0-9]+)+(\.[0-9_]*)?)")
"""Numbers that YAML 1.1 reads in base 8 or 60."""


_Scanned: Any = None
"""Scans with libyaml, ten times as fast, where PyYAML was built with it; it composes in Python, as libyaml's own
composer overflows the stack on deep nesting."""
if yaml.__with_libyaml__:

    class _LibyamlLoader(Composer, yaml.CSafeLoader):
        def __init__(self, stream: str) -> None:
            yaml.CSafeLoader.__init__(self, stream)
            Composer.__init__(self)

    _Scanned = _LibyamlLoader

_READ_OTHERWISE = re.compile(r"[\t?!]")
"""Characters that libyaml takes in places where PyYAML's own scanner does not."""


def read_text(path: Path, most_bytes: int) -> str:
    """Read a whole small text file; a byte order mark is left out.

    Raises:
        OSError: it is not there or cannot be read.
        ValueError: it is not a plain file (a folder, a pipe, a device), larger than `most_bytes`, or not UTF-8.
    """
    # Without waiting: opening a pipe that nobody writes into would never return.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("not a plain file")
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"larger than {most_bytes:,} bytes")
    return decoded(data, "utf-8-sig")


def decoded(data: bytes, encoding: Literal["utf-8", "utf-8-sig"] = "utf-8") -> str:
    """Bytes as text; with `utf-8-sig`, a byte order mark is left out.

    Raises:
        ValueError: they are not UTF-8; the first wrong byte is named.
    """
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as err:
        raise ValueError(f"not UTF-8: byte {data[err.start]:#04x} at offset {err.start}") from None


def shown(value: object, most: int = 80) -> str:
    """`repr` of a value from outside for a message: on one line, cut, and never an error of its own."""
    try:
        text = " ".join(repr(value).splitlines())
    except Exception as err:  # an integer of 5,000 digits, a value that contains itself too deep
        return f"<{type(value).__name__} that cannot be shown: {type(err).__name__}>"
    return text if len(text) <= most else f"{text[: most - 1]}…"


def parse_json(text: str | bytes) -> Any:
    """Read one JSON document.

    Raises:
        ValueError: it is not UTF-8, not JSON, nested too deep to be read, or has an integer of thousands of digits.
    """
    # `json` alone would also guess at UTF-16 and UTF-32, which nobody reads behind it.
    text = decoded(text, "utf-8-sig") if isinstance(text, bytes) else text
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except json.JSONDecodeError as err:
        raise ValueError(f"not JSON: {err.msg} at line {err.lineno} column {err.colno}") from None
    except ValueError:
        raise ValueError(_TOO_MANY_DIGITS) from None


def parse_yaml(text: str) -> Any:
    """Read one YAML document with plain values only (PyYAML's safe loader).

    Raises:
        ValueError: it is not YAML, nested too deep, larger than any configuration once its aliases are followed,
            contains itself, gives a key twice, or has a value that is not what it looks like (`2024-13-45`,
            `!!int abc`, `010`).
    """
    try:
        root = _compose(text)
        if root is None:
            return None
        _count_nodes(root)
        return _construct(root)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except yaml.MarkedYAMLError as err:
        where = f" at line {err.problem_mark.line + 1} column {err.problem_mark.column + 1}" if err.problem_mark else ""
        raise ValueError(f"not YAML: {(err.problem or err.context or 'unreadable')[:200]}{where}") from None
    except yaml.YAMLError as err:
        raise ValueError(f"not YAML: {' '.join(str(err).split())[:200]}") from None
    except ValueError as err:
        raise ValueError(_TOO_MANY_DIGITS if "int_max_str_digits" in str(err) else str(err)) from None
    except (TypeError, OverflowError, AttributeError, KeyError, IndexError) as err:
        # The constructors of scalars raise what their conversion raises.
        raise ValueError(f"a value that cannot be read: {err}") from None


def package_data(package: str, name: str) -> Any:
    """Read a YAML file that comes with one of our own packages, such as "stapo.trackers"; lists become tuples."""
    return _frozen(parse_yaml((files(package) / name).read_text(encoding="utf-8")))


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _compose(text: str) -> yaml.Node | None:
    """The nodes of a document.

    The verdict of PyYAML's own scanner counts: it reads what libyaml refuses, and what libyaml takes more kindly.
    """
    if _Scanned is not None and not _READ_OTHERWISE.search(text):
        try:
            return yaml.compose(text, Loader=_Scanned)
        except (yaml.YAMLError, UnicodeError):
            pass
    return yaml.compose(text, Loader=yaml.SafeLoader)


def _construct(root: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _count_nodes(root: yaml.Node) -> int:
    """Values below a node, aliases followed; each node is visited once, however often it is named."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node, depth: int) -> int:
        key = id(node)
        if key in sizes:
            return sizes[key]
        if key in open_nodes:
            raise ValueError("a value contains itself through an alias")
        if depth > _DEEPEST:
            raise ValueError("nested too deep")
        open_nodes.add(key)
        total = 1
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(node)
        elif isinstance(node, yaml.MappingNode):
            _check_keys(node)
            total += sum(size(k, depth + 1) + size(v, depth + 1) for k, v in node.value)
        elif isinstance(node, yaml.SequenceNode):
            total += sum(size(item, depth + 1) for item in node.value)
        open_nodes.discard(key)
        if total > MOST_YAML_NODES:
            raise ValueError(f"more than {MOST_YAML_NODES:,} values, aliases followed")
        sizes[key] = total
        return total

    return size(root, 0)


def _check_keys(node: yaml.MappingNode) -> None:
    """PyYAML keeps the last of two equal keys and says nothing."""
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            name = (key.tag, key.value)
            if name in seen:
                raise ValueError(f"key {shown(key.value)} is given twice{_place(key)}")
            seen.add(name)


def _check_scalar(node: yaml.ScalarNode) -> None:
    kind = node.tag.rpartition(":")[2]
    if kind in ("int", "float") and node.value != "0" and _MEANT_OTHERWISE.fullmatch(node.value):
        raise ValueError(
            f"{shown(node.value)}{_place(node)} would be read in base {'60' if ':' in node.value else '8'}; write it "
            "as a plain number, or in quotes"
        )


def _place(node: yaml.Node) -> str:
    return f" at line {node.start_mark.line + 1} column {node.start_mark.column + 1}"


def lookup(data: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of nested mappings, or None."""
    value: Any = data
    for key in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def mapping_at(data: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """The mapping at a dotted path; an empty one where something else or nothing is."""
    value = lookup(data, path)
    return value if isinstance(value, Mapping) else {}


def plain(value: Any) -> Any:
    """A scalar of NumPy, or an array or tensor of no dimension, as Python's own value; anything else as it is."""
    return value.item() if hasattr(type(value), "item") and getattr(value, "shape", None) == () else value


def number(value: Any) -> float:
    """A float, NaN for whatever is not a number.

    Built-in numbers, NumPy's scalars, and arrays and tensors of no dimension all are numbers, of any type.
    """
    value = plain(value)
    try:
        return float(value) if isinstance(value, int | float) else float("nan")
    except OverflowError:  # an integer of hundreds of digits, which JSON may hold
        return float("nan")


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
        raise ValueError("it is not a regular file")
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
