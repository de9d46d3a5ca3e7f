"""Checks shared by the algorithm modules: finite arrays, equal lengths, the right part of an algorithm."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stapo.documents import shown
from stapo.errors import ConfigError, NonFiniteError


def require_finite(name: str, array: Any) -> None:
    """Raise unless every entry of `array` is a finite number.

    Args:
        name: what the array is, for the message ("reward_b").
        array: numpy array or torch tensor of any shape; its first axis is called the row.

    Raises:
        NonFiniteError: names the array, the first offending row and the value found there.
    """
    # Tensors are tested where they live: copying a whole batch off an accelerator to look for a NaN
    # is not free.
    if hasattr(array, "isfinite"):
        bad = ~array.isfinite()
        if not bool(bad.any()):
            return
        bad_np = bad.cpu().numpy()
        values = array.detach().double().cpu().numpy()
    else:
        values = np.asarray(array)
        bad_np = ~np.isfinite(values)
        if not bad_np.any():
            return
    index = tuple(int(axis[0]) for axis in np.nonzero(np.atleast_1d(bad_np)))
    found = np.atleast_1d(values)[index]
    raise NonFiniteError(
        f"{name} holds {found} at row {index[0]} (index {index}; {int(bad_np.sum())} such entries "
        f"of {bad_np.size}); expected finite numbers. The update must not run on it."
    )


def require_length(rows: int, **arrays: npt.ArrayLike) -> None:
    """Raise unless every array is one-dimensional with `rows` entries.

    Raises:
        ValueError: names the array, its shape and the shape that was expected.
    """
    for name, array in arrays.items():
        shape = np.shape(array)
        if shape != (rows,):
            raise ValueError(f"{name} has shape {shape}; expected ({rows},), one entry per row.")


def require_config(config: object, kind: type) -> None:
    """Raise ConfigError unless `config` is of the kind that a function takes, such as the part of an algorithm."""
    if not isinstance(config, kind):
        raise ConfigError(f"config is {shown(config)}, expected {kind.__name__}: a part of get_algorithm(NAME).")
