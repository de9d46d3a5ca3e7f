"""Columns of steps as one block of bytes that a browser can use without parsing each number.

Four bytes, the length of the header; the header, JSON, filled up with blanks; then the columns, each at a multiple of
eight bytes behind the header. All numbers are little-endian. The header has `generation`, `first_row`, `rows`,
`columns` (name, type, offset behind the header) and `texts` (all texts of each coded column).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

from stapo.run.step_table import StepTable

_STRIDE = 8


def packed(table: StepTable, first_row: int = 0, clean: Callable[[str], str] = str) -> bytes:
    """The rows of a table from `first_row` on.

    Args:
        table: as it stands; see `StepTable.refresh`.
        first_row: rows before it are left out; what lies behind the last one gives none.
        clean: what becomes of each text, which somebody else has written.
    """
    offset, described, parts = 0, [], []
    for name, column in table.columns.items():
        data = column[max(0, first_row) :].tobytes()
        kind = f"{column.dtype.kind}{8 * column.dtype.itemsize}"
        described.append({"name": name, "type": kind, "offset": offset})
        data += b"\0" * (-len(data) % _STRIDE)
        offset += len(data)
        parts.append(data)
    header = json.dumps(
        {
            "generation": table.generation,
            "first_row": max(0, first_row),
            "rows": max(0, table.rows - max(0, first_row)),
            "columns": described,
            "texts": {name: [clean(text) for text in texts] for name, texts in table.texts.items()},
        }
    ).encode()
    header += b" " * (-(len(header) + 4) % _STRIDE)
    return b"".join([struct.pack("<I", len(header)), header, *parts])
