"""The static HTML report of a run."""

from __future__ import annotations

from pathlib import Path

from stapo.run import RunDirectory

__all__ = ["write_report"]


def write_report(run: RunDirectory) -> Path:
    """Write `report.html` into the run directory; returns its path.

    The page needs no network and no other file. What the run lacks is said on the page.

    Raises:
        RunDirectoryError: run.json cannot be read, or the page cannot be written.
    """
    # Half a second of matplotlib is paid by those who draw only.
    from stapo.report.write import write

    return write(run)
