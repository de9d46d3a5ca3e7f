"""The global random states of Python, NumPy and torch.

Nothing in this package draws from them: every number here is a function of the seed and of its place in the run. A
third-party environment or a model with dropout may, so a run seeds them and its saves hold them.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from stapo.errors import SaveError


def seed_all(seed: int) -> None:
    """Seed the generators that are shared by the whole process."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (the legacy generator is the one that others share)
    torch.manual_seed(seed)


def random_state() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The states as plain data, and those of torch as tensors."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    plain = {
        "python": [version, list(internal), gauss],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
    }
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return plain, tensors


def restore_random_state(plain: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Put the states back.

    Raises:
        SaveError: one is missing or cannot be read; resuming with other random numbers would be another run.
    """
    try:
        version, internal, gauss = plain["python"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, position, has_gauss, cached = plain["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
        torch.set_rng_state(tensors["cpu"])
        if torch.cuda.is_available():
            for i in range(torch.cuda.device_count()):
                torch.cuda.set_rng_state(tensors[f"cuda:{i}"], i)
    except (KeyError, TypeError, ValueError, RuntimeError) as err:
        raise SaveError(
            f"the save's random states are missing or damaged ({type(err).__name__}: {err}). The run cannot be "
            "continued as the same run from it."
        ) from err
