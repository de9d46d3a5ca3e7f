"""Sealed folders: several files that are valid together or not at all.

A sealed folder is written under a hidden name. Every file is hashed and forced onto the disk, then `manifest.json`
(sizes and SHA-256 of all files), then the marker `COMPLETE` (SHA-256 of the manifest); last, the folder gets its name
by one rename. A crash at any point leaves the old folder or the new one, and beside it perhaps a hidden one that no
reader looks at. Whoever loads a sealed folder checks it first.

The saved states of a run are numbered sealed folders below `saves/`, of which the newest few are kept (`SaveStore`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from stapo.atomic_io import digest_of, oddity, reason_of, remove_folder, sync, write_durably
from stapo.documents import parse_json
from stapo.errors import SaveError, reading

MANIFEST = "manifest.json"
MARKER = "COMPLETE"
_PARTIAL = ".partial-"
_NAME = re.compile(r"[0-9]{6,12}")


def write_sealed(path: Path, fill: Callable[[Path], None]) -> None:
    """Write the folder `path`, replacing one of that name.

    Args:
        path: the folder; its parent is made where it is missing.
        fill: writes the files into the folder that it is given.

    Raises:
        OSError: from `fill` or while sealing (no space left, say). What stood under `path` still stands there.
    """
    partial = path.with_name(_PARTIAL + path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if partial.exists():
        remove_folder(partial)
    try:
        partial.mkdir()
        fill(partial)
        _seal(partial)
        # A folder cannot be renamed onto a full one. Between the removal and the rename there is none of this name,
        # which is why whatever a resume relies on is written under a name of its own.
        if path.exists():
            remove_folder(path)
        partial.rename(path)
        sync(path.parent)
    except Exception:
        remove_folder(partial)
        raise


def _seal(folder: Path) -> None:
    files = {}
    for file in _files(folder):
        sync(file)
        files[file.relative_to(folder).as_posix()] = {"bytes": file.stat().st_size, "sha256": digest_of(file)}
    for inner in sorted(p for p in folder.rglob("*") if p.is_dir()):
        sync(inner)
    text = json.dumps({"files": files}, indent=1) + "\n"
    write_durably(folder / MANIFEST, text.encode())
    write_durably(folder / MARKER, (hashlib.sha256(text.encode()).hexdigest() + "\n").encode())


def _files(folder: Path) -> list[Path]:
    # What is not a folder, whatever it is: a link to a file that is not there is foreign as well.
    return sorted(p for p in folder.rglob("*") if (oddity(p) or not p.is_dir()) and p != folder / MARKER)


def is_left_over(path: Path) -> bool:
    """Whether a folder is what an unfinished write or removal has left behind."""
    return path.name.startswith((_PARTIAL, ".removed-"))


def is_sealed(folder: Path) -> bool:
    """Whether the folder was finished; says nothing about its contents."""
    marker = folder / MARKER
    return not folder.name.startswith(".") and oddity(folder) is None and oddity(marker) is None and marker.is_file()


def check_sealed(folder: Path, *, strangers: bool = False) -> None:
    """Check every file of a sealed folder against its hash.

    Args:
        folder: as `write_sealed` wrote it.
        strangers: further files may lie in it; they are never loaded.

    Raises:
        SaveError: unfinished, or a file is missing, cut short, changed or foreign; the file is named.
    """
    if not is_sealed(folder):
        raise SaveError(f"'{folder}' has no file {MARKER}: it was never finished, or it is not one of ours.")
    listed = manifest_of(folder)
    for name, facts in listed.items():
        _check_file(folder / name, facts)
    foreign = [p for p in _files(folder) if p.relative_to(folder).as_posix() not in {*listed, MANIFEST}]
    if foreign and not strangers:
        raise SaveError(f"'{foreign[0]}' is a foreign file: {MANIFEST} does not list it. Move it out of the folder.")


def manifest_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file of a sealed folder, by its path in the folder.

    Raises:
        SaveError: the manifest cannot be read, was changed, or lists what no manifest of ours lists.
    """
    manifest = folder / MANIFEST
    with reading(f"'{manifest}'", SaveError):
        expected = (folder / MARKER).read_text(encoding="utf-8", errors="replace").strip()
        text = manifest.read_bytes()
    if hashlib.sha256(text).hexdigest() != expected:
        raise SaveError(f"'{manifest}' or '{folder / MARKER}' was changed since it was written: the hash differs.")
    try:
        data = parse_json(text)
    except ValueError as err:
        raise SaveError(f"'{manifest}' cannot be read: {err}.") from err
    listed = data.get("files") if isinstance(data, dict) else None
    if not isinstance(listed, dict) or not all(_is_entry(name, facts) for name, facts in listed.items()):
        raise SaveError(f"'{manifest}' is not a manifest of ours: expected sizes and SHA-256 of files in this folder.")
    return listed


def _is_entry(name: str, facts: object) -> bool:
    path = PurePosixPath(name)
    return (
        not path.is_absolute()
        and ".." not in path.parts
        and "\0" not in name
        and path.as_posix() == name
        and isinstance(facts, dict)
        and isinstance(facts.get("bytes"), int)
        and isinstance(facts.get("sha256"), str)
    )


def unchanged_files(folder: Path) -> list[Path]:
    """Files of a sealed folder, or of a folder inside one, each checked against its hash.

    Raises:
        SaveError: a file is missing or was changed, or there is no manifest; it is named.
    """
    root = next((p for p in (folder, *folder.parents) if (p / MANIFEST).is_file()), None)
    if root is None:
        raise SaveError(f"'{folder}' has no {MANIFEST}: it was never finished, or it is not one of ours.")
    listed = manifest_of(root)
    found = [root / name for name in sorted(listed) if (root / name).parent == folder]
    for file in found:
        _check_file(file, listed[file.relative_to(root).as_posix()])
    return found


def _check_file(file: Path, facts: dict[str, object]) -> None:
    found_there = oddity(file)
    if found_there is not None:
        raise SaveError(f"'{file}' is {found_there}, expected a file.")
    if not file.is_file():
        raise SaveError(f"'{file}' is missing, though {MANIFEST} lists it.")
    size = file.stat().st_size
    if size != facts["bytes"]:
        raise SaveError(f"'{file}' has {size} bytes, expected {facts['bytes']}: it was cut short or written over.")
    with reading(f"'{file}'", SaveError):
        found = digest_of(file)
    if found != facts["sha256"]:
        raise SaveError(f"'{file}' was changed since it was written: its SHA-256 differs from the one in {MANIFEST}.")


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
                if path.is_dir() and is_left_over(path):
                    remove_folder(path)
