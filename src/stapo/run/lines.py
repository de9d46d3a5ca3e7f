"""Files of JSON lines that users name: read whole, or refused with the line that is wrong; never overwritten."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from stapo.atomic_io import open_to_read, write_durably
from stapo.documents import decoded, parse_json, shown
from stapo.errors import ConfigError, reading, writing

MOST_BYTES = 64 << 20
"""Of a line. An episode of 50 steps with observations of 50,000 characters has about a tenth of it."""


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write a new file of JSON lines, whole or not at all.

    Raises:
        ConfigError: there is something of this name already.
        RunDirectoryError: it cannot be written.
    """
    require_new(path)
    with writing(f"'{path}'"):
        write_durably(path, b"".join((json.dumps(line) + "\n").encode() for line in lines))


def require_new(path: Path) -> None:
    """Check that a file can be made.

    Raises:
        ConfigError: there is something of this name, or no folder to put it into.
    """
    if path.exists() or path.is_symlink():
        raise ConfigError(f"'{path}' exists already. Nothing was touched; choose another name, or remove it yourself.")
    if not path.parent.is_dir():
        raise ConfigError(f"'{path.parent}' is not a folder, so '{path.name}' cannot be written there.")


def read_lines(path: Path, most_bytes_per_line: int = MOST_BYTES) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file of JSON lines, each with its place for messages; empty lines are passed over.

    Raises:
        ConfigError: the file cannot be read, a line is too long or holds no object; the line is named.
    """
    with reading(f"'{path}'", ConfigError):
        file = open_to_read(path)
    with file:
        for number in count(1):
            where = f"'{path}' line {number}"
            with reading(where, ConfigError):
                line = file.readline(most_bytes_per_line + 1)
            if not line:
                return
            if len(line) > most_bytes_per_line:
                raise ConfigError(f"{where} is longer than {most_bytes_per_line:,} bytes; shorten or remove the line.")
            if not line.strip():
                continue
            try:
                row = parse_json(decoded(line.rstrip()))
            except ValueError as err:
                raise ConfigError(f"{where} is no JSON ({err}); repair or remove the line.") from err
            if not isinstance(row, dict):
                raise ConfigError(f"{where} holds {shown(row)}, expected an object.")
            yield where, row
