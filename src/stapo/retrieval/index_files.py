"""Folders that hold an index: written whole or not at all, checked before they are believed.

A folder has a `manifest.json` with the kind and version of the index, what it was built from, and size and SHA-256 of
every other file. Arrays are plain `.npy` files, opened as memory maps and never unpickled.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stapo.atomic_io import digest_of, sync
from stapo.documents import parse_json
from stapo.errors import IndexFileError, writing
from stapo.texts import escape_control_chars

MANIFEST = "manifest.json"

VERIFIED_BYTES = 1 << 28
"""Indexes of at most this size are compared with their hashes at each opening unless told otherwise (256 MiB)."""

_MOST_MANIFEST_BYTES = 1 << 20
_MOST_DOCUMENTS = 1 << 40
_HEADER_BYTES = 128


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an index folder says of itself.

    Attributes:
        kind: which sort of index it is, e.g. "bm25".
        version: version of the format of that kind.
        facts: settings and counts, as the kind defines them.
    """

    kind: str
    version: int
    facts: Mapping[str, Any]


@contextmanager
def written_whole(folder: Path, manifest: Manifest) -> Iterator[Path]:
    """Yield an empty folder to write files into; on leaving it gets its manifest and becomes `folder` in one step.

    An existing `folder` is replaced. Two processes that write the same folder do not mix: each fills its own, and the
    last one stays.

    Raises:
        IndexFileError: the folder could not be written. Nothing of it is left then, an older index stays.
    """
    with writing(f"index {folder}", error=IndexFileError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        record = {
            "kind": manifest.kind,
            "version": manifest.version,
            "facts": dict(manifest.facts),
            "files": {
                str(p.relative_to(temporary)): {"bytes": p.stat().st_size, "sha256": digest_of(p)} for p in files
            },
        }
        (temporary / MANIFEST).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        for path in [*files, temporary / MANIFEST, temporary]:
            sync(path)
        temporary.chmod(0o755)
        _put_in_place(temporary, folder)
    except OSError as err:
        raise IndexFileError(f"index {folder} cannot be written: {err.strerror or err}.") from err
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(temporary: Path, folder: Path) -> None:
    # A folder cannot replace a filled one. The older one steps aside; its readers keep their open files.
    for _ in range(10):
        aside = temporary.with_name(temporary.name + ".old")
        with suppress(FileNotFoundError):
            folder.rename(aside)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            continue
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        sync(folder.parent)
        return
    raise OSError(f"other processes keep writing {folder}")


def read_manifest(folder: Path, kind: str, version: int, *, verify: bool | None = None) -> Manifest:
    """Read what an index folder says of itself, and check that it is whole.

    Args:
        folder: the index.
        kind: the kind expected.
        version: the format version expected.
        verify: also compare the hashes of all files, not only their sizes. By default hashes of an index up to
            `VERIFIED_BYTES`: reading tens of gigabytes at each start would cost minutes.

    Raises:
        IndexFileError: no index there, one of another kind or version, or a damaged one.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > _MOST_MANIFEST_BYTES:
            raise ValueError(f"more than {_MOST_MANIFEST_BYTES:,} bytes")
        record = parse_json(path.read_bytes())
        files = {str(name): (int(f["bytes"]), str(f["sha256"])) for name, f in record["files"].items()}
        found = Manifest(_word(record["kind"]), int(record["version"]), dict(record["facts"]))
        if outside := next((name for name in files if Path(name).is_absolute() or ".." in Path(name).parts), None):
            raise ValueError(f"it names {_word(outside)}, which is not in its folder")
    except FileNotFoundError:
        raise IndexFileError(f"no index in {folder}: it has no {MANIFEST}. Build one there first.") from None
    except OSError as err:
        raise IndexFileError(f"index {folder} cannot be read: {err.strerror or err}.") from err
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as err:
        said = escape_control_chars(" ".join(str(err).split()))[:200]
        raise IndexFileError(f"index {folder} is damaged: {MANIFEST} is no manifest ({said}). Build it anew.") from err
    if found.kind != kind:
        raise IndexFileError(f"index {folder} is of kind '{found.kind}', expected '{kind}'.")
    if found.version != version:
        raise IndexFileError(
            f"index {folder} has format version {found.version}, this version of stapo reads {version}. Build it anew."
        )
    if verify is None:
        verify = sum(size for size, _ in files.values()) <= VERIFIED_BYTES
    for name, (size, digest) in files.items():
        file, shown = folder / name, _word(name)
        if not file.is_file():
            raise IndexFileError(f"index {folder} is damaged: {shown} is missing. Build it anew.")
        if file.stat().st_size != size:
            raise IndexFileError(
                f"index {folder} is damaged: {shown} has {file.stat().st_size} bytes, expected {_word(size)}. "
                "Build it anew."
            )
        if verify and digest_of(file) != digest:
            raise IndexFileError(f"index {folder} is damaged: {shown} does not match its hash. Build it anew.")
    return found


def count_of(facts: Mapping[str, Any], key: str, folder: Path) -> int:
    """A whole number from 0 among the facts of a manifest.

    Raises:
        IndexFileError: it is missing, or no such number.
    """
    found = facts.get(key)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= _MOST_DOCUMENTS:
        raise IndexFileError(f"index {folder} is damaged: its manifest has no usable '{key}'. Build it anew.")
    return found


def _word(text: object) -> str:
    return escape_control_chars(str(text)[:80])


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
