"""File operations that survive a crash: whole or not at all, and on the disk before the next step relies on them."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path


def sync(path: Path) -> None:
    """Force a file, or the entries of a folder, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes) -> None:
    """Replace the contents of `path` in one step: a reader finds the old contents or the new.

    Raises:
        OSError: the contents could not be written; the old file is untouched and nothing is left beside it.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def append_whole(path: Path, data: bytes) -> None:
    """Append `data` to a file, or leave the file as it was.

    Raises:
        OSError: not everything could be written; what was written of it is cut off again.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        before = os.fstat(descriptor).st_size
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(descriptor, left) :]
        except BaseException:
            with suppress(OSError):
                os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def reason_of(err: Exception) -> str:
    """Why writing failed, in few words; also for the errors of libraries that have no `strerror`."""
    return (err.strerror if isinstance(err, OSError) else None) or str(err) or type(err).__name__


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Let `target` be the same file as `source`; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def remove_folder(path: Path) -> bool:
    """Remove a folder, hidden first so that nobody takes the rest for a whole one; false if something stayed behind."""
    hidden = path if path.name.startswith(".") else path.with_name(f".removed-{path.name}")
    try:
        if hidden != path:
            if hidden.exists():
                shutil.rmtree(hidden)
            path.rename(hidden)
        shutil.rmtree(hidden)
    except OSError:
        return False
    return True
