"""The objective of one micro-batch inside verl: base loss of every row, selective terms of the flagged ones.

Plain tensors in, one number out; every formula is `stapo.algo`'s. What several ranks add is that divisors are counted
over all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stapo.algo import (
    AlgorithmConfig,
    LossDenominators,
    SelectiveTerms,
    base_loss,
    selective_divisor,
    selective_loss,
)


@dataclass(frozen=True)
class Totals:
    """Counts of one mini-batch over all ranks; padding does not count.

    Attributes:
        tokens: response tokens.
        rows: rows with at least one token.
        flagged: rows that the selective terms act on.
        trajectories: episodes with such a row; counted where the loss is aggregated by them, else 0.
    """

    tokens: float
    rows: float
    flagged: float
    trajectories: float = 0.0


@dataclass(frozen=True)
class Objective:
    """This micro-batch's share of the loss, and of what is logged.

    Attributes:
        loss: base loss plus selective loss; the shares of all micro-batches and ranks add up.
        logged: shares likewise, named as in the embedded engine's metrics.
    """

    loss: Tensor
    logged: dict[str, float]


def objective(
    algorithm: AlgorithmConfig,
    totals: Totals,
    *,
    logp_bl: Tensor,
    old_logp_bl: Tensor,
    advantage_b: Tensor,
    mask_bl: Tensor,
    ref_logp_bl: Tensor | None = None,
    entropy_bl: Tensor | None = None,
    traj_steps_b: Tensor | None = None,
    terms: SelectiveTerms | None = None,
) -> Objective:
    """Loss of one micro-batch (B rows, K of them flagged).

    Args:
        algorithm: which terms, resolved.
        totals: divisors of the whole mini-batch.
        logp_bl: (B, L) log-probabilities, with gradient.
        old_logp_bl: (B, L) those before the update.
        advantage_b: (B,) advantages.
        mask_bl: (B, L) nonzero on response tokens; nothing on padding rows.
        ref_logp_bl: (B, L) the reference's; required if beta is above 0.
        entropy_bl: (B, L) token entropies; required if there is an entropy bonus.
        traj_steps_b: (B,) rows that the row's episode has in the mini-batch, over all ranks; the aggregation
            `trajectory` needs it.
        terms: of the flagged rows of this micro-batch; None where there are none.
    """
    denominators = LossDenominators(totals.tokens, totals.rows, totals.trajectories, traj_steps_b)
    base = base_loss(
        logp_bl,
        old_logp_bl,
        advantage_b,
        mask_bl,
        algorithm.loss,
        denominators,
        ref_logp_bl=ref_logp_bl,
        entropy_bl=entropy_bl,
    )
    tokens = max(totals.tokens, 1.0)
    logged = {name: float(value) / tokens for name, value in base.stats.items() if name != "tokens"}
    logged["loss"] = float(base.loss.detach())
    if terms is None:
        return Objective(base.loss, logged)
    z = selective_divisor(algorithm.selective, flagged=totals.flagged, rows=totals.rows)
    extra = selective_loss(terms.r_ta_k, terms.p_ti_k, algorithm.selective, z)
    flagged = max(totals.flagged, 1.0)
    logged["selective_loss"] = float(extra.detach())
    logged["r_ta"] = float(terms.r_ta_k.detach().sum()) / flagged
    if terms.p_ti_k is not None:
        logged["p_ti"] = float(terms.p_ti_k.detach().sum()) / flagged
    return Objective(base.loss + extra, logged)


def rows_per_trajectory(traj_b: Tensor, used_b: Tensor, everywhere: list[list[int]]) -> tuple[Tensor, int]:
    """Rows that each row's episode has in the mini-batch, and how many episodes there are.

    Args:
        traj_b: (B,) episode of this rank's rows.
        used_b: (B,) rows with at least one token.
        everywhere: for each rank the episodes of its rows with a token, one entry per row.
    """
    counts: dict[int, int] = {}
    for rank in everywhere:
        for episode in rank:
            counts[episode] = counts.get(episode, 0) + 1
    steps = [
        counts.get(episode, 0) if used else 0 for episode, used in zip(traj_b.tolist(), used_b.tolist(), strict=True)
    ]
    return torch.tensor(steps, dtype=torch.float32, device=traj_b.device), len(counts)
