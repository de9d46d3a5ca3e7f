"""Correction of the mismatch between sampler and trainer: weights and measures by hand, and effects on a gradient.

The last part enumerates all tokens of a small vocabulary, each as often as a perturbed sampler would draw it, so that
expectations are exact and nothing is drawn.
"""

from __future__ import annotations

import math

import pytest
import torch

from stapo.algo import Correction, LossDenominators, PolicyLossConfig, base_loss, correction_weights, mismatch

# Ratios 3, 1/2 and, in a row of its own, 1.5, 1.5, 1.5 (product 3.375); what is masked out is NaN.
RATIO = torch.tensor([[3.0, 0.5, math.nan], [1.5, 1.5, 1.5], [math.nan, math.nan, math.nan]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]])
SAMPLED = torch.tensor([[-1.0, -2.0, math.nan], [-0.5, -3.0, -1.0], [0.0, 0.0, math.nan]])
OLD = SAMPLED + RATIO.log()


@pytest.mark.parametrize(
    ("level", "beyond", "threshold", "expected"),
    [
        ("token", "truncate", 2.0, [[2, 0.5, 0], [1.5, 1.5, 1.5], [0, 0, 0]]),
        ("token", "mask", 2.0, [[0, 0.5, 0], [1.5, 1.5, 1.5], [0, 0, 0]]),
        ("token", "mask", 1.2, [[0, 0.5, 0], [0, 0, 0], [0, 0, 0]]),
        ("sequence", "truncate", 2.0, [[1.5, 1.5, 0], [2, 2, 2], [0, 0, 0]]),
        ("sequence", "mask", 2.0, [[1.5, 1.5, 0], [0, 0, 0], [0, 0, 0]]),
        ("sequence", "mask", 4.0, [[1.5, 1.5, 0], [3.375, 3.375, 3.375], [0, 0, 0]]),
    ],
)
def test_weights_by_hand(level, beyond, threshold, expected):
    found = correction_weights(OLD.requires_grad_(), SAMPLED, MASK, Correction(level, beyond, threshold))
    assert not found.requires_grad
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float32), atol=1e-6)


def test_equal_policies_have_weight_1():
    for level in ("token", "sequence"):
        for beyond in ("truncate", "mask"):
            found = correction_weights(SAMPLED, SAMPLED, MASK, Correction(level, beyond, 2.0))
            assert torch.equal(found, MASK.float())


def test_huge_ratios_stay_finite():
    far = SAMPLED.nan_to_num() + 1e4
    for level in ("token", "sequence"):
        assert correction_weights(far, SAMPLED, MASK, Correction(level, "truncate", 1e30)).max() == pytest.approx(
            math.exp(20)
        )
        assert all(math.isfinite(v) for v in mismatch(far, SAMPLED, MASK, Correction(level, "mask", 2.0)).values())


def test_measures_by_hand():
    found = mismatch(OLD, SAMPLED, MASK, Correction("token", "truncate", 2.0))
    ratios, weights = [3, 0.5, 1.5, 1.5, 1.5], [2, 0.5, 1.5, 1.5, 1.5]
    rows = [-math.log(1.5) / 2, -math.log(1.5)]  # mean of -log r in each row with tokens
    assert found == pytest.approx(
        {
            "kl": sum(-math.log(r) for r in ratios) / 5,
            "k3_kl": sum(r - 1 - math.log(r) for r in ratios) / 5,
            "log_ppl_diff": sum(rows) / 2,
            "log_ppl_abs_diff": sum(map(abs, rows)) / 2,
            "chi2_token": sum(r * r - 1 for r in ratios) / 5,
            "chi2_seq": (1.5**2 + 3.375**2) / 2 - 1,
            "weight_mean": 7 / 5,
            "truncated": 1 / 5,
            "ess": (7 / 5) ** 2 / (sum(w * w for w in weights) / 5),
        },
        abs=1e-5,
    )


def test_measures_of_sequences():
    found = mismatch(OLD, SAMPLED, MASK, Correction("sequence", "mask", 2.0))
    assert found["truncated"] == 0.5  # of the two rows with tokens
    assert found["weight_mean"] == pytest.approx(2 * 1.5 / 5)
    assert found["ess"] == pytest.approx(2 / 5)
    everything = mismatch(OLD, SAMPLED, MASK, Correction("sequence", "mask", 0.1))
    assert (everything["truncated"], everything["ess"]) == (1.0, 0.0)


def test_without_tokens_there_is_nothing_to_measure():
    assert mismatch(OLD, SAMPLED, torch.zeros_like(MASK)) == {}


def test_padding_and_micro_batches_change_no_weight():
    one = Correction("sequence", "truncate", 2.0)
    whole = correction_weights(OLD, SAMPLED, MASK, one)
    padded = [torch.nn.functional.pad(t, (0, 2), value=v) for t, v in ((OLD, 9.0), (SAMPLED, math.nan), (MASK, 0))]
    assert torch.equal(correction_weights(*padded, one)[:, :3], whole)
    assert torch.equal(correction_weights(OLD[1:2], SAMPLED[1:2], MASK[1:2], one), whole[1:2])


@pytest.mark.parametrize(
    "values", [("word", "mask", 2.0), ("token", "cut", 2.0), ("token", "mask", 0.0), ("token", "mask", math.nan)]
)
def test_what_is_no_correction(values):
    with pytest.raises(ValueError, match="expected one of"):
        Correction(*values)
    with pytest.raises(ValueError, match="expected one shape"):
        correction_weights(OLD, SAMPLED[:1], MASK, Correction("token", "mask", 2.0))


# -- a sampler that was perturbed on purpose ---------------------------------------------------------------------------

LOGITS = torch.tensor([1.0, 0.2, -0.5, -1.0, -2.0])
SHIFT = torch.tensor([-0.9, 0.4, 0.0, 0.6, 0.1])  # what the sampler's logits are off by
PAYS = torch.tensor([1.0, -1.0, 0.5, 2.0, -0.3])


def gradient(correction, *, shift=SHIFT, clip=0.2):
    """Of the expected loss at the policy's own logits, if tokens come from the perturbed sampler; ratios too."""
    logits = LOGITS.clone().requires_grad_()
    logp, drawn = torch.log_softmax(logits, -1), torch.log_softmax(LOGITS + shift, -1)
    # One row per token of the vocabulary; its advantage carries how often the sampler draws it.
    logp_bl, sampled_bl, mask_bl = logp[:, None], drawn[:, None], torch.ones(5, 1)
    old_bl = sampled_bl if correction is None else logp_bl.detach()
    weight_bl = None if correction is None else correction_weights(old_bl, sampled_bl, mask_bl, correction)
    config = PolicyLossConfig(beta=0.0, clip_low=min(clip, 1.0), clip_high=clip, dual_clip=None)
    shares = LossDenominators(tokens=1.0, rows=1.0)
    base_loss(logp_bl, old_bl, PAYS * drawn.exp(), mask_bl, config, shares, weight_bl=weight_bl).loss.backward()
    return logits.grad, (logp - drawn).exp().detach()


def wanted():
    """What a sampler with the policy's own weights would give."""
    return gradient(None, shift=torch.zeros(5))[0]


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("beyond", ["truncate", "mask"])
def test_below_the_threshold_the_gradient_is_that_of_the_policys_own_tokens(level, beyond):
    found, ratio = gradient(Correction(level, beyond, 10.0))
    assert ratio.max() < 10
    assert torch.allclose(found, wanted(), atol=1e-6)


def test_without_a_correction_the_clip_drops_what_the_sampler_does_otherwise():
    plain, ratio = gradient(None)
    assert (ratio > 1.2).any()
    assert (plain - wanted()).abs().max() > 0.05
    assert torch.allclose(gradient(None, clip=100.0)[0], wanted(), atol=1e-6)


def test_a_threshold_bounds_or_drops_the_tokens_that_the_sampler_draws_too_rarely():
    _, ratio = gradient(None)
    logp = torch.log_softmax(LOGITS, -1)
    above = ratio > 1.1
    assert 0 < above.sum() < 5
    for beyond, kept in (("truncate", 1.1 / ratio), ("mask", torch.zeros(5))):
        share = torch.where(above, kept, 1.0)
        expected = -sum(
            share[a] * logp[a].exp() * PAYS[a] * (torch.eye(5)[a] - logp.exp()) for a in range(5)
        )  # policy gradient, token by token
        found, _ = gradient(Correction("token", beyond, 1.1))
        assert torch.allclose(found, expected, atol=1e-6)


def test_a_correction_between_equal_policies_changes_nothing():
    still = torch.zeros(5)
    assert torch.allclose(gradient(Correction("token", "truncate", 2.0), shift=still)[0], wanted(), atol=1e-7)
