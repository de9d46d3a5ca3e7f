"""The saved states of a run: numbered sealed folders below `saves/`, of which the newest few are kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from stapo.atomic_io import reason_of, remove_folder
from stapo.errors import SaveError
from stapo.run.sealed import check_sealed, is_sealed, write_sealed

_NAME = re.compile(r"[0-9]{6,12}")


class SaveStore:
    """Writes, lists and checks the saves of one run.

    Args:
        folder: where they are; made at the first save.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def complete(self) -> list[Path]:
        """Finished saves, newest first. What was not finished is never listed."""
        if not self.folder.is_dir():
            return []
        found = [p for p in self.folder.iterdir() if _NAME.fullmatch(p.name) and is_sealed(p)]
        return sorted(found, key=lambda p: int(p.name), reverse=True)

    def write(self, fill: Callable[[Path], None], keep: int) -> Path:
        """Write the next save, then remove complete ones beyond the newest `keep`.

        Raises:
            SaveError: it could not be written; the saves that were there are untouched.
        """
        newest = self.complete()
        path = self.folder / f"{int(newest[0].name) + 1 if newest else 1:06d}"
        try:
            write_sealed(path, fill)
        except SaveError:
            raise
        except Exception as err:  # the writers of tensors raise errors of their own when a disk is full
            raise SaveError(
                f"the state of the run cannot be saved in '{path}': {reason_of(err)}. The saves before it are "
                "untouched; make room, or make the folder writable, and give the same command again."
            ) from err
        for old in self.complete()[max(1, keep) :]:
            remove_folder(old)
        return path

    def newest_good(self, check: Callable[[Path], None]) -> tuple[Path | None, list[str]]:
        """The newest save that is undamaged, and why each newer one is not.

        Args:
            check: a further check, which raises SaveError.

        Raises:
            SaveError: there are saves, but none can be used; all reasons are given.
        """
        reasons: list[str] = []
        for path in self.complete():
            try:
                check_sealed(path)
                check(path)
            except SaveError as err:
                reasons.append(str(err))
            else:
                return path, reasons
        if reasons:
            raise SaveError(
                "no save of this run can be used: " + " ".join(dict.fromkeys(reasons)) + " Put the files back as they "
                "were, or remove the run's folder and give the same command again to start anew; until then it can be "
                "reported and evaluated."
            )
        return None, []

    def set_aside(self, newer_than: Path | None) -> None:
        """Rename saves that are newer than the one that a run resumes from, so that new ones can take their numbers."""
        for path in self.complete():
            if newer_than is None or int(path.name) > int(newer_than.name):
                aside = path.with_name(f"damaged-{path.name}")
                if aside.exists():
                    remove_folder(aside)
                path.rename(aside)
        self.sweep()

    def sweep(self) -> None:
        """Remove what unfinished writes and removals have left behind."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if path.is_dir() and path.name.startswith((".partial-", ".removed-")):
                    remove_folder(path)
