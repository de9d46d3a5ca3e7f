"""What is made once and kept in the user's cache: where that is, one maker at a time, folders that are whole or absent.

A folder has a `manifest.json` with its kind and version, what it was made from, and size and SHA-256 of every other
file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stapo.atomic_io import digest_of, open_plain, sync, write_durably
from stapo.documents import parse_json
from stapo.errors import StapoError, writing
from stapo.texts import duration, escape_control_chars

CACHE_VARIABLE = "STAPO_CACHE"
MANIFEST = "manifest.json"

VERIFIED_BYTES = 1 << 28
"""Folders of at most this size are compared with their hashes at each opening unless told otherwise (256 MiB)."""

_MOST_MANIFEST_BYTES = 1 << 20
_PAUSE = 0.1


def default_cache() -> Path:
    """`$STAPO_CACHE`, or `stapo` in the user's cache folder."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "stapo"


def known_digest(path: Path, cache: Path) -> str:
    """SHA-256 of a file; remembered in the cache for as long as its size, time and place on the disk stay the same.

    Raises:
        OSError: it cannot be read.
    """
    found, name = path.stat(), str(path.resolve())
    facts = [name, found.st_size, found.st_mtime_ns, found.st_ino]
    note = cache / "digests" / hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    with suppress(OSError, ValueError, TypeError):
        *known, remembered = parse_json(note.read_bytes())
        # It becomes the name of a folder.
        if known == facts and re.fullmatch("[0-9a-f]{64}", str(remembered)):
            return str(remembered)
    digest = digest_of(path)
    # A file that was written a moment ago may be written again within the same tick of its clock.
    if time.time_ns() - found.st_mtime_ns > 2_000_000_000:
        with suppress(OSError):
            note.parent.mkdir(parents=True, exist_ok=True)
            write_durably(note, json.dumps([*facts, digest]).encode())
    return digest


@contextmanager
def turn(lock: Path, seconds: float, waiting: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Wait until no other process holds `lock`; the system frees the lock of a process that dies.

    Args:
        lock: the file.
        seconds: to wait at most; 0 looks once.
        waiting: called once where another process holds it.

    Yields:
        whether it is held now, or another process has held it all the time.

    Raises:
        OSError: the file cannot be made.
    """
    descriptor = open_plain(lock, os.O_RDWR | os.O_CREAT)
    end, held, told = time.monotonic() + seconds, False, False
    try:
        while not held:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except BlockingIOError:
                if time.monotonic() >= end:
                    break
                if not told:
                    waiting()
                told = True
                time.sleep(_PAUSE)
        yield held
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class WholeFolders:
    """Folders of one sort.

    Attributes:
        what: what messages call one.
        error: what is raised.
        again: what to do where one is damaged, as a sentence.
        room: what to do where one cannot be written, as a sentence behind a blank; "" for nothing.
    """

    what: str
    error: type[StapoError]
    again: str
    room: str = ""

    @contextmanager
    def lacking(
        self,
        folder: Path,
        whole: Callable[[], bool],
        seconds: float,
        *,
        waiting: Callable[[], None] = lambda: None,
        insist: bool = False,
    ) -> Iterator[bool]:
        """Yield whether `folder` has to be made; of several processes that ask for it one is told so, the others wait.

        Args:
            folder: what is to be in the cache.
            whole: whether it is there and can be used.
            seconds: to wait for another process at most.
            waiting: called once where another process makes it.
            insist: make it as well then, whoever comes last replacing the other's, instead of failing.

        Raises:
            StapoError: the cache cannot be written, or another process has been at it for too long.
        """
        if whole():
            yield False
            return
        with ExitStack() as stack:
            with writing(f"cache {folder.parent}", self.room, self.error):
                folder.parent.mkdir(parents=True, exist_ok=True)
                held = stack.enter_context(turn(folder.with_name(f".{folder.name}.lock"), seconds, waiting))
            if not held and not insist:
                raise self.error(
                    f"another process has been making '{folder}' for {duration(seconds)}. Stop it, or name another "
                    f"cache with {CACHE_VARIABLE}."
                )
            yield not whole()

    @contextmanager
    def written(self, folder: Path, kind: str, version: int, facts: Mapping[str, Any]) -> Iterator[Path]:
        """Yield an empty folder to write files into; on leaving it gets its manifest and becomes `folder` in one step.

        An existing `folder` is replaced. Two processes that write the same folder do not mix: each fills its own, and
        the last one stays.

        Args:
            folder: to write.
            kind: which sort of folder it is, e.g. "bm25".
            version: version of the format of that kind.
            facts: settings and counts, as the kind defines them; read when the folder is filled.

        Raises:
            StapoError: the folder could not be written. Nothing of it is left then, an older one stays.
        """
        with writing(f"{self.what} {folder}", self.room, self.error):
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            yield temporary
            files = sorted(p for p in temporary.rglob("*") if p.is_file())
            record = {
                "kind": kind,
                "version": version,
                "facts": dict(facts),
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
            raise self.error(f"{self.what} {folder} cannot be written: {err.strerror or err}.{self.room}") from err
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def read(self, folder: Path, kind: str, version: int, *, verify: bool | None = None) -> dict[str, Any]:
        """Read the facts of a folder, and check that it is whole.

        Args:
            folder: to read.
            kind: the kind expected.
            version: the format version expected.
            verify: also compare the hashes of all files, not only their sizes. By default hashes of a folder up to
                `VERIFIED_BYTES`: reading tens of gigabytes at each start would cost minutes.

        Raises:
            StapoError: none there, one of another kind or version, or a damaged one.
        """
        path = folder / MANIFEST
        try:
            if path.stat().st_size > _MOST_MANIFEST_BYTES:
                raise ValueError(f"more than {_MOST_MANIFEST_BYTES:,} bytes")
            record = parse_json(path.read_bytes())
            files = {str(name): (int(f["bytes"]), str(f["sha256"])) for name, f in record["files"].items()}
            found, number, facts = _word(record["kind"]), int(record["version"]), dict(record["facts"])
            if outside := next((name for name in files if Path(name).is_absolute() or ".." in Path(name).parts), None):
                raise ValueError(f"it names {_word(outside)}, which is not in its folder")
        except FileNotFoundError:
            raise self.error(f"no {self.what} in {folder}: it has no {MANIFEST}. Build one there first.") from None
        except OSError as err:
            raise self.error(f"{self.what} {folder} cannot be read: {err.strerror or err}.") from err
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as err:
            said = escape_control_chars(" ".join(str(err).split()))[:200]
            raise self.error(
                f"{self.what} {folder} is damaged: {MANIFEST} is not a manifest ({said}). {self.again}"
            ) from err
        if found != kind:
            raise self.error(f"{self.what} {folder} is of kind '{found}', expected '{kind}'.")
        if number != version:
            raise self.error(
                f"{self.what} {folder} has format version {number}, this version of stapo reads {version}. {self.again}"
            )
        if verify is None:
            verify = sum(size for size, _ in files.values()) <= VERIFIED_BYTES
        for name, (size, digest) in files.items():
            file, shown = folder / name, _word(name)
            if not file.is_file():
                raise self.error(f"{self.what} {folder} is damaged: {shown} is missing. {self.again}")
            if file.stat().st_size != size:
                raise self.error(
                    f"{self.what} {folder} is damaged: {shown} has {file.stat().st_size} bytes, "
                    f"expected {_word(size)}. {self.again}"
                )
            if verify and digest_of(file) != digest:
                raise self.error(f"{self.what} {folder} is damaged: {shown} does not match its hash. {self.again}")
        return facts


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


def _word(text: object) -> str:
    return escape_control_chars(str(text)[:80])
