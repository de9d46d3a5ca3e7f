"""The base objective of every step: clipped policy loss, reference divergence, entropy (eq. 9).

A mini-batch may be cut into micro-batches and spread over ranks. `LossDenominators` therefore holds
every divisor of the whole mini-batch; each micro-batch computes its share with them, and the shares
add up to the loss of the mini-batch. Statistics are sums over tokens for the same reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from stapo.algo.config import Aggregation, PolicyLossConfig
from stapo.algo.registries import POLICY_LOSSES
from stapo.documents import shown
from stapo.errors import ConfigError
from stapo.registry import traits

Stats = dict[str, Tensor]


@dataclass(frozen=True)
class LossDenominators:
    """Divisors of one mini-batch. Rows without tokens, padding among them, do not count.

    Attributes:
        tokens: response tokens.
        rows: rows with at least one token.
        trajectories: trajectories with at least one such row.
        traj_steps_b: (B,) how many such rows the row's trajectory has in the mini-batch; needed by
            ``trajectory`` alone, else None.
    """

    tokens: float
    rows: float
    trajectories: float = 0.0
    traj_steps_b: Tensor | None = None

    @classmethod
    def of(cls, mask_bl: Tensor, traj_b: Tensor | None = None) -> LossDenominators:
        """Count one rank's mini-batch.

        With several ranks, replace the three totals by their sums over ranks, and
        keep all rows of a trajectory on one rank if ``trajectory`` aggregation is used.

        Args:
            mask_bl: (B, L) nonzero on response tokens.
            traj_b: (B,) integer trajectory ids; None unless aggregating by trajectory.
        """
        mask = mask_bl != 0
        used = mask.any(dim=1)
        if traj_b is None:
            return cls(tokens=float(mask.sum()), rows=float(used.sum()))
        _, code = torch.unique(traj_b, return_inverse=True)
        steps = torch.zeros(int(code.max()) + 1 if code.numel() else 0, device=mask.device)
        steps = steps.index_add(0, code, used.to(steps.dtype))
        return cls(
            tokens=float(mask.sum()),
            rows=float(used.sum()),
            trajectories=float((steps > 0).sum()),
            traj_steps_b=steps[code],
        )

    def take(self, rows: Tensor | slice) -> LossDenominators:
        """Return the divisors for a micro-batch: same totals, per-row counts of the given rows."""
        if self.traj_steps_b is None:
            return self
        return replace(self, traj_steps_b=self.traj_steps_b[rows])


class PolicyLoss(NamedTuple):
    """Per-token loss, 0 outside the mask, and sums over tokens; see `mean_stats`."""

    loss_bl: Tensor
    stats: Stats


class PolicyLossFunction(Protocol):
    """The loss of every token: what `loss.policy` names; see `policy_loss` for its arguments.

    A pure function. Trait (`stapo.registry.traits`): ``zero_without_advantage`` says that a row whose
    advantage is 0 has no gradient, so that the trainer need not score it.
    """

    def __call__(
        self, logp_bl: Tensor, old_logp_bl: Tensor, advantage_b: Tensor, mask_bl: Tensor, config: PolicyLossConfig, /
    ) -> Tensor | PolicyLoss:
        """Return (B, L) losses, or `PolicyLoss` with sums over tokens to be logged; ``tokens`` among them."""
        ...


class BaseLoss(NamedTuple):
    """This micro-batch's share of the base loss, its parts before weighting, and token sums."""

    loss: Tensor
    policy: Tensor
    kl: Tensor
    entropy: Tensor
    stats: Stats


def k3(logp: Tensor, ref_logp: Tensor, *, clamp: float = 20.0, cap: float | None = None) -> Tensor:
    """Estimate KL(p || ref) at sampled tokens by e^-d - 1 + d with d = log p - log ref.

    Never negative. Exact in expectation if the tokens come from p, but its gradient through `logp`
    is that of KL(ref || p); see `stapo.algo.selective.token_kl`.

    Args:
        logp: log-probabilities of the tokens, any shape.
        ref_logp: the reference's, same shape.
        clamp: d is held inside [-clamp, clamp]; the gradient is 0 beyond.
        cap: upper bound on the value; None for none.

    Returns:
        Estimates in nats, same shape, in fp32.
    """
    d = (logp.float() - ref_logp.float()).clamp(-clamp, clamp)
    value = torch.expm1(-d) + d
    return value if cap is None else value.clamp(max=cap)


def reference_kl(logp: Tensor, ref_logp: Tensor, config: PolicyLossConfig) -> Tensor:
    """Estimate KL(p || ref) at sampled tokens, by d = log p - log ref: d, d^2 / 2, or `k3`.

    Args:
        logp: log-probabilities of the tokens, any shape.
        ref_logp: the reference's, same shape.
        config: `kl`, `kl_cap` and `log_ratio_clamp`.

    Returns:
        Estimates in nats, same shape, in fp32; within `kl_cap` of 0.

    Raises:
        ValueError: `config.kl` is ``full``, which sampled tokens are not enough for.
    """
    if config.kl == "k3":
        return k3(logp, ref_logp, clamp=config.log_ratio_clamp, cap=config.kl_cap)
    if config.kl == "full":
        raise ValueError("loss.kl is 'full'; pass the exact divergence as ref_kl_bl.")
    d = (logp.float() - ref_logp.float()).clamp(-config.log_ratio_clamp, config.log_ratio_clamp)
    return (d if config.kl == "k1" else 0.5 * d**2).clamp(-config.kl_cap, config.kl_cap)


def aggregate(
    values_bl: Tensor,
    mask_bl: Tensor,
    name: Aggregation,
    denominators: LossDenominators,
    *,
    constant_length: int | None = None,
) -> Tensor:
    """Reduce token values to this micro-batch's share of one number.

    ``token``: sum over tokens / tokens. ``step``: mean over a row's tokens, then over rows.
    ``trajectory``: mean over a row's tokens, then a trajectory's rows, then trajectories.
    ``sequence-sum-norm``: sum over a row's tokens / `constant_length`, then mean over rows, so that
    no token's weight depends on the length of its response (Dr. GRPO, arXiv 2503.20783).

    Args:
        values_bl: (B, L) values; those outside the mask may be anything.
        mask_bl: (B, L) nonzero on tokens that count.
        name: the reduction.
        denominators: divisors of the whole mini-batch, cut to these rows (`LossDenominators.take`).
        constant_length: tokens; for ``sequence-sum-norm``.

    Returns:
        Scalar; the shares of all micro-batches sum to the value for the mini-batch. 0 if no token
        counts.

    Raises:
        ValueError: shapes differ, or what `name` needs is missing.
    """
    if values_bl.shape != mask_bl.shape:
        raise ValueError(
            f"values_bl has shape {tuple(values_bl.shape)} and mask_bl {tuple(mask_bl.shape)}; "
            "expected one shape (B, L)."
        )
    mask = mask_bl != 0
    sum_b = torch.where(mask, values_bl, 0.0).sum(dim=1)
    if name == "token":
        return sum_b.sum() / max(denominators.tokens, 1.0)
    if name == "sequence-sum-norm":
        if constant_length is None:
            raise ValueError(
                "constant_length is None; 'sequence-sum-norm' needs a token count. Give "
                "loss.constant_length, or fill in the response limit with AlgorithmConfig.resolved."
            )
        return sum_b.sum() / (constant_length * max(denominators.rows, 1.0))
    mean_b = sum_b / mask.sum(dim=1).clamp(min=1)
    if name == "step":
        return mean_b.sum() / max(denominators.rows, 1.0)
    if name == "trajectory":
        steps_b = denominators.traj_steps_b
        if steps_b is None or steps_b.shape != mean_b.shape:
            raise ValueError(
                f"denominators.traj_steps_b is {None if steps_b is None else tuple(steps_b.shape)} "
                f"for {mean_b.shape[0]} rows; build LossDenominators.of with traj_b and cut it "
                "with take()."
            )
        return (mean_b / steps_b.clamp(min=1)).sum() / max(denominators.trajectories, 1.0)
    raise ValueError(f"aggregation is {name!r}; expected token, step, trajectory or sequence-sum-norm.")


@traits(zero_without_advantage=True)
def policy_loss(
    logp_bl: Tensor,
    old_logp_bl: Tensor,
    advantage_b: Tensor,
    mask_bl: Tensor,
    config: PolicyLossConfig,
) -> PolicyLoss:
    """Clipped policy loss per token, with a dual clip: the first part of eq. 9, negated.

    max(-A rho, -A clip(rho, 1 - low, 1 + high)); where A < 0 at most -A * dual_clip. rho is the
    token's ratio of new to old probability or, under ``ratio=sequence``, exp of the mean log ratio
    over the row's tokens, the same number at each of them (GSPO, arXiv 2507.18071).

    Args:
        logp_bl: (B, L) log-probabilities under the policy that is trained; carries the gradient.
        old_logp_bl: (B, L) those of the policy that the update started from.
        advantage_b: (B,), or (B, L) for one advantage per token.
        mask_bl: (B, L) nonzero on response tokens; elsewhere the inputs may hold anything.
        config: settings of this step.

    Returns:
        The loss, 0 outside the mask, and token sums: ``tokens``, ``clip_high`` (A > 0 and rho above
        the clip), ``clip_low`` (A < 0 and rho below it), ``dual_clip``, ``ratio``, ``old_kl`` (k3
        estimate of the divergence to the old policy), ``log_ratio_clamped``.
    """
    mask = mask_bl != 0
    advantage = (advantage_b if advantage_b.ndim == 2 else advantage_b[:, None]).float()
    raw = torch.where(mask, logp_bl.float() - old_logp_bl.detach().float(), 0.0)
    log_ratio = raw.clamp(-config.log_ratio_clamp, config.log_ratio_clamp)
    ratio = log_ratio.exp()
    if config.ratio == "sequence":
        mean_b = raw.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        ratio = mean_b.clamp(-config.log_ratio_clamp, config.log_ratio_clamp).exp().expand_as(raw)
    plain = -advantage * ratio
    clipped = -advantage * ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    loss = torch.maximum(plain, clipped)
    negative = advantage < 0
    bounded = torch.zeros_like(mask)
    if config.dual_clip is not None:
        bound = -advantage * config.dual_clip
        bounded = negative & (loss > bound)
        loss = torch.where(negative, torch.minimum(loss, bound), loss)
    with torch.no_grad():
        stats = {
            "tokens": mask.sum(),
            "clip_high": (mask & (advantage > 0) & (ratio > 1 + config.clip_high)).sum(),
            "clip_low": (mask & negative & (ratio < 1 - config.clip_low)).sum(),
            "dual_clip": (mask & bounded).sum(),
            "ratio": torch.where(mask, ratio, 0.0).sum(),
            "old_kl": torch.where(mask, torch.expm1(log_ratio) - log_ratio, 0.0).sum(),
            "log_ratio_clamped": (mask & (raw.abs() > config.log_ratio_clamp)).sum(),
        }
    return PolicyLoss(torch.where(mask, loss, 0.0), stats)


def base_loss(
    logp_bl: Tensor,
    old_logp_bl: Tensor,
    advantage_b: Tensor,
    mask_bl: Tensor,
    config: PolicyLossConfig,
    denominators: LossDenominators,
    *,
    ref_logp_bl: Tensor | None = None,
    ref_kl_bl: Tensor | None = None,
    entropy_bl: Tensor | None = None,
    weight_bl: Tensor | None = None,
) -> BaseLoss:
    """Policy loss + beta * divergence to the reference - entropy_coef * entropy (eq. 9, negated).

    Args:
        logp_bl: (B, L) log-probabilities under the policy that is trained.
        old_logp_bl: (B, L) those of the policy that the update started from.
        advantage_b: (B,) or (B, L) advantages.
        mask_bl: (B, L) nonzero on response tokens.
        config: settings of this step.
        denominators: divisors of the whole mini-batch, cut to these rows.
        ref_logp_bl: (B, L) the reference's log-probabilities; required if beta is above 0 and `config.kl` is an
            estimate, and otherwise only logged.
        ref_kl_bl: (B, L) exact divergence from the reference at each token, with gradient
            (`stapo.algo.head.two_context_kl`); required if beta is above 0 and `config.kl` is ``full``.
        entropy_bl: (B, L) token entropies with gradient; required if entropy_coef is above 0, and
            otherwise only logged.
        weight_bl: (B, L) importance weights of the policy loss (`stapo.algo.correction_weights`); None for 1. The other
            terms and all divisors do not know them.

    Raises:
        ValueError: a required array is missing.
    """
    exact = config.kl == "full"
    if config.beta > 0 and (ref_kl_bl if exact else ref_logp_bl) is None:
        missing = "ref_kl_bl" if exact else "ref_logp_bl"
        raise ValueError(f"{missing} is None with loss.beta {config.beta:g} and loss.kl {config.kl}; pass it or set 0.")
    if config.entropy_coef > 0 and entropy_bl is None:
        raise ValueError(f"entropy_bl is None with loss.entropy_coef {config.entropy_coef:g}; pass it or set 0.")

    def reduce(values_bl: Tensor) -> Tensor:
        return aggregate(
            values_bl,
            mask_bl,
            config.aggregation,
            denominators,
            constant_length=config.constant_length,
        )

    with POLICY_LOSSES.calling(config.policy) as token_loss:
        per_token = _checked(token_loss(logp_bl, old_logp_bl, advantage_b, mask_bl, config), mask_bl, config)
    stats = dict(per_token.stats)
    policy = reduce(per_token.loss_bl if weight_bl is None else per_token.loss_bl * weight_bl)
    loss = policy
    kl = entropy = torch.zeros_like(policy.detach())
    # Masked before the exponential: a NaN in padding survives a product with 0 in backward.
    mask = mask_bl != 0
    kl_bl: Tensor | None = None
    if exact and ref_kl_bl is not None:
        kl_bl = torch.where(mask, ref_kl_bl, 0.0).clamp(max=config.kl_cap)
    elif not exact and ref_logp_bl is not None:
        ref = torch.where(mask, ref_logp_bl.detach(), 0.0)
        kl_bl = reference_kl(torch.where(mask, logp_bl, 0.0), ref, config)
    if kl_bl is not None:
        kl = reduce(kl_bl)
        stats["ref_kl"] = kl_bl.detach().sum()
        if config.beta > 0:
            loss = loss + config.beta * kl
    if entropy_bl is not None:
        entropy = reduce(entropy_bl)
        stats["entropy"] = torch.where(mask_bl != 0, entropy_bl.detach(), 0.0).sum()
        if config.entropy_coef > 0:
            loss = loss - config.entropy_coef * entropy
    return BaseLoss(loss, policy.detach(), kl.detach(), entropy.detach(), stats)


def _checked(found: Tensor | PolicyLoss, mask_bl: Tensor, config: PolicyLossConfig) -> PolicyLoss:
    """The loss of a function that may be another package's, 0 outside the mask.

    Raises:
        ConfigError: not one number per token.
    """
    if isinstance(found, PolicyLoss):
        return found
    if not isinstance(found, Tensor) or found.shape != mask_bl.shape:
        what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else shown(found)
        raise ConfigError(
            f"policy loss '{config.policy}' returned {what}; expected a tensor of shape {tuple(mask_bl.shape)}, "
            "one loss per token."
        )
    mask = mask_bl != 0
    return PolicyLoss(torch.where(mask, found, 0.0), {"tokens": mask.sum()})


def mean_stats(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, float]:
    """Add the token sums of micro-batches and divide each by ``tokens``, which stays a count."""
    total: dict[str, float] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, 0.0) + float(value)
    tokens = max(total.get("tokens", 0.0), 1.0)
    return {key: v if key == "tokens" else v / tokens for key, v in total.items()}
