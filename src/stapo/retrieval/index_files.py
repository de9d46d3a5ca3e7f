"""Folders that hold an index: written whole or not at all, checked before they are believed (see `stapo.stored`).

Arrays are plain `.npy` files, opened as memory maps and never unpickled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stapo.errors import IndexFileError
from stapo.stored import WholeFolders
from stapo.texts import escape_control_chars

_MOST_DOCUMENTS = 1 << 40
_HEADER_BYTES = 128

INDEXES = WholeFolders("index", IndexFileError, "Build it anew.")
written_whole, read_manifest = INDEXES.written, INDEXES.read


def count_of(facts: Mapping[str, Any], key: str, folder: Path) -> int:
    """A whole number from 0 among the facts of a manifest.

    Raises:
        IndexFileError: it is missing, or no such number.
    """
    found = facts.get(key)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= _MOST_DOCUMENTS:
        raise IndexFileError(f"index {folder} is damaged: its manifest has no usable '{key}'. Build it anew.")
    return found


def open_array(path: Path, dtype: Any) -> np.ndarray:
    """Open a `.npy` file as a read-only memory map.

    Raises:
        IndexFileError: no such file, or not such an array.
    """
    try:
        if path.stat().st_size > _HEADER_BYTES:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            array = _empty_array(path)
    # The header is a Python literal, and its reader lets through whatever the parser of Python raises.
    except Exception as err:
        said = escape_control_chars(" ".join(str(err).split()))[:200] or type(err).__name__
        raise IndexFileError(f"index file {path} cannot be read: {said}. Build the index anew.") from err
    if array.dtype != np.dtype(dtype) or array.ndim != 1:
        raise IndexFileError(
            f"index file {path} holds {array.dtype} with {array.ndim} axes, expected {np.dtype(dtype)} with 1."
        )
    return np.asarray(array)


def _empty_array(path: Path) -> np.ndarray:
    """An array without bytes, which cannot be mapped; one that claims to have some would be given memory for them."""
    with path.open("rb") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version of the format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if math.prod(shape):
        raise ValueError("it ends before its values")
    return np.empty(shape, dtype)
