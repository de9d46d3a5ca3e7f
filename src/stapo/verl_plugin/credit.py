"""Advantages and flags of verl's rows, by the function that the embedded engine calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stapo.algo import AlgorithmConfig
from stapo.training.batch import RowBatch, build_batch
from stapo.verl_plugin.rows import VerlRow, trajectories_of

NO_TRAJECTORY = -1
"""Trajectory index of padding."""


@dataclass(frozen=True)
class Credit:
    """What goes back to verl, row by row in the order of its batch (B rows).

    Attributes:
        advantage_b: advantage of the step; 0 on padding.
        flag_b: rows that the selective terms act on; never padding, nothing where the algorithm has no such terms.
        traj_b: index of the episode; `NO_TRAJECTORY` on padding.
        blind_ids: the trajectory-blind prompt of flagged rows, else empty.
        batch: the rows in the order of the math, with all that was computed.
    """

    advantage_b: np.ndarray
    flag_b: np.ndarray
    traj_b: np.ndarray
    blind_ids: list[list[int]]
    batch: RowBatch


def assign_credit(
    rows: Sequence[VerlRow],
    algorithm: AlgorithmConfig,
    *,
    seed: Sequence[int] | None = None,
    states: Mapping[str, Sequence[float]] | None = None,
) -> Credit:
    """Compute advantages and flags of one batch. Padding is in no statistic, is never flagged and has advantage 0.

    Args:
        rows: one batch of verl, padding included.
        algorithm: which math.
        seed: as for `stapo.training.batch.build_batch`.
        states: as for `stapo.training.batch.build_batch`.

    Raises:
        EngineError: the rows are not whole episodes of our agent loop.
        NonFiniteError: a reward, log-probability or entropy is not finite.
    """
    trajectories, places = trajectories_of(rows)
    batch = build_batch(trajectories, algorithm, seed=seed, states=states)
    advantage_b = np.zeros(len(rows))
    flag_b = np.zeros(len(rows), dtype=bool)
    traj_b = np.full(len(rows), NO_TRAJECTORY, dtype=np.int64)
    advantage_b[places] = batch.advantages.total_b
    traj_b[places] = batch.traj_b
    if algorithm.selective_on:
        flag_b[places] = batch.flag_b
    blind_ids: list[list[int]] = [[] for _ in rows]
    for place, step in zip(places, batch.steps, strict=True):
        if flag_b[place]:
            blind_ids[place] = step.blind_ids
    return Credit(advantage_b, flag_b, traj_b, blind_ids, batch)
