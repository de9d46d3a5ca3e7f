"""How the sampler of an iteration differs from its trainer, and which correction a run asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from stapo.algo import Correction, mismatch
from stapo.algo.correction import Beyond, Level
from stapo.rollout import Step
from stapo.rollout.config import RolloutConfig
from stapo.training.scoring import length_mask, pad_rows


def correction_of(rollout: RolloutConfig) -> Correction | None:
    """The correction that settings ask for; None for none."""
    if rollout.correction == "none":
        return None
    level, _, beyond = rollout.correction.partition("_")
    return Correction(cast(Level, level), cast(Beyond, beyond), rollout.correction_threshold)


def mismatch_of(steps: Sequence[Step], correction: Correction | None) -> dict[str, float]:
    """Measures of the mismatch over all tokens of rescored `steps`; see `stapo.algo.mismatch`."""
    mask_bl = length_mask([len(step.response_ids) for step in steps], torch.device("cpu"))
    old_bl, sampled_bl = (
        pad_rows([getattr(step, name) for step in steps], mask_bl.float()) for name in ("old_logprobs", "logprobs")
    )
    return mismatch(old_bl, sampled_bl, mask_bl, correction)
