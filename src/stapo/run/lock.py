"""One writer per run directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from stapo.atomic_io import open_plain, reason_of
from stapo.errors import RunDirectoryError

FILE_NAME = ".lock"


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
    """Whether another process is writing the run in `folder`."""
    try:
        with RunLock(folder):
            return False
    except RunDirectoryError:
        return True
