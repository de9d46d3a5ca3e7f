"""What a value given for an option of an environment is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeGuard


def is_whole(value: object, least: int) -> TypeGuard[int]:
    """Whether it is a whole number of at least `least`; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_share(value: object) -> bool:
    """Whether it is a number from 0 to 1; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def user_path(given: str | os.PathLike[str]) -> Path:
    """The path meant, with `~` and `$VARIABLES` filled in."""
    return Path(os.path.expandvars(os.fspath(given))).expanduser()
