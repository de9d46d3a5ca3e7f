"""File operations that survive a crash and stay in their folder.

Whole or not at all, and on the disk before the next step relies on them. Nothing here writes, truncates, locks or
deletes through a link: a folder may come from somebody else.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{16}\.tmp")


def sync(path: Path) -> None:
    """Force a file, or the entries of a folder, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def oddity(path: Path) -> str | None:
    """What stands at `path` in the place of a file or folder (a symbolic link, a pipe, …); None where nothing does."""
    try:
        return _KINDS.get(stat.S_IFMT(path.lstat().st_mode))
    except OSError:
        return None


def oddities(root: Path, names: Collection[str]) -> Iterator[tuple[Path, str]]:
    """Entries below `root` that are neither file nor folder, with what they are.

    Args:
        root: a folder, or a link to one.
        names: entries of it to look at; folders among them are looked through.
    """
    waiting = [root / name for name in sorted(names)]
    while waiting:
        path = waiting.pop()
        found = oddity(path)
        if found is not None:
            yield path, found
        elif path.is_dir():
            try:
                waiting += sorted(path.iterdir(), reverse=True)
            except OSError:
                continue  # whoever needs it will say so


def open_plain(path: Path, flags: int) -> int:
    """Open a file, never through a link and never waiting for the other end of a pipe; returns the descriptor.

    Raises:
        OSError: as for `os.open`; also where something else than a file stands there.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as err:
        found = oddity(path)
        if found is None:
            raise
        raise OSError(err.errno, f"{found} stands in the place of a file", str(path)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{oddity(path) or 'a folder'} stands in the place of a file", str(path))
    return descriptor


def open_to_read(path: Path) -> BinaryIO:
    """Open a file to read it, as `open_plain` does."""
    return os.fdopen(open_plain(path, os.O_RDONLY), "rb")


def write_durably(path: Path, data: bytes) -> None:
    """Replace the contents of `path` in one step: a reader finds the old contents or the new.

    Raises:
        OSError: the contents could not be written; the old file is untouched and nothing is left beside it.
    """
    _replace(path, lambda file: file.write(data))
    sync(path.parent)


def _replace(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Put a new file in the place of `path` once `fill` has written it and it is on the disk."""
    # A name that nobody can have put there before, and that is made by us or not at all.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = open_plain(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(descriptor, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def temporary_of(name: str) -> str | None:
    """The name of the file that an entry called `name` was to replace; None where `write_durably` did not make it."""
    match = _TEMPORARY.fullmatch(name)
    return match[1] if match else None


def sweep_temporaries(folder: Path, names: Collection[str]) -> None:
    """Remove what killed calls of `write_durably` have left in `folder` beside the files called `names`."""
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        if temporary_of(path.name) in names and path.is_file() and oddity(path) is None:
            path.unlink(missing_ok=True)


def append_whole(path: Path, data: bytes) -> None:
    """Append `data` to a file, or leave the file as it was. A file that has further names gets a copy of its own first.

    Raises:
        OSError: not everything could be written; what was written of it is cut off again.
    """
    descriptor = open_alone(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
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


def cut_off(path: Path, size: int) -> None:
    """Shorten a file to `size` bytes; one that has further names gets a copy of its own first."""
    descriptor = open_alone(path, os.O_WRONLY)
    try:
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)


def open_alone(path: Path, flags: int) -> int:
    """Open a file to change it in place; returns the descriptor.

    A hard link may lead out of the folder, or to a copy that somebody made with `cp -l`: what has further names is
    copied, and the copy takes its place.
    """
    descriptor = open_plain(path, flags)
    if os.fstat(descriptor).st_nlink == 1:
        return descriptor
    os.close(descriptor)
    with open_to_read(path) as file:
        _replace(path, lambda copy: shutil.copyfileobj(file, copy))
    return open_plain(path, flags)


def reason_of(err: Exception) -> str:
    """Why writing failed, in few words; also for the errors of libraries that have no `strerror`."""
    return (err.strerror if isinstance(err, OSError) else None) or str(err) or type(err).__name__


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; links are followed, since users have their data where they like."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Let `target` be the same file as `source`; a copy where the file system has no hard links."""
    try:
        os.link(source, target, follow_symlinks=False)
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
