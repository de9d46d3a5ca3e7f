"""Advantages and flags of the steps in verl's rows, by the function that the embedded engine calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stapo.algo import AlgorithmConfig
from stapo.training.batch import RowBatch, build_batch, rows_of
from stapo.verl_plugin.fields import BLIND_IDS, BLIND_LENGTHS, STEP, TRAJECTORY, ragged_rows
from stapo.verl_plugin.rows import VerlRow, trajectories_of

NO_TRAJECTORY = -1
"""Trajectory index of padding."""


@dataclass(frozen=True)
class StepShare:
    """What one step of a row gets.

    Attributes:
        start, end: its tokens among the row's response tokens.
        advantage: 0 on padding.
        blind_ids: the trajectory-blind prompt where the selective terms act on the step, else empty; never on padding,
            and nowhere where the algorithm has no such terms.
    """

    start: int
    end: int
    advantage: float = 0.0
    blind_ids: Sequence[int] = ()


@dataclass(frozen=True)
class Credit:
    """What goes back to verl, row by row in the order of its batch (B rows).

    Attributes:
        steps: for each row its steps; padding is one.
        traj_b: index of the episode; `NO_TRAJECTORY` on padding.
        batch: the steps in the order of the math, with all that was computed.
    """

    steps: list[list[StepShare]]
    traj_b: np.ndarray
    batch: RowBatch


def assign_credit(
    rows: Sequence[VerlRow],
    algorithm: AlgorithmConfig,
    *,
    merge: bool,
    seed: Sequence[int] | None = None,
    states: Mapping[str, Sequence[float]] | None = None,
) -> Credit:
    """Compute advantages and flags of one batch. Padding is in no statistic, is never flagged and has advantage 0.

    Args:
        rows: one batch of verl, padding included.
        algorithm: which math.
        merge: as the rows were made; for what is said of sequences.
        seed: as for `stapo.training.batch.build_batch`.
        states: as for `stapo.training.batch.build_batch`.

    Raises:
        EngineError: the rows are not whole episodes of our agent loop.
        NonFiniteError: a reward, log-probability or entropy is not finite.
    """
    trajectories, places = trajectories_of(rows)
    chains = rows_of(trajectories, merge=merge, whole=True)[1]
    batch = build_batch(trajectories, algorithm, seed=seed, states=states, chains=chains)
    steps = [[StepShare(start, end) for start, end in row.spans] for row in rows]
    traj_b = np.full(len(rows), NO_TRAJECTORY, dtype=np.int64)
    for b, (place, part) in enumerate(places):
        flagged = algorithm.selective_on and batch.flag_b[b]
        blind_ids = batch.steps[b].blind_ids if flagged else ()
        start, end = rows[place].spans[part]
        steps[place][part] = StepShare(start, end, float(batch.advantages.total_b[b]), blind_ids)
        traj_b[place] = batch.traj_b[b]
    return Credit(steps, traj_b, batch)


def columns(credit: Credit, response_lengths: Sequence[int]) -> dict[str, Tensor]:
    """What is written back: steps, each one's advantage at its own tokens alone, blind prompts, episodes."""
    advantages, numbers, blind_ids = [], [], []
    for steps, length in zip(credit.steps, response_lengths, strict=True):
        advantages.append(torch.zeros(length))
        numbers.append(torch.full((length,), -1))
        for number, step in enumerate(steps):
            advantages[-1][step.start : step.end] = step.advantage
            numbers[-1][step.start : step.end] = number
        blind_ids.append(torch.tensor([i for step in steps for i in step.blind_ids] or [0]))
    return {
        "advantages": ragged_rows(advantages),
        "returns": ragged_rows(advantages),  # there is no critic; verl's metrics ask for the column
        STEP: ragged_rows(numbers),
        BLIND_LENGTHS: ragged_rows([torch.tensor([len(step.blind_ids) for step in steps]) for steps in credit.steps]),
        BLIND_IDS: ragged_rows(blind_ids),
        TRAJECTORY: torch.as_tensor(credit.traj_b),
    }
