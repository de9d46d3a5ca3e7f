"""Folders that hold an index: written whole or not at all, checked before they are believed.

A folder has a `manifest.json` with the kind and version of the index, what it was built from, and size and SHA-256 of
every other file. Arrays are plain `.npy` files, opened as memory maps and never unpickled.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stapo.durable import digest_of, sync
from stapo.errors import IndexFileError

MANIFEST = "manifest.json"

VERIFIED_BYTES = 1 << 28
"""Indexes of at most this size are compared with their hashes at each opening unless told otherwise (256 MiB)."""


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
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as err:
        raise IndexFileError(f"index {folder} cannot be written: {err.strerror or err}.") from err
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
        verify: compare the hashes of all files, too, or only their sizes. By default hashes of an index up to
            `VERIFIED_BYTES`: reading tens of gigabytes at each start would cost minutes.

    Raises:
        IndexFileError: no index there, one of another kind or version, or a damaged one.
    """
    path = folder / MANIFEST
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        files = {str(name): (int(f["bytes"]), str(f["sha256"])) for name, f in record["files"].items()}
        found = Manifest(str(record["kind"]), int(record["version"]), dict(record["facts"]))
    except FileNotFoundError:
        raise IndexFileError(f"no index in {folder}: it has no {MANIFEST}. Build one there first.") from None
    except OSError as err:
        raise IndexFileError(f"index {folder} cannot be read: {err.strerror or err}.") from err
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise IndexFileError(f"index {folder} is damaged: {MANIFEST} is no manifest ({err}). Build it anew.") from err
    if found.kind != kind:
        raise IndexFileError(f"index {folder} is of kind '{found.kind}', expected '{kind}'.")
    if found.version != version:
        raise IndexFileError(
            f"index {folder} has format version {found.version}, this version of stapo reads {version}. Build it anew."
        )
    if verify is None:
        verify = sum(size for size, _ in files.values()) <= VERIFIED_BYTES
    for name, (size, digest) in files.items():
        file = folder / name
        if not file.is_file():
            raise IndexFileError(f"index {folder} is damaged: {name} is missing. Build it anew.")
        if file.stat().st_size != size:
            raise IndexFileError(
                f"index {folder} is damaged: {name} has {file.stat().st_size} bytes, expected {size}. Build it anew."
            )
        if verify and digest_of(file) != digest:
            raise IndexFileError(f"index {folder} is damaged: {name} does not match its hash. Build it anew.")
    return found


def open_array(path: Path, dtype: Any, ndim: int = 1) -> np.ndarray:
    """Open a `.npy` file as a read-only memory map.

    Raises:
        IndexFileError: no such file, or not such an array.
    """
    try:
        # An empty array has no bytes to map.
        mode: Any = "r" if path.stat().st_size > 128 else None
        array = np.load(path, mmap_mode=mode, allow_pickle=False)
    except (OSError, ValueError, EOFError) as err:
        raise IndexFileError(f"index file {path} cannot be read: {err}. Build the index anew.") from err
    if array.dtype != np.dtype(dtype) or array.ndim != ndim:
        raise IndexFileError(
            f"index file {path} holds {array.dtype} with {array.ndim} axes, expected {np.dtype(dtype)} with {ndim}."
        )
    return np.asarray(array)
