"""Evaluations that draw from fewer tokens than there are: top_p, top_k, min_p, by hand and through the samplers."""

from __future__ import annotations

import math

import pytest
import torch

from stapo.rollout.config import NO_LIMITS, SamplingLimits
from stapo.rollout.drawing import draw, within
from stapo.rollout.sampler import HFSampler
from toy_world import small_policy

P = [0.15, 0.5, 0.05, 0.3]


@pytest.mark.parametrize(
    "limits, left",
    [
        (SamplingLimits(top_k=3), {0, 1, 3}),
        (SamplingLimits(top_k=9), {0, 1, 2, 3}),
        (SamplingLimits(top_p=0.5), {1}),
        (SamplingLimits(top_p=0.79), {1, 3}),
        (SamplingLimits(top_p=0.81), {0, 1, 3}),
        (SamplingLimits(min_p=0.2), {0, 1, 3}),
        (SamplingLimits(min_p=1.0), {1}),
        # Of the two that are left the first has 5/8.
        (SamplingLimits(top_k=2, top_p=0.6), {1}),
        (SamplingLimits(top_k=2, top_p=0.65), {1, 3}),
        (SamplingLimits(top_p=1e-9), {1}),
    ],
)
def test_what_may_be_drawn(limits, left):
    kept_nv = within(torch.tensor([P]).log(), limits)
    assert {i for i, x in enumerate(kept_nv[0].tolist()) if x > -math.inf} == left


def test_what_is_left_is_drawn_by_its_share():
    logits_nv = torch.tensor([P] * 3).log()
    column_n, logp_n, _ = draw(logits_nv, torch.tensor([0.0, 0.62, 0.63]), 1.0, SamplingLimits(top_k=2))
    assert column_n.tolist() == [1, 1, 3]
    assert logp_n.exp().tolist() == pytest.approx([0.625, 0.625, 0.375])


def test_one_token_is_greedy_play():
    policy = small_policy()
    sampler = HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, 6)
    prompts, streams = [[5, 6, 7], [9, 8]], [(1, 0), (1, 1)]

    def ids(temperature, limits=NO_LIMITS):
        return [s.ids for s in sampler.sample(prompts, streams, temperature, limits=limits)]

    assert ids(1.0, SamplingLimits(top_k=1)) == ids(0.0) != ids(1.0)
    assert ids(1.0, SamplingLimits(top_p=1.0)) == ids(1.0)
    assert not NO_LIMITS
    assert str(SamplingLimits(0.95, 20, 0.1)) == ", top_p 0.95, top_k 20, min_p 0.1"
