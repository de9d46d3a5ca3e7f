"""Small fixtures shared by the algorithm tests; one thread, because the cores are shared."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stapo.algo import exact_groups

torch.set_num_threads(1)


class Batch:
    """A rollout batch of 4 tasks x 4 trajectories with revisited states, made from a seed."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        rows = [
            (u, 4 * u + j, t, f"state {rng.integers(4)}")
            for u in range(4)
            for j in range(4)
            for t in range(rng.integers(1, 9))
        ]
        self.group, self.traj, self.step = (np.array([r[i] for r in rows]) for i in range(3))
        self.anchor = exact_groups(self.group, [r[3] for r in rows])
        n = len(rows)
        self.reward = np.where(rng.random(n) < 0.2, 10.0, 0.0)
        self.valid = rng.random(n) < 0.8
        self.entropy = rng.gamma(2.0, 0.3, n)
        self.weight = np.ones(n)
        self.n = n


@pytest.fixture
def batch() -> Batch:
    return Batch()


@pytest.fixture
def make_batch() -> type[Batch]:
    return Batch
