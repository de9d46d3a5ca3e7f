"""All recorded steps of a run as columns for the browser, and what is looked up by their rows."""

from __future__ import annotations

import json
import math
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from stapo.html.pages import cleaned
from stapo.run.step_table import StepTable
from stapo.viewer.catalog import Catalog

_MOST_TABLES = 3  # of 15 MB for 100,000 steps
_AT_A_TIME = 40  # transcripts that are read whole before a page hears how far it is
_LONGEST = 400  # characters of a text of a column

_STRIDE = 8


class _OpenTable:
    """A table that one request at a time may use."""

    def __init__(self, table: StepTable) -> None:
        self.table = table
        self.lock = threading.Lock()


class Tables:
    """Keeps the tables of the runs that were looked at last.

    Args:
        catalog: the runs that may be looked at.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._held: OrderedDict[str, _OpenTable] = OrderedDict()
        self._lock = threading.Lock()

    def state(self, name: str) -> dict[str, Any]:
        """Read what is new; says how many steps there are, and what is still to be read."""
        with self._table(name) as table:
            table.refresh(_AT_A_TIME)
            return {
                "generation": table.generation,
                "rows": table.rows,
                "pending": table.pending,
                "remarks": cleaned(table.remarks),
            }

    def packed(self, name: str, first: int, generation: int) -> bytes:
        """The steps from row `first` of a generation on, all of them if it is over; see `packed`."""
        with self._table(name) as table:
            first = first if generation == table.generation else 0
            return packed(table, first, lambda text: str(cleaned(text, _LONGEST)))

    def search(self, name: str, text: str) -> dict[str, Any]:
        """Rows whose observation, action or response holds a text, and whether there may be more."""
        with self._table(name) as table:
            found = table.search(text)
            return {"rows": found.rows, "cut": found.cut}

    def batch(self, name: str, iteration: int) -> dict[str, Any]:
        """Entropy, score and anchor group of all rows of an iteration, by environment."""
        with self._table(name) as table:
            table.refresh(_AT_A_TIME)
            batches = table.batch(iteration)
        return {
            "batches": {
                str(cleaned(label)): {
                    "entropy": _numbers(batch.entropy_b.tolist()),
                    "score": _numbers(batch.score_b.tolist()),
                    "anchor": batch.anchor_b.tolist(),
                }
                for label, batch in batches.items()
            }
        }

    @contextmanager
    def _table(self, name: str) -> Iterator[StepTable]:
        path = self._catalog.run(name).path
        with self._lock:
            held = self._held.get(name)
            if held is None or held.table.path != path:
                held = self._held[name] = _OpenTable(StepTable(path))
            self._held.move_to_end(name)
            while len(self._held) > _MOST_TABLES:
                self._held.popitem(last=False)
        with held.lock:
            yield held.table


def _numbers(values: list[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def packed(table: StepTable, first_row: int = 0, clean: Callable[[str], str] = str) -> bytes:
    """The rows of a table from `first_row` on, as bytes that a browser can use without parsing each number.

    Four bytes, the length of the header; the header, JSON, filled up with blanks; then the columns, each at a multiple
    of eight bytes behind the header. All numbers are little-endian. The header has `generation`, `first_row`, `rows`,
    `columns` (name, type, offset behind the header) and `texts` (all texts of each coded column).

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
