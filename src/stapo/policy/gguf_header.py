"""The header of a GGUF file, read with an eye on the size of the file, before a library that trusts it sees it."""

from __future__ import annotations

import math
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stapo.documents import shown
from stapo.errors import ModelError

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of the scalar types of values, by their numbers."""
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 8


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of itself.

    Attributes:
        architecture: its `general.architecture`.
        types: tensors by their type, the most frequent first.
        weights: of all tensors.
    """

    architecture: str
    types: dict[str, int]
    weights: int


class _Reader:
    """Numbers and texts of an open file; past its end is an error."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def take(self, count: int) -> bytes:
        found = self.file.read(count) if count <= self.left() else b""
        if len(found) != count:
            raise EOFError
        return found

    def left(self) -> int:
        return self.size - self.file.tell()

    def skip(self, count: int) -> None:
        if count > self.left():
            raise EOFError
        self.file.seek(count, 1)

    def number(self, form: str) -> int:
        return int(struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0])

    def text(self) -> str:
        return self.take(self.number("Q")).decode()

    def value(self, kind: int, depth: int = 0) -> None:
        """Skip a value."""
        if kind in _SIZES:
            self.skip(_SIZES[kind])
        elif kind == _STRING:
            self.skip(self.number("Q"))
        elif kind == _ARRAY and depth < 4:
            inner, count = self.number("I"), self.number("Q")
            if inner in _SIZES:
                self.skip(count * _SIZES[inner])
            else:
                for _ in range(count):
                    self.value(inner, depth + 1)
        else:
            raise ValueError(f"value type {kind}")


def read_header(path: Path) -> GgufHeader:
    """Read the header of a GGUF file, and check that all tensors are within the file.

    Raises:
        ModelError: it is not a GGUF file, of another version, damaged or truncated, or has tensors of an unknown type.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _read(path, _Reader(file, size))
    except ModelError:
        raise
    except EOFError:
        raise ModelError(
            f"GGUF file '{path}' is truncated: it ends after {size:,} bytes, within what it says it holds. Download it "
            "again."
        ) from None
    except OSError as err:
        raise ModelError(f"GGUF file '{path}' cannot be read: {err.strerror or err}.") from err
    except (ValueError, struct.error) as err:
        raise ModelError(f"GGUF file '{path}' is damaged: {err}.") from err


def _read(path: Path, reader: _Reader) -> GgufHeader:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if reader.left() < 4 or reader.take(4) != b"GGUF":
        raise ModelError(f"'{path}' is not a GGUF file: it does not begin with the letters GGUF.")
    if (version := reader.number("I")) not in (2, 3):
        raise ModelError(f"GGUF file '{path}' has version {version}, expected 2 or 3. Convert it anew.")
    tensors, values = reader.number("Q"), reader.number("Q")
    architecture, alignment, layers = "", 32, 0
    for _ in range(values):
        key, kind = reader.text(), reader.number("I")
        if key == "general.architecture" and kind == _STRING:
            architecture = reader.text()
        elif key == "general.alignment" and kind == 4:
            alignment = reader.number("I")
        elif key.endswith(".block_count") and kind == 4:
            layers = reader.number("I")
        else:
            reader.value(kind)
    if layers > tensors:
        raise ValueError(f"{layers:,} layers and {tensors:,} tensors")
    if not 0 < alignment <= 1 << 20:
        raise ValueError(f"an alignment of {alignment}")
    types, weights, end = Counter[str](), 0, 0
    for _ in range(tensors):
        name, dimensions = reader.text(), reader.number("I")
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"tensor {shown(name)} has {dimensions} dimensions")
        count = math.prod(reader.number("Q") for _ in range(dimensions))
        number, offset = reader.number("I"), reader.number("Q")
        try:
            kind_of = GGMLQuantizationType(number)
        except ValueError:
            raise ModelError(
                f"GGUF file '{path}' has tensors of type {number}, a quantization that this version of the package "
                "'gguf' does not know. Update it, or take a file quantized as Q4_K, Q8_0 or F16."
            ) from None
        block, block_bytes = GGML_QUANT_SIZES[kind_of]
        types[kind_of.name] += 1
        weights += count
        end = max(end, offset + count // block * block_bytes)
    reader.skip(-reader.file.tell() % alignment)
    reader.skip(end)
    return GgufHeader(architecture, dict(types.most_common()), weights)
