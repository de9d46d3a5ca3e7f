"""The objective of one micro-batch inside verl: base loss of every step, selective terms of the flagged ones.

Plain tensors in, one number out; every formula is `stapo.algo`'s. What several ranks add is that divisors are counted
over all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stapo.algo import (
    AlgorithmConfig,
    Correction,
    LossDenominators,
    SelectiveTerms,
    base_loss,
    correction_weights,
    selective_divisor,
    selective_loss,
    selective_terms,
    unflatten_tokens,
)
from stapo.errors import EngineError
from stapo.verl_plugin.fields import SAMPLED, TRAJECTORY_STEPS, flat, padded
from stapo.verl_plugin.head import FlaggedSteps
from stapo.verl_plugin.steps import Steps, flagged_steps


@dataclass(frozen=True)
class Totals:
    """Counts of one mini-batch over all ranks; padding does not count.

    Attributes:
        tokens: response tokens.
        rows: steps with at least one token.
        flagged: steps that the selective terms act on.
        trajectories: episodes with such a step; counted where the loss is aggregated by them, else 0.
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


def shares_of_none(algorithm: AlgorithmConfig, totals: Totals) -> dict[str, float]:
    """What a micro-batch without flagged steps logs of the selective terms.

    0 where others of its mini-batch have some; nothing where none has: a mean over nothing is no 0.
    """
    if not algorithm.selective_on or not totals.flagged:
        return {}
    return dict.fromkeys(("selective_loss", "r_ta", "p_ti"), 0.0)


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
    weight_bl: Tensor | None = None,
    terms: SelectiveTerms | None = None,
    gain_k: Tensor | None = None,
) -> Objective:
    """Loss of one micro-batch (B steps, K of them flagged).

    Args:
        algorithm: which terms, resolved.
        totals: divisors of the whole mini-batch.
        logp_bl: (B, L) log-probabilities, with gradient.
        old_logp_bl: (B, L) those before the update.
        advantage_b: (B,) advantages.
        mask_bl: (B, L) nonzero on response tokens; nothing on padding.
        ref_logp_bl: (B, L) the reference's; required if beta is above 0.
        entropy_bl: (B, L) token entropies; required if there is an entropy bonus.
        traj_steps_b: (B,) steps that the step's episode has in the mini-batch, over all ranks; the aggregation
            `trajectory` needs it.
        weight_bl: (B, L) importance weights of the policy loss; None for 1.
        terms: of the flagged steps of this micro-batch; None where there are none.
        gain_k: (K,) weights of their R_TA, as `selective.gate` has them; None for 1.
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
        weight_bl=weight_bl,
    )
    tokens = max(totals.tokens, 1.0)
    logged = {name: float(value) / tokens for name, value in base.stats.items() if name != "tokens"}
    logged["loss"] = float(base.loss.detach())
    if terms is None:
        return Objective(base.loss, logged)
    z = selective_divisor(algorithm.selective, flagged=totals.flagged, rows=totals.rows)
    extra = selective_loss(terms.r_ta_k, terms.p_ti_k, algorithm.selective, z, gain_k=gain_k)
    flagged = max(totals.flagged, 1.0)
    logged["selective_loss"] = float(extra.detach())
    logged["r_ta"] = float(terms.r_ta_k.detach().sum()) / flagged
    if terms.p_ti_k is not None:
        logged["p_ti"] = float(terms.p_ti_k.detach().sum()) / flagged
    return Objective(base.loss + extra, logged)


def rows_objective(
    algorithm: AlgorithmConfig,
    totals: Totals,
    data: Mapping[str, Any],
    logp_bl: Tensor,
    entropy_bl: Tensor | None,
    flagged: FlaggedSteps | None,
    correction: Correction | None = None,
) -> Objective:
    """`objective` of the steps in B of verl's rows: ratios, lengths, clips and aggregations are those of steps.

    Args:
        algorithm: which terms, resolved.
        totals: divisors of the whole mini-batch.
        data: verl's micro-batch, with our columns.
        logp_bl: (B, L) log-probabilities at response tokens, with gradient; anything between two steps.
        entropy_bl: (B, L) token entropies likewise.
        flagged: scores of the flagged steps; None where there are none.
        correction: weights for how the rollout server differs from the training engine; None for none.

    Raises:
        EngineError: a correction without log-probabilities of the rollout server.
    """
    steps = Steps.of(data)

    def cut(name: str) -> Tensor:
        return steps.cut(padded(data[name]))

    old_logp_sl, mask_sl, weight_sl = cut("old_log_probs"), cut("response_mask"), None
    advantage_s, gain_k = cut("advantages")[:, 0], None
    if flagged is not None and algorithm.selective.gate == "positive":
        gain_k = (advantage_s[flagged_steps(data)] > 0).float()
    if correction is not None:
        if SAMPLED not in data:
            raise EngineError(
                f"rollout.correction needs the rollout server's log-probabilities, and verl's batch has no {SAMPLED}. "
                "Set actor_rollout_ref.rollout.calculate_log_probs=True, as 'stapo verl' does, or set "
                "rollout.correction to 'none'."
            )
        weight_sl = correction_weights(old_logp_sl, cut(SAMPLED), mask_sl, correction)
    traj_steps_s = None
    if TRAJECTORY_STEPS in data:
        traj_steps_b = flat(data[TRAJECTORY_STEPS])
        traj_steps_s = traj_steps_b[torch.tensor(steps.row_s, device=traj_steps_b.device)]
    return objective(
        algorithm,
        totals,
        logp_bl=steps.cut(logp_bl),
        old_logp_bl=old_logp_sl,
        advantage_b=advantage_s,
        mask_bl=mask_sl,
        ref_logp_bl=cut("ref_log_prob") if algorithm.loss.beta > 0 else None,
        entropy_bl=None if entropy_bl is None else steps.cut(entropy_bl),
        traj_steps_b=traj_steps_s,
        weight_bl=weight_sl,
        terms=None if flagged is None else _terms(algorithm, flagged),
        gain_k=gain_k,
    )


def _terms(algorithm: AlgorithmConfig, flagged: FlaggedSteps) -> SelectiveTerms:
    mask_kl, scores = flagged.mask_kl, flagged.scores

    def steps(values_n: Tensor) -> Tensor:
        return unflatten_tokens(values_n, mask_kl)

    return selective_terms(
        mask_kl,
        algorithm.selective,
        logp_kl=steps(scores.logp_n),
        logq_kl=steps(scores.logq_n),
        logr_kl=None if scores.logr_n is None else steps(scores.logr_n),
        kl_pq_kl=steps(scores.kl_pq_n),
        kl_qr_kl=None if scores.kl_qr_n is None else steps(scores.kl_qr_n),
    )


def own_counts(data: Mapping[str, Any], *, selective: bool) -> tuple[Tensor, Tensor]:
    """What this rank's B rows of a mini-batch count: sampled tokens, steps that have some, flagged steps.

    Args:
        data: verl's mini-batch, with our columns.
        selective: whether there are flagged steps.

    Returns:
        the three counts, and (B,) steps with tokens of each row.
    """
    steps = Steps.of(data)
    tokens_s = steps.cut(padded(data["response_mask"])).sum(dim=1).cpu()
    used_b = torch.zeros(data["response_mask"].shape[0], dtype=torch.int64)
    used_b.index_add_(0, torch.tensor(steps.row_s), (tokens_s > 0).long())
    flags = len(flagged_steps(data)) if selective else 0
    return torch.tensor([float(tokens_s.sum()), float(used_b.sum()), float(flags)]), used_b


def steps_per_trajectory(traj_b: Tensor, used_b: Tensor, everywhere: list[list[int]]) -> tuple[Tensor, int]:
    """Steps that each row's episode has in the mini-batch, and how many episodes there are.

    Args:
        traj_b: (B,) episode of this rank's rows.
        used_b: (B,) steps with at least one token of each row.
        everywhere: for each rank the episode of each of its steps with a token.
    """
    counts: dict[int, int] = {}
    for rank in everywhere:
        for episode in rank:
            counts[episode] = counts.get(episode, 0) + 1
    steps = [
        counts.get(episode, 0) if used else 0 for episode, used in zip(traj_b.tolist(), used_b.tolist(), strict=True)
    ]
    return torch.tensor(steps, dtype=torch.float32, device=traj_b.device), len(counts)
