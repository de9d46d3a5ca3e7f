"""PGPO, Potential-Guided Policy Optimization (arXiv 2609.02236): credit from the change in a state's potential.

The potential of a state is the mean return of all steps taken in it, over all attempts at the task. Two steps of failed
attempts have the same return, 0, but a different gain in potential if only one of them led to a state from which
other attempts succeeded.
"""

from __future__ import annotations

import numpy as np

from stapo.algo.config import AdvantageConfig
from stapo.algo.credit import CreditRows, step_advantages
from stapo.algo.groups import DoubleArray, group_statistics


def pgpo(rows: CreditRows, config: AdvantageConfig) -> DoubleArray:
    """A_S + beta * (1 - p)^alpha * A_phi, eq. 11, with p the share of the task's attempts that succeeded.

    A_S is eq. 7 of STAPO, and A_phi is `potential_differences` compared inside anchor groups in the same way.
    """
    own = step_advantages(rows.return_b, rows.anchor_b, config, weight_b=rows.real_b)
    change = potential_differences(rows, config)
    led = step_advantages(change, rows.anchor_b, config, weight_b=rows.real_b)
    weight = config.potential_weight * (1.0 - success_rates(rows)) ** config.potential_power
    return own.astype(np.float64) + weight * led.astype(np.float64)


def potential_differences(rows: CreditRows, config: AdvantageConfig) -> DoubleArray:
    """Return discount * Phi(s') - Phi(s), eq. 7; behind the last step of a trajectory its own reward is the potential.

    Phi, eq. 6, is the mean discounted return of an anchor group. Penalties of invalid actions are not in it: in a group
    without a success they would be all that differs. The result is (B,) float64, in units of returns.
    """
    clean = rows.return_b + rows.penalty_b
    potential = group_statistics(clean, rows.anchor_b, weight_b=rows.real_b).mean_b
    return config.potential_discount * rows.following(potential, rows.reward_b) - potential


def success_rates(rows: CreditRows) -> DoubleArray:
    """Return (B,) the share of the attempts at the row's task that succeeded, eq. 9."""
    length = group_statistics(np.zeros_like(rows.return_b), rows.traj_b, weight_b=rows.real_b).size_b
    share = rows.real_b / np.maximum(length, 1)
    attempts = np.bincount(rows.group_b, weights=share)
    solved = np.bincount(rows.group_b, weights=share * rows.success_b)
    return np.asarray((solved / np.maximum(attempts, 1.0))[rows.group_b])
