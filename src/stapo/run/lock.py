"""One writer per run directory, and whether there is one."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from stapo.atomic_io import open_plain, reason_of
from stapo.errors import RunDirectoryError

FILE_NAME = ".lock"
_LOCKS = Path("/proc/locks")


class RunLock:
    """Held by the process that writes a run; the system lets go of it when the process ends, however it ends.

    Raises:
        RunDirectoryError: on entering, when another process holds it or it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        try:
            descriptor = open_plain(self.path, os.O_RDWR | os.O_CREAT)
        except OSError as err:
            raise RunDirectoryError(
                f"run directory '{self.path.parent}' cannot be written: '{self.path}': {reason_of(err)}."
            ) from err
        if os.fstat(descriptor).st_nlink > 1:
            os.close(descriptor)
            raise RunDirectoryError(
                f"'{self.path}' has further names (hard links), and a lock is written to. Remove it; it is made anew."
            )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise RunDirectoryError(
                f"the run in '{self.path.parent}' is going on in another process ({holder}). Wait for it, stop it, or "
                "choose another folder with --out."
            ) from err
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_locked(folder: Path) -> bool:
    """Whether another process, on whatever machine, is writing the run in `folder`; for those who would write it."""
    try:
        with RunLock(folder):
            return False
    except RunDirectoryError:
        return True


def is_held(folder: Path) -> bool:
    """Whether a process of this machine is writing the run in `folder`; asked without writing anything.

    For readers, which must be in nobody's way. Where the system lists its locks they are read there: even a shared lock
    of a moment could be in the way of a trainer that starts at that moment.
    """
    try:
        inode = os.stat(folder / FILE_NAME, follow_symlinks=False).st_ino
        locks = [line.split() for line in _LOCKS.read_text().splitlines()]
    except OSError:
        pass
    else:
        # number: FLOCK ADVISORY WRITE pid major:minor:inode start end
        return any(lock[1] == "FLOCK" and lock[-3].rpartition(":")[2] == str(inode) for lock in locks)
    try:
        descriptor = os.open(folder / FILE_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
