"""The mismatch between the policy that sampled and the one that is trained: weights against it, and measures of it.

An inference engine computes with the same weights in another order or dtype, so its tokens are drawn from a slightly
different distribution. Importance weights correct that, with the step as the sequence: truncated ones (TIS) are
bounded, masked ones (MIS, IcePop) are 0 beyond the bound. Measures have the definitions of verl's rollout correction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Level = Literal["token", "sequence"]
Beyond = Literal["truncate", "mask"]

_CLAMP = 20.0  # of log ratios, as in verl: exp(20) is beyond every threshold that makes sense


@dataclass(frozen=True)
class Correction:
    """Which importance weights are applied to the policy loss.

    Attributes:
        level: ``token`` weighs each token by its own ratio; ``sequence`` all tokens of a row by the product of theirs,
            which has no bias without a bound, and more variance.
        beyond: what a ratio above the threshold becomes: the threshold (``truncate``), or 0 (``mask``).
        threshold: largest ratio that is left as it is, above 0.

    Raises:
        ValueError: another value.
    """

    level: Level
    beyond: Beyond
    threshold: float

    def __post_init__(self) -> None:
        if self.level not in get_args(Level) or self.beyond not in get_args(Beyond) or not self.threshold > 0:
            raise ValueError(
                f"level is {self.level!r}, beyond {self.beyond!r}, threshold {self.threshold}; expected one of "
                f"{get_args(Level)}, one of {get_args(Beyond)}, and a number above 0."
            )


def correction_weights(old_logp_bl: Tensor, sampled_logp_bl: Tensor, mask_bl: Tensor, correction: Correction) -> Tensor:
    """Importance weights of the policy loss: probability under the trained policy over that under the sampler.

    Args:
        old_logp_bl: (B, L) log-probabilities under the trainer's policy before the update (nats).
        sampled_logp_bl: (B, L) those that the sampler recorded.
        mask_bl: (B, L) nonzero on response tokens; elsewhere the inputs may hold anything.
        correction: level, bound and threshold.

    Returns:
        (B, L) weights without gradient in fp32, 0 outside the mask.

    Raises:
        ValueError: the shapes differ.
    """
    ratio_bl = _ratios(_log_ratios(old_logp_bl, sampled_logp_bl, mask_bl), correction)
    if correction.beyond == "truncate":
        bounded_bl = ratio_bl.clamp(max=correction.threshold)
    else:
        bounded_bl = torch.where(ratio_bl > correction.threshold, 0.0, ratio_bl)
    return torch.where(mask_bl != 0, bounded_bl, 0.0)


def mismatch(
    old_logp_bl: Tensor, sampled_logp_bl: Tensor, mask_bl: Tensor, correction: Correction | None = None
) -> dict[str, float]:
    """How far the sampler is from the trained policy, over all tokens of B rows.

    Args:
        old_logp_bl: (B, L) log-probabilities under the trainer's policy before the update (nats).
        sampled_logp_bl: (B, L) those that the sampler recorded.
        mask_bl: (B, L) nonzero on response tokens.
        correction: whose weights are described as well.

    Returns:
        With r the ratio of trainer to sampler at a token: ``kl`` and ``k3_kl``, the divergence of the sampler from the
        trainer per token, estimated by -log r and by r - 1 - log r; ``log_ppl_diff`` and ``log_ppl_abs_diff``, the mean
        over rows of the difference in log-perplexity, and of its size; ``chi2_token`` and ``chi2_seq``, the mean of
        r^2 - 1 over tokens and that of the rows' products. Under a correction also ``weight_mean`` of the tokens;
        ``truncated``, the share of tokens (of rows, for sequences) beyond the threshold; ``ess``, the effective sample
        size as a share of the tokens: the squared mean of the weights over the mean of their squares. Empty without
        tokens.

    Raises:
        ValueError: the shapes differ.
    """
    log_bl = _log_ratios(old_logp_bl, sampled_logp_bl, mask_bl).double()
    used_b = (mask_bl != 0).any(dim=1)
    if not used_b.any():
        return {}
    log_bl, mask_bl = log_bl[used_b], (mask_bl != 0)[used_b]
    log_n, count_b, sum_b = log_bl[mask_bl], mask_bl.sum(dim=1), log_bl.sum(dim=1)
    bounded_n = log_n.clamp(-_CLAMP, _CLAMP)
    measured = {
        "kl": -log_n.mean(),
        "k3_kl": (torch.expm1(bounded_n) - bounded_n).mean(),
        "log_ppl_diff": (-sum_b / count_b).mean(),
        "log_ppl_abs_diff": (sum_b / count_b).abs().mean(),
        "chi2_token": torch.expm1(2 * bounded_n).mean(),
        "chi2_seq": torch.expm1(2 * sum_b.clamp(-_CLAMP, _CLAMP)).mean(),
    }
    if correction is not None:
        weight_n = correction_weights(log_bl, torch.zeros_like(log_bl), mask_bl, correction).double()[mask_bl]
        of_rows = correction.level == "sequence"
        ratio = _ratios(log_bl, correction)[:, 0] if of_rows else bounded_n.exp()
        square = weight_n.square().mean()
        measured |= {
            "weight_mean": weight_n.mean(),
            "truncated": (ratio > correction.threshold).double().mean(),
            "ess": weight_n.mean().square() / square if square > 0 else torch.zeros(()),
        }
    return {name: float(value) for name, value in measured.items()}


def _log_ratios(old_logp_bl: Tensor, sampled_logp_bl: Tensor, mask_bl: Tensor) -> Tensor:
    """(B, L) log of trainer over sampler, 0 outside the mask."""
    if not old_logp_bl.shape == sampled_logp_bl.shape == mask_bl.shape:
        raise ValueError(
            f"old_logp_bl has shape {tuple(old_logp_bl.shape)}, sampled_logp_bl {tuple(sampled_logp_bl.shape)} and "
            f"mask_bl {tuple(mask_bl.shape)}; expected one shape (B, L)."
        )
    return torch.where(mask_bl != 0, old_logp_bl.detach().float() - sampled_logp_bl.detach().float(), 0.0)


def _ratios(log_bl: Tensor, correction: Correction) -> Tensor:
    """(B, L) ratios before the bound; those of a sequence are the same number at each token."""
    if correction.level == "sequence":
        log_bl = log_bl.sum(dim=1, keepdim=True).expand_as(log_bl)
    return log_bl.clamp(-_CLAMP, _CLAMP).exp()
