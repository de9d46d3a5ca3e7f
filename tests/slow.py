"""Parameters of tests that `make test` leaves to `make test-all`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow_except(values: Iterable[Any], *fast: Any) -> list[Any]:
    """The values with all marked slow but those in `fast`: one way through a promise stays in `make test`."""
    values = list(values)
    unknown = [value for value in fast if value not in values]
    assert not unknown, f"no such parameters: {unknown}"
    mark = pytest.mark.slow
    return [v if v in fast else pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=mark) for v in values]
