"""The terms on flagged steps: awareness R_TA (eq. 4), penalty P_TI (eq. 5), their sum (eq. 10).

p is the policy on the full prompt, q the policy on the trajectory-blind prompt, r the reference on
the blind prompt; all at the rollout temperature, on the same response tokens, which were sampled
under the full prompt. q has to come from the current weights: with a stored q, P_TI is a constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stapo.algo.config import SelectiveConfig
from stapo.algo.groups import FloatArray, float32
from stapo.algo.loss import Stats, k3


@dataclass(frozen=True)
class SelectiveTerms:
    """What `selective_terms` returns.

    Attributes:
        r_ta_k: (K,) R_b, to be maximized.
        p_ti_k: (K,) P_b, to be minimized; None if nothing about r was given.
        stats: sums over the flagged rows' tokens: ``tokens``, ``r_ta_capped`` (those beyond the
            cap, and all of a row beyond its bound), ``p_ti_capped`` (those of P_TI beyond the cap of
            R_TA; they count in full), ``log_ratio_clamped`` (log ratios of R_TA beyond the clamp);
            see `mean_stats`.
    """

    r_ta_k: Tensor
    p_ti_k: Tensor | None
    stats: Stats


def token_kl(logp: Tensor, logq: Tensor, estimator: Literal["k1", "k3", "k2k1"], *, clamp: float = 20.0) -> Tensor:
    """Estimate KL(p || q) from the log-probabilities of sampled tokens.

    With d = log p - log q and tokens drawn from p:

    - ``k1`` is d. Through q its gradient is exact in expectation; through p it is zero. It may be
      negative; a diagnostic.
    - ``k3`` is e^-d - 1 + d. Through q exact; through p it is the gradient of KL(q || p), the other
      direction.
    - ``k2k1`` has the value of k3, the gradient of k2 = d^2 / 2 through p and that of k1 through q,
      both exact in expectation.

    Args:
        logp: log-probabilities under p, any shape.
        logq: log-probabilities under q, same shape.
        estimator: one of the three.
        clamp: d is held inside [-clamp, clamp]; the gradient is 0 beyond.

    Returns:
        Estimates in nats, same shape, fp32.
    """
    logp, logq = logp.float(), logq.float()
    if estimator == "k3":
        return k3(logp, logq, clamp=clamp)
    if estimator == "k1":
        return (logp - logq).clamp(-clamp, clamp)
    if estimator == "k2k1":
        through_p = 0.5 * (logp - logq.detach()).clamp(-clamp, clamp) ** 2
        through_q = (logp.detach() - logq).clamp(-clamp, clamp)
        carrier = through_p + through_q
        return k3(logp.detach(), logq.detach(), clamp=clamp) + (carrier - carrier.detach())
    raise ValueError(f"estimator is {estimator!r}; expected k1, k3 or k2k1.")


def unflatten_tokens(values_n: Tensor, mask_kl: Tensor) -> Tensor:
    """Put a flat list of token values back into rows, 0 elsewhere; differentiable.

    Args:
        values_n: (N,) values in the order of ``x[mask]``.
        mask_kl: (K, L) with N nonzero entries.

    Returns:
        (K, L) values.

    Raises:
        ValueError: the mask does not hold N entries.
    """
    mask = mask_kl != 0
    if int(mask.sum()) != values_n.shape[0]:
        raise ValueError(
            f"values_n has {values_n.shape[0]} entries for a mask of {int(mask.sum())} tokens; expected as many."
        )
    return values_n.new_zeros(mask.shape).masked_scatter(mask, values_n)


def selective_terms(
    mask_kl: Tensor,
    config: SelectiveConfig,
    *,
    logp_kl: Tensor,
    logq_kl: Tensor,
    logr_kl: Tensor | None = None,
    kl_pq_kl: Tensor | None = None,
    kl_qr_kl: Tensor | None = None,
    kl_rr_kl: Tensor | None = None,
) -> SelectiveTerms:
    """R_b and P_b of each flagged row: its tokens' divergences, averaged (or summed).

    Those of R_b are capped, and R_b itself is bounded as `config.bound` says.

    Gradients run through p and q in R_TA, as `config.ta_grad` allows, and through q in P_TI; r is a
    constant. The sampled estimators see that to themselves. Under ``full`` the divergences come
    from `stapo.algo.head.flagged_scores`, which has to be given the same `ta_grad`.

    Args:
        mask_kl: (K, L) nonzero on response tokens; elsewhere the inputs may hold anything.
        config: settings of this step.
        logp_kl: (K, L) log-probabilities of the response under p.
        logq_kl: (K, L) those under q.
        logr_kl: (K, L) those under r; for P_TI with a sampled estimator.
        kl_pq_kl: (K, L) exact KL(p || q); for ``full``.
        kl_qr_kl: (K, L) exact KL(q || r); for P_TI with ``full``.
        kl_rr_kl: (K, L) exact divergence of the reference on the full prompt from r; for
            ``bound=target``.

    Raises:
        ValueError: what `config.kl_estimator`, `config.bound` or a weight above 0 needs is missing.
    """
    mask = mask_kl != 0
    # Masked before any exponential: a NaN in padding would survive a product with 0 in backward.
    logp, logq = (torch.where(mask, x, 0.0) for x in (logp_kl, logq_kl))
    ta_p = logp.detach() if config.ta_grad == "blind_only" else logp
    ta_q = logq.detach() if config.ta_grad == "full_only" else logq
    clamp = config.log_ratio_clamp
    independence: Tensor | None = None
    if config.kl_estimator == "full":
        if kl_pq_kl is None or (config.gamma > 0 and kl_qr_kl is None):
            missing = "kl_pq_kl" if kl_pq_kl is None else "kl_qr_kl"
            raise ValueError(
                f"{missing} is None with selective.kl_estimator 'full' and selective.gamma "
                f"{config.gamma:g}; pass the exact divergence, or use k3 or k2k1."
            )
        awareness, independence = kl_pq_kl, kl_qr_kl
    else:
        if config.gamma > 0 and logr_kl is None:
            raise ValueError(
                f"logr_kl is None with selective.gamma {config.gamma:g}; pass the reference's "
                "log-probabilities on the blind prompt, or set gamma to 0."
            )
        awareness = token_kl(ta_p, ta_q, config.kl_estimator, clamp=clamp)
        if logr_kl is not None:
            logr = torch.where(mask, logr_kl.detach(), 0.0)
            independence = token_kl(logq, logr, config.kl_estimator, clamp=clamp)
    with torch.no_grad():
        stats = {
            "tokens": mask.sum(),
            "r_ta_capped": (mask & (awareness > config.kl_cap)).sum(),
            "log_ratio_clamped": (mask & ((logp - logq).abs() > clamp)).sum(),
        }
        if independence is not None:
            stats["p_ti_capped"] = (mask & (independence > config.kl_cap)).sum()
    r_ta_k = _reduce_rows(awareness.clamp(max=config.kl_cap), mask, config)
    if config.bound in ("cap", "target"):
        limit_k = _limit(mask, config, kl_rr_kl)
        with torch.no_grad():
            beyond = (r_ta_k > limit_k).unsqueeze(1) & mask & (awareness <= config.kl_cap)
            stats["r_ta_capped"] = stats["r_ta_capped"] + beyond.sum()
        r_ta_k = torch.minimum(r_ta_k, limit_k)
    return SelectiveTerms(r_ta_k, None if independence is None else _reduce_rows(independence, mask, config), stats)


def _limit(mask: Tensor, config: SelectiveConfig, kl_rr_kl: Tensor | None) -> Tensor:
    """(K,) what R_b counts up to: `bound_at` nats a token, above those of the reference under ``target``."""
    at = torch.full(mask.shape, config.bound_at, dtype=torch.float32, device=mask.device)
    if config.bound == "target":
        if kl_rr_kl is None:
            raise ValueError("kl_rr_kl is None with selective.bound 'target'; pass the reference's own divergence.")
        at = at + kl_rr_kl.detach()
    return _reduce_rows(at, mask, config)


def selective_divisor(config: SelectiveConfig, *, flagged: float, rows: float) -> float:
    """Return Z of the selective loss, at least 1; 1 under ``masked_mean``, where rows have weights of their own.

    Args:
        config: `norm` decides.
        flagged: flagged rows of the mini-batch, over all ranks.
        rows: rows with tokens of the mini-batch, over all ranks.
    """
    return 1.0 if config.norm == "masked_mean" else max(1.0, float(flagged if config.norm == "flagged" else rows))


def masked_mean_weights(config: SelectiveConfig, flag_b: npt.ArrayLike, tokens_b: npt.ArrayLike) -> FloatArray:
    """Weight of each row of a mini-batch under ``norm=masked_mean``.

    Every `mean_rows` rows have a mean over the tokens of their flagged rows, and weigh by their number
    among all rows. The weights of a mini-batch sum to the share of its rows that have a flagged one beside
    them; under ``flagged`` they would sum to 1.

    Args:
        config: `mean_rows`.
        flag_b: (B,) the flagged rows, in the order of the mini-batch.
        tokens_b: (B,) response tokens of each row.

    Returns:
        (B,) float32, 0 on rows that are not flagged.
    """
    flagged_tokens = np.where(np.asarray(flag_b, dtype=bool), np.asarray(tokens_b, dtype=np.float64), 0.0)
    part = np.arange(flagged_tokens.shape[0]) // config.mean_rows
    tokens, rows = np.bincount(part, weights=flagged_tokens), np.bincount(part)
    share = rows / max(1, flagged_tokens.shape[0]) / np.maximum(tokens, 1)
    return float32(flagged_tokens * share[part])


def selective_loss(
    r_ta_k: Tensor,
    p_ti_k: Tensor | None,
    config: SelectiveConfig,
    z: float,
    *,
    weight_k: Tensor | None = None,
    gain_k: Tensor | None = None,
) -> Tensor:
    """This micro-batch's share of -(1/Z) * sum_k (alpha * R_k - gamma * P_k), eq. 10 negated.

    A term of weight 0 is not computed at all, so with alpha = gamma = 0, as with no flagged row,
    the result is exactly 0 and has no graph.

    Args:
        r_ta_k: (K,) from `selective_terms`.
        p_ti_k: (K,) likewise; may be None if gamma is 0.
        config: alpha and gamma.
        z: divisor of the whole mini-batch (`selective_divisor`).
        weight_k: (K,) 0 on dummy rows, which some engines need so that all ranks run the same
            number of passes, and those of ``masked_mean`` on others; None for 1. Dummy rows keep
            their graph and add exactly 0.
        gain_k: (K,) weights of R_k alone, as `config.gate` has them; None for 1.

    Raises:
        ValueError: gamma is above 0 and `p_ti_k` is None.
    """
    if config.gamma > 0 and p_ti_k is None:
        raise ValueError(f"p_ti_k is None with selective.gamma {config.gamma:g}; expected (K,).")
    loss = torch.zeros((), dtype=torch.float32, device=r_ta_k.device)
    if r_ta_k.shape[0] == 0:
        return loss

    def total(term_k: Tensor) -> Tensor:
        return (term_k if weight_k is None else term_k * weight_k).sum()

    if config.alpha > 0 and config.gate != "bonus":
        loss = loss - config.alpha * total(r_ta_k if gain_k is None else r_ta_k * gain_k) / z
    if config.gamma > 0 and p_ti_k is not None:
        loss = loss + config.gamma * total(p_ti_k) / z
    return loss


def _reduce_rows(kl_kl: Tensor, mask: Tensor, config: SelectiveConfig) -> Tensor:
    sum_k = torch.where(mask, kl_kl, 0.0).sum(dim=1)
    if config.token_aggregation == "sum":
        return sum_k
    return sum_k / mask.sum(dim=1).clamp(min=1)
