"""Where built catalogs are kept, and how they get there whole.

A catalog is built once into a folder under the cache and only read from then on. It is built under a hidden name and
gets its own by one rename, so a crash leaves nothing that looks finished. Two processes that need the same one: the
second waits for the first; if it does not finish in time, both build, and the later rename finds the work done.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from stapo.errors import ConfigError, GameFileError, StapoError, reading
from stapo.stored import default_cache, known_digest, turn

LONGEST_WAIT = 3_600.0
"""Seconds to wait for another process that builds the same catalog."""


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
        # Should the other process take too long, both build, and the later rename finds the work done.
        with turn(target.with_name(f".{target.name}.lock"), LONGEST_WAIT):
            if not usable(target):
                _build(target, build, usable)
    except OSError as err:
        if isinstance(err, StapoError):
            raise
        raise ConfigError(
            f"the catalog cannot be kept in '{target.parent}': {err.strerror or err}. "
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


def file_digest(path: Path) -> str:
    """SHA-256 of a file, remembered in the cache; see `stapo.stored.known_digest`.

    Raises:
        GameFileError: it cannot be read.
    """
    with reading(f"'{path}'", GameFileError):
        return known_digest(path, default_cache())
