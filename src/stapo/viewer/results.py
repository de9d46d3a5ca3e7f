"""What `stapo compare` and `stapo diagnose` have written, as it stands in their JSON files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from stapo.atomic_io import oddity, reason_of
from stapo.documents import parse_json, read_text
from stapo.errors import RunDirectoryError
from stapo.viewer.catalog import Catalog
from stapo.viewer.wire import cleaned

_MOST_BYTES = 1 << 26
_FOLDER = re.compile(r"[\w.-]{1,200}")


class Results:
    """Reads results of comparisons and diagnoses.

    Args:
        catalog: the runs and comparisons that may be looked at.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def comparison(self, name: str) -> dict[str, Any]:
        """The results of a comparison, and under which names its runs are listed here.

        Raises:
            RunDirectoryError: it is not a comparison, or has no results yet.
        """
        folder = self._catalog.entry(name).found.folder
        found = _document(folder / "results.json", "'stapo compare' writes it with the first run that ends.")
        inside = {
            entry.found.folder.relative_to(folder).as_posix(): entry.name
            for entry in self._catalog.entries()
            if entry.found.kind == "run" and entry.found.folder.is_relative_to(folder)
        }
        return {"results": cleaned(found), "runs": cleaned(inside)}

    def diagnoses(self, name: str) -> dict[str, Any]:
        """Every diagnosis of a run by its checkpoint; what cannot be read is a remark."""
        folder = self._catalog.run(name).path / "diagnosis"
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        found, remarks = {}, []
        for checkpoint in filter(_FOLDER.fullmatch, names):
            try:
                found[checkpoint] = _document(folder / checkpoint / "diagnosis.json", "'stapo diagnose' writes it.")
            except RunDirectoryError as err:
                remarks.append(str(err))
        return {"diagnoses": cleaned(found), "remarks": cleaned(remarks)}


def _document(path: Path, who: str) -> dict[str, Any]:
    if oddity(path) is not None or oddity(path.parent) is not None:
        raise RunDirectoryError(f"'{path}' is a link, pipe or device, expected a file of its own.")
    if not path.is_file():
        raise RunDirectoryError(f"'{path}' is not there yet. {who}")
    try:
        data = parse_json(read_text(path, _MOST_BYTES))
    except (OSError, ValueError) as err:
        raise RunDirectoryError(f"'{path}' cannot be read: {reason_of(err)}.") from err
    if not isinstance(data, dict):
        raise RunDirectoryError(f"'{path}' holds {type(data).__name__}, expected an object.")
    return data
