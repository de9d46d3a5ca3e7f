"""G2PO, Group-Graph Policy Optimization (arXiv 2606.22995): credit from the values of states.

The value of a state is the mean over all steps taken in it, over all attempts at the task. A step is compared twice:
the value of the next state inside the anchor group, and the gain in value among all steps of the task. The latter tells
a decisive step from a small improvement, which standardizing inside the anchor group does not.
"""

from __future__ import annotations

import numpy as np

from stapo.algo.config import AdvantageConfig
from stapo.algo.credit import CreditRows, step_advantages
from stapo.algo.groups import DoubleArray, group_statistics
from stapo.algo.returns import episode_returns


def g2po(rows: CreditRows, config: AdvantageConfig) -> DoubleArray:
    """A_NC + A_EC, the node-centric and the edge-centric advantage. Penalties of invalid actions are in A_NC only."""
    before, behind = state_values(rows, config)
    local = step_advantages(behind - rows.penalty_b, rows.anchor_b, config, weight_b=rows.real_b)
    gained = step_advantages(behind - before, rows.group_b, config, weight_b=rows.real_b)
    return local.astype(np.float64) + gained.astype(np.float64)


def state_values(rows: CreditRows, config: AdvantageConfig) -> tuple[DoubleArray, DoubleArray]:
    """Value of the state before each row's step, and of the state after it.

    The value of a visit is discount times its discounted return, which is discount^(T - t + 1) R where the reward comes
    at the end. The value after the last step is the return of the trajectory.

    Returns:
        Two (B,) float64 arrays, in units of returns.
    """
    visit = config.discount * (rows.return_b + rows.penalty_b)
    value = group_statistics(visit, rows.anchor_b, weight_b=rows.real_b).mean_b
    return value, rows.following(value, episode_returns(rows.reward_b, rows.traj_b, weight_b=rows.real_b))
