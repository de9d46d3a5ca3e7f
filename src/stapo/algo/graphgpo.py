"""GraphGPO (arXiv 2605.26684): credit from the distance to success that remains after a step.

All attempts at a task form one graph, with states as nodes and steps as edges. The shortest path from a state to
success may combine steps of several attempts, including failed ones.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stapo.algo.config import AdvantageConfig
from stapo.algo.credit import CreditRows, step_advantages
from stapo.algo.groups import DoubleArray, FloatArray
from stapo.algo.returns import episode_returns, next_rows


def graphgpo(rows: CreditRows, config: AdvantageConfig) -> FloatArray:
    """`distance_rewards` minus the penalty of an invalid action, standardized inside the anchor group."""
    reward = distance_rewards(rows, config) - rows.penalty_b
    return step_advantages(reward, rows.anchor_b, config, weight_b=rows.real_b)


def distance_rewards(rows: CreditRows, config: AdvantageConfig) -> DoubleArray:
    """Return |r| * discount^(d(s') + 1), eq. 4, with d from `distances_behind` and the cost of a step 1.

    r is the mean return of the task's successful attempts; without one all rewards are 0. Where steps cost more than
    success pays, r is below 0, and a shorter distance is still the better one.

    The result is (B,) float64, in units of returns.
    """
    returns = episode_returns(rows.reward_b, rows.traj_b, weight_b=rows.real_b)
    solved = np.bincount(rows.group_b, weights=rows.success_b)
    paid = np.bincount(rows.group_b, weights=returns * rows.success_b) / np.maximum(solved, 1.0)
    return np.asarray(np.abs(paid)[rows.group_b] * config.distance_discount ** (distances_behind(rows) + 1.0))


def distances_behind(rows: CreditRows) -> npt.NDArray[np.int64]:
    """Number of steps from the state after each row to success, on the shortest path in the task's graph.

    A state without a path to success counts as one step further than the furthest state that has one. So does the state
    after the last step of a failed attempt, in which no step was taken.

    Returns:
        (B,) integers; 0 after the last step of a successful attempt.
    """
    next_b = next_rows(rows.traj_b, rows.step_b, rows.real_b)
    inside = np.flatnonzero(next_b >= 0)
    tail, head = rows.anchor_b[inside], rows.anchor_b[next_b[inside]]
    unknown = np.iinfo(np.int64).max
    distance = np.full(int(rows.anchor_b.max(initial=0)) + 1, unknown)
    ends = (next_b < 0) & rows.success_b
    reached, steps = rows.anchor_b[ends], 0
    # All steps cost 1, so breadth-first search finds the shortest paths, for all tasks at once.
    while reached.size:
        steps += 1
        distance[reached] = steps
        reached = tail[(distance[head] == steps) & (distance[tail] == unknown)]
    known = np.where(distance[rows.anchor_b] == unknown, 0, distance[rows.anchor_b]) * rows.real_b
    furthest = np.zeros(int(rows.group_b.max(initial=0)) + 1, np.int64)
    np.maximum.at(furthest, rows.group_b, known)
    away = furthest[rows.group_b] + 1
    behind = np.where(ends, 0, unknown)
    behind[inside] = distance[head]
    return np.where(behind == unknown, away, behind)
