"""Where built catalogues are kept, and how they get there whole.

A catalogue is built once into a folder under the cache and only read from then on. It is built under a hidden name and
gets its own by one rename, so a crash leaves nothing that looks finished. Two processes that need the same one: the
second waits for the first; if it does not finish in time, both build, and the later rename finds the work done.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stapo.errors import ConfigError, GameFileError, StapoError
from stapo.retrieval.cache import default_cache

LONGEST_WAIT = 3_600.0
"""Seconds to wait for another process that builds the same catalogue."""

_BLOCK = 1 << 20


def publish(target: Path, build: Callable[[Path], None], usable: Callable[[Path], bool]) -> None:
    """Make sure that the folder `target` is there and usable, building it where it is not.

    Args:
        target: the folder.
        build: fills the empty folder that it is given; the last file that it writes is what `usable` looks at.
        usable: whether a folder is whole and of this version.

    Raises:
        ConfigError: the cache cannot be written.
        StapoError: from `build`; nothing is left behind.
    """
    if usable(target):
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _turn(target):
            if not usable(target):
                _build(target, build, usable)
    except OSError as err:
        if isinstance(err, StapoError):
            raise
        raise ConfigError(
            f"the catalogue cannot be kept in '{target.parent}': {err.strerror or err}. "
            "Make room there, or set STAPO_CACHE to a folder that can be written."
        ) from err


def _build(target: Path, build: Callable[[Path], None], usable: Callable[[Path], bool]) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        partial.mkdir()
        build(partial)
        if target.exists() and not usable(target):
            # Damaged, or of another version under the same name: readers that have it open keep their files.
            target.rename(target.with_name(f"{partial.name}-old"))
        try:
            partial.rename(target)
        except OSError:
            if not usable(target):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(target.with_name(f"{partial.name}-old"), ignore_errors=True)


@contextmanager
def _turn(target: Path) -> Iterator[None]:
    """Wait until no other process builds `target`; the system frees the lock of a process that dies."""
    descriptor = os.open(target.with_name(f".{target.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    deadline = time.monotonic() + LONGEST_WAIT
    try:
        while time.monotonic() < deadline:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def digest_of(path: Path) -> str:
    """SHA-256 of a file; remembered in the cache for as long as its size and time stay the same.

    Raises:
        GameFileError: it cannot be read.
    """
    try:
        found = path.stat()
        name = str(path.resolve())
        facts = [name, found.st_size, found.st_mtime_ns]
        note = default_cache() / "digests" / hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
        with suppress(OSError, ValueError):
            *known, digest = json.loads(note.read_text(encoding="utf-8"))
            if known == facts:
                return str(digest)
        hashed = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                hashed.update(block)
    except OSError as err:
        raise GameFileError(f"'{path}' cannot be read: {err.strerror or err}.") from err
    # A file that was written a moment ago may be written again within the same tick of its clock.
    if time.time_ns() - found.st_mtime_ns > 2_000_000_000:
        with suppress(OSError):
            note.parent.mkdir(parents=True, exist_ok=True)
            temporary = note.with_name(f"{note.name}.{os.getpid()}")
            temporary.write_text(json.dumps([*facts, hashed.hexdigest()]), encoding="utf-8")
            temporary.replace(note)
    return hashed.hexdigest()
