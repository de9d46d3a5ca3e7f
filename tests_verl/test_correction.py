"""Our correction of the mismatch between sampler and trainer is verl's own, on random rows and on rows of extremes.

verl's IcePop with a lower bound of nothing is the mask; its bound alone is the truncation.
"""

from __future__ import annotations

import pytest
import torch
from verl.trainer.ppo.rollout_corr_helper import compute_offpolicy_metrics, compute_rollout_correction_weights

from stapo.algo import Correction, correction_weights, mismatch

NAMES = {
    "weight_mean": "rollout_is_mean",
    "truncated": "rollout_is_ratio_fraction_high",
    "ess": "rollout_is_eff_sample_size",
}


def rows(seed, scale):
    """Log-probabilities of trainer and sampler in 40 rows of 1 to 30 tokens."""
    g = torch.Generator().manual_seed(seed)
    sampled_bl = torch.log(torch.rand(40, 30, generator=g).clamp(min=1e-6))
    old_bl = sampled_bl + scale * torch.randn(40, 30, generator=g)
    mask_bl = torch.arange(30)[None, :] < torch.randint(1, 31, (40, 1), generator=g)
    return old_bl, sampled_bl, mask_bl.long()


@pytest.mark.parametrize("scale", [0.003, 0.05, 0.5, 3.0])
@pytest.mark.parametrize("beyond", ["truncate", "mask"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_weights_and_their_statistics(level, beyond, scale):
    for seed in range(5):
        old_bl, sampled_bl, mask_bl = rows(seed, scale)
        threshold = 2.0 if beyond == "truncate" else "1e-30_2.0"
        theirs, said = compute_rollout_correction_weights(old_bl - sampled_bl, mask_bl, level, threshold)
        correction = Correction(level, beyond, 2.0)
        ours = correction_weights(old_bl, sampled_bl, mask_bl, correction)
        assert torch.allclose(ours, theirs.float(), rtol=1e-5, atol=1e-6)
        found = mismatch(old_bl, sampled_bl, mask_bl, correction)
        for own, name in NAMES.items():
            assert found[own] == pytest.approx(said[name], rel=1e-4, abs=1e-6), own


@pytest.mark.parametrize("scale", [0.003, 0.05, 0.5, 3.0])
def test_measures(scale):
    for seed in range(5):
        old_bl, sampled_bl, mask_bl = rows(seed, scale)
        said = compute_offpolicy_metrics(old_bl, sampled_bl, mask_bl)
        for name, value in mismatch(old_bl, sampled_bl, mask_bl).items():
            assert value == pytest.approx(said[name], rel=1e-3, abs=1e-6), name
