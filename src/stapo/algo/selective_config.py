"""Settings of the loss on flagged steps; see `stapo.algo.config`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from stapo.checks import check_choice, check_integer, check_number
from stapo.errors import ConfigError

KlEstimator = Literal["full", "k3", "k2k1"]
TaGrad = Literal["both", "full_only", "blind_only"]
SelectiveNorm = Literal["flagged", "all", "masked_mean"]
Bound = Literal["none", "cap", "target", "js"]
Support = Literal["all", "reference"]
Gate = Literal["none", "positive", "bonus"]
TokenAggregation = Literal["mean", "sum"]
BlindMask = Literal["goal_history", "goal", "history", "none"]


@dataclass(frozen=True, kw_only=True)
class SelectiveConfig:
    """The loss on flagged steps (STAPO eq. 4, 5 and 10).

    Attributes:
        alpha: weight of the trajectory-awareness term R_TA; 0 or more.
        gamma: weight of the trajectory-independence penalty P_TI; 0 or more.
        kl_estimator: how divergences are estimated: ``full`` sums over the vocabulary, ``k3`` and ``k2k1`` use the
            sampled token alone.
        ta_grad: sides of R_TA that receive its gradient.
        norm: divide by the flagged rows, or by all rows (eq. 8 to the letter, about 100 times weaker), or take the mean
            over the flagged rows' tokens in every `mean_rows` rows of a mini-batch, and the mean of these
            (``masked_mean``: what a masked mean per micro-batch does, 2 to 5 times weaker than ``flagged``).
        mean_rows: rows that ``masked_mean`` takes one mean over; 1 or more.
        token_aggregation: mean or sum over the tokens of a row; ``masked_mean`` has only the mean.
        kl_cap: nats up to which a token's divergence counts in R_TA; above 0. P_TI has no cap: where the blind
            distribution has run furthest, the penalty has to hold it.
        bound: what keeps R_TA from growing for ever. ``none``: `kl_cap` alone. ``cap``: a row counts up to `bound_at`.
            ``target``: a row counts up to the reference's own divergence there plus `bound_at`, and has no gradient
            beyond; with a sampled `kl_estimator` an estimate is held against that exact divergence, so chance decides
            near the bound. ``js``: the Jensen-Shannon divergence, at most log 2, in place of the KL divergence.
        bound_at: nats of ``cap`` and ``target``, the mean of a row's tokens; above 0, at most `kl_cap`.
        support: tokens over which R_TA sums: all, or those to which the reference gives at least `support_min` under
            the full prompt, with the policy's distribution rescaled to them. Only for ``kl_estimator=full``.
        support_min: probability under the reference, above 0 and below 1, that ``support=reference`` asks for.
        gate: which flagged rows are asked for R_TA: all, those with an advantage above 0 (``positive``), or all by a
            constant ``bonus`` of alpha times R_TA on their advantages, so that the policy gradient decides how it is
            earned. P_TI stays on all.
        blind_mask: what the trajectory-blind prompt leaves out; the caller renders it.
        log_ratio_clamp: bound, in nats, on the log ratios that the sampled estimators exponentiate; above 0, at most
            80.
    """

    alpha: float = 0.01
    gamma: float = 0.01
    kl_estimator: KlEstimator = "full"
    ta_grad: TaGrad = "both"
    norm: SelectiveNorm = "flagged"
    mean_rows: int = 32
    token_aggregation: TokenAggregation = "mean"
    kl_cap: float = 10.0
    bound: Bound = "none"
    bound_at: float = 1.0
    support: Support = "all"
    support_min: float = 1e-3
    gate: Gate = "none"
    blind_mask: BlindMask = "goal_history"
    log_ratio_clamp: float = 20.0

    def __post_init__(self) -> None:
        check_number("selective.alpha", self.alpha, low=0)
        check_number("selective.gamma", self.gamma, low=0)
        check_choice("selective.kl_estimator", self.kl_estimator, get_args(KlEstimator))
        check_choice("selective.ta_grad", self.ta_grad, get_args(TaGrad))
        check_choice("selective.norm", self.norm, get_args(SelectiveNorm))
        check_integer("selective.mean_rows", self.mean_rows, low=1)
        check_choice("selective.bound", self.bound, get_args(Bound))
        check_number("selective.bound_at", self.bound_at, low=0, open_low=True)
        check_choice("selective.support", self.support, get_args(Support))
        check_number("selective.support_min", self.support_min, low=0, high=1, open_low=True)
        check_choice("selective.gate", self.gate, get_args(Gate))
        check_choice("selective.token_aggregation", self.token_aggregation, get_args(TokenAggregation))
        check_number("selective.kl_cap", self.kl_cap, low=0, open_low=True)
        check_choice("selective.blind_mask", self.blind_mask, get_args(BlindMask))
        # exp(80) still fits in fp32; a larger clamp could overflow.
        check_number("selective.log_ratio_clamp", self.log_ratio_clamp, low=0, high=80, open_low=True)
        for name, value in (("bound", self.bound), ("support", self.support)):
            if value in ("js", "reference") and self.kl_estimator != "full":
                raise ConfigError(
                    f"selective.{name} is '{value}', which needs whole distributions, and selective.kl_estimator is "
                    f"'{self.kl_estimator}'; set it to 'full'."
                )
        if self.norm == "masked_mean" and self.token_aggregation == "sum":
            raise ConfigError(
                "selective.token_aggregation is 'sum' with selective.norm 'masked_mean', which is a mean over tokens; "
                "set it to 'mean', or choose another norm."
            )
        if self.bound in ("cap", "target") and self.bound_at > self.kl_cap:
            raise ConfigError(
                f"selective.bound_at is {self.bound_at:g}, above selective.kl_cap ({self.kl_cap:g}), so bound "
                f"'{self.bound}' would bound nothing; lower bound_at."
            )

    @property
    def compares_reference(self) -> bool:
        """Whether R_TA needs the reference on the full prompt of flagged rows."""
        return self.alpha > 0 and (self.bound == "target" or self.support == "reference")
