"""Sampling from a Hugging Face model.

1. A response is a sample of softmax(logits / temperature), nothing else: no setting that the model brings along
   changes it.
2. What is recorded is what was drawn: ids, their log-probabilities, the entropies of their distributions.
3. A sample depends on its prompt and its stream alone, not on batch, order or number of sub-batches.
4. Temperature 0 is the greedy decoding of `generate`.
5. A response ends with the first end token, which belongs to it, or at the limit.
6. Numbers that are not finite stop the run.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from stapo.algo import get_algorithm
from stapo.errors import NonFiniteError
from stapo.policy import RowTokens
from stapo.rollout.drawing import draw
from stapo.rollout.sampler import HFSampler, uniforms
from stapo.training.scoring import Scorer
from toy_world import TEXTS, small_policy

ARCHITECTURES = ("qwen2", "qwen3", "llama")


def sharp(architecture="qwen3", seed=0):
    """A policy whose distributions are far from uniform."""
    policy = small_policy(seed, architecture=architecture, initializer_range=0.3)
    policy.model.eval()
    return policy


def sampler(policy, limit=6, batch_tokens=100_000, eos=None):
    return HFSampler(policy.model, eos or policy.eos_ids, policy.tokenizer.pad_token_id, limit, batch_tokens)


def prompts(policy, count=7):
    """Prompts of different lengths."""
    return [policy.tokenizer.encode(TEXTS[i] * (1 + i % 3))[: 20 + 7 * i] for i in range(count)]


def streams(count, base=0):
    return [(base, i) for i in range(count)]


@pytest.fixture(scope="module")
def policy():
    return sharp()


# -- 1 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_follow_the_softmax(policy, temperature):
    """One token from one prompt, 2,000 times; chi-square over the 20 commonest tokens and the rest."""
    prompt, n = prompts(policy)[0], 2000
    samples = sampler(policy, limit=1).sample([prompt] * n, streams(n, 3), temperature)
    with torch.no_grad():
        p_v = (policy.model(torch.tensor([prompt])).logits[0, -1] / temperature).softmax(-1).double().numpy()
    order = np.argsort(-p_v)
    counts = np.bincount([s.ids[0] for s in samples], minlength=len(p_v))[order]
    expected = n * p_v[order]
    seen, wanted = np.append(counts[:20], counts[20:].sum()), np.append(expected[:20], expected[20:].sum())
    assert wanted.min() > 5
    # The 99.99 % quantile of chi-square with 20 degrees of freedom is 52.4; a wrong temperature gives hundreds.
    assert float(((seen - wanted) ** 2 / wanted).sum()) < 52.4


def test_a_token_of_probability_zero_is_never_drawn():
    scores = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]])
    for u, token in ((0.0, 1), (0.49, 1), (0.5, 3), (1 - 1e-16, 3)):
        column, logprob, entropy = draw(scores, torch.tensor([u], dtype=torch.float64), 1.0)
        assert column.tolist() == [token]
        assert logprob.item() == pytest.approx(np.log(0.5))
        assert entropy.item() == pytest.approx(np.log(2))


def test_settings_that_the_model_brings_along_change_nothing(policy):
    asked, wanted = prompts(policy), streams(7)
    free = sampler(policy).sample(asked, wanted, 1.0)
    own = policy.model.generation_config
    hostile = GenerationConfig(
        repetition_penalty=3.0, temperature=0.1, top_k=2, top_p=0.1, do_sample=True, min_new_tokens=5,
        no_repeat_ngram_size=1, suppress_tokens=[s.ids[0] for s in free], num_beams=3, max_length=1,
    )  # fmt: skip
    policy.model.generation_config = hostile
    try:
        assert sampler(policy).sample(asked, wanted, 1.0) == free
        assert policy.model.generation_config is hostile
    finally:
        policy.model.generation_config = own


# -- 2 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_recorded_numbers_are_those_of_teacher_forcing(architecture, temperature):
    policy = sharp(architecture)
    asked = prompts(policy)
    samples = sampler(policy).sample(asked, streams(7), temperature)
    scorer = Scorer(policy, None, get_algorithm("gigpo"), temperature)
    rows = [RowTokens(p, s.ids) for p, s in zip(asked, samples, strict=True)]
    with torch.no_grad():
        scored = scorer.score(policy.model, rows)
    for b, s in enumerate(samples):
        assert len(s.ids) == len(s.logprobs) == len(s.entropies)
        assert scored.logp_bl[b, : len(s.ids)].tolist() == pytest.approx(s.logprobs, abs=1e-4)
        assert scored.entropy_bl[b, : len(s.ids)].tolist() == pytest.approx(s.entropies, abs=1e-4)
    assert len({round(h, 3) for s in samples for h in s.entropies}) > 5


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_batch_order_and_sub_batches_do_not_matter(policy):
    asked, wanted = prompts(policy), streams(7)
    together = sampler(policy).sample(asked, wanted, 1.0)
    alone = [sampler(policy).sample([p], [s], 1.0)[0] for p, s in zip(asked, wanted, strict=True)]
    turned = sampler(policy).sample(asked[::-1], wanted[::-1], 1.0)[::-1]
    cut = sampler(policy, batch_tokens=64).sample(asked, wanted, 1.0)
    crowd = sampler(policy).sample(asked + prompts(policy), wanted + streams(7, 9), 1.0)[:7]
    for other in (alone, turned, cut, crowd):
        assert [s.ids for s in other] == [s.ids for s in together]
        for one, two in zip(other, together, strict=True):
            assert one.logprobs == pytest.approx(two.logprobs, abs=1e-5)
            assert one.entropies == pytest.approx(two.entropies, abs=1e-5)


def test_streams_decide_and_prompts_decide(policy):
    prompt = prompts(policy)[0]
    many = sampler(policy).sample([prompt] * 20, streams(20), 1.0)
    again = sampler(policy).sample([prompt] * 20, [(0, 3)] * 20, 1.0)
    assert len({tuple(s.ids) for s in many}) > 15
    assert {tuple(s.ids) for s in again} == {tuple(many[3].ids)}


def test_a_stream_is_a_stream_of_uniform_numbers():
    draws = uniforms((1, 2, 3), 20_000)
    assert ((draws >= 0) & (draws < 1)).all()
    assert abs(draws.mean() - 0.5) < 0.01
    assert np.array_equal(uniforms((1, 2, 3), 5), draws[:5])
    assert not np.array_equal(uniforms((1, 2, 4), 5), draws[:5])


# -- 4 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_temperature_zero_is_greedy_decoding(architecture):
    policy = sharp(architecture)
    asked = prompts(policy)
    found = sampler(policy).sample(asked, streams(7), 0.0)
    for prompt, sample in zip(asked, found, strict=True):
        ids = torch.tensor([prompt])
        expected = policy.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6, eos_token_id=policy.eos_ids
        )[0, len(prompt) :].tolist()
        assert sample.ids == expected
    assert [s.ids for s in sampler(policy).sample(asked, streams(7, 5), 0.0)] == [s.ids for s in found]


# -- 5 -----------------------------------------------------------------------------------------------------------------


def test_the_first_of_several_end_tokens_ends(policy):
    n = 60
    free = sampler(policy, limit=8).sample([prompts(policy)[0]] * n, streams(n), 1.0)
    assert sum(s.ended for s in free) < n / 2
    ends = sorted({*policy.eos_ids, *(s.ids[-1] for s in free[:5])})
    stopped = sampler(policy, limit=8, eos=ends).sample([prompts(policy)[0]] * n, streams(n), 1.0)
    for long, short in zip(free, stopped, strict=True):
        where = next((k for k, t in enumerate(long.ids) if t in ends), None)
        assert short.ended == (where is not None)
        assert short.ids == long.ids[: None if where is None else where + 1]
        assert short.logprobs == pytest.approx(long.logprobs[: len(short.ids)], abs=1e-5)
    assert {s.ended for s in stopped} == {True, False}


def test_no_prompts_no_samples(policy):
    assert sampler(policy).sample([], [], 1.0) == []


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_left_as_it_was(training):
    policy = sharp()
    policy.model.train(training)
    sampler(policy).sample(prompts(policy)[:1], streams(1), 1.0)
    assert policy.model.training is training


# -- 6 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_weights_that_are_not_finite_stop_the_run(temperature):
    policy = sharp()
    own = policy.model.generation_config
    with torch.no_grad():
        policy.model.model.norm.weight[3] = float("nan")
    with pytest.raises(NonFiniteError, match="not finite while it generates"):
        sampler(policy).sample(prompts(policy)[:2], streams(2), temperature)
    assert policy.model.generation_config is own
