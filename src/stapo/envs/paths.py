"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path


def user_path(given: str | os.PathLike[str]) -> Path:
    """The path meant, with `~` and `$VARIABLES` filled in."""
    return Path(os.path.expandvars(os.fspath(given))).expanduser()
