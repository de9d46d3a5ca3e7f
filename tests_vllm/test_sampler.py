"""What the stand-in of tests/rollout/test_vllm.py promises, promised by vLLM itself.

1. Responses come back in the order of their prompts, with the policy's log-probabilities at the temperature.
2. Greedy responses are those of `HFSampler`; a seed gives the same response again.
3. Moved weights arrive, those of adapters as well; linear weights that do not are found, though vLLM packs them away.
4. Starting it leaves threads and random numbers alone.
5. Stop texts end responses with the token that completes them, outside thoughts.
6. Prompts that come while others are answered get the same responses; those that were dropped leave nothing behind.
"""

from __future__ import annotations

import random

import pytest
import torch

from stapo.errors import EngineError
from stapo.policy import LoraConfig
from stapo.rollout.config import VllmConfig
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.sampler import HFSampler
from stapo.rollout.stopping import StopRule
from stapo.rollout.vllm import VllmSampler
from toy_world import TEXTS, small_policy

LIMIT = 8


@pytest.fixture(scope="module", params=["qwen2", "qwen3", "llama"])
def pair(request):
    """A policy with adapters, whose heads are as wide as vLLM can have them on a CPU, and vLLM's sampler of it."""
    policy = small_policy(initializer_range=0.1, hidden_size=64, architecture=request.param)
    policy.attach(LoraConfig(rank=4), 0)
    policy.model.eval()
    torch.manual_seed(5)
    random.seed(5)
    sampler = VllmSampler(policy, 200, LIMIT, VllmConfig())
    policy.drawn = (float(torch.rand(1)), random.random())
    yield policy, sampler
    sampler.close()


def asked(policy, count=6):
    prompts = [policy.tokenizer.encode(TEXTS[i])[: 12 + 3 * i] for i in range(count)]
    return prompts, [(0, 1, i) for i in range(count)]


def logprobs(policy, prompt, ids, temperature):
    with torch.no_grad():
        logits = policy.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    logp = torch.log_softmax(logits.float() / temperature, -1)
    return [float(logp[k, token]) for k, token in enumerate(ids)]


def assert_the_policys(policy, sampler, temperature=1.0):
    prompts, streams = asked(policy)
    samples = sampler.sample(prompts, streams, temperature)
    for prompt, sample in zip(prompts, samples, strict=True):
        assert sample.logprobs == pytest.approx(logprobs(policy, prompt, sample.ids, temperature or 1.0), abs=1e-4)
    return samples


def test_it_starts_without_a_trace(pair):
    torch.manual_seed(5)
    random.seed(5)
    assert pair[0].drawn == (float(torch.rand(1)), random.random())
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_responses_have_the_policys_log_probabilities(pair, temperature):
    policy, sampler = pair
    samples = assert_the_policys(policy, sampler, temperature)
    prompts, streams = asked(policy)
    again = sampler.sample(prompts[::-1], streams[::-1], temperature)
    assert [s.ids for s in again[::-1]] == [s.ids for s in samples]
    assert len({tuple(s.ids) for s in sampler.sample([prompts[0]] * 8, [(9, i) for i in range(8)], 1.0)}) > 4


def test_greedy_ones_are_those_of_transformers(pair):
    policy, sampler = pair
    prompts, streams = asked(policy)
    mine = sampler.sample(prompts, streams, 0.0)
    theirs = HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, LIMIT).sample(prompts, streams, 0.0)
    assert [(s.ids, s.ended) for s in mine] == [(s.ids, s.ended) for s in theirs]


def test_beginnings_are_read_once(pair):
    policy, sampler = pair
    sampler.weights_will_move()
    prompt = policy.tokenizer.encode(" ".join(TEXTS))[:160]
    sampler.sample([prompt], [(0, 0)], 1.0)
    before = sampler.counts.reused
    sampler.sample([[*prompt, 5, 6, 7]], [(0, 1)], 1.0)
    assert sampler.counts.reused - before >= 128


@pytest.mark.parametrize("part", ["lora_B", "norm", "embed_tokens"])
def test_moved_weights_arrive(pair, part):
    policy, sampler = pair
    before = [s.logprobs for s in assert_the_policys(policy, sampler)]
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if part in name:
                weight += 0.05 * torch.randn_like(weight)
    sampler.weights_will_move()
    assert [s.logprobs for s in assert_the_policys(policy, sampler)] != before


def test_linear_weights_that_do_not_arrive_are_found(pair, monkeypatch):
    policy, sampler = pair
    whole = policy.plain_weights
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name or "norm" in name:
                weight += 0.5 * torch.randn_like(weight)
    monkeypatch.setattr(policy, "plain_weights", lambda: ((n, w) for n, w in whole() if "norm" in n))
    sampler.weights_will_move()
    with pytest.raises(EngineError, match="part of the weights did not arrive"):
        assert_the_policys(policy, sampler)
    monkeypatch.undo()
    assert_the_policys(policy, sampler)


class Thinking(PromptEncoder):
    """Of a template that has opened a thought before each response."""

    held = "<think>\n"


@pytest.mark.parametrize("encoder_class", [PromptEncoder, Thinking])
def test_texts_end_responses_outside_thoughts(encoder_class):
    policy = small_policy(initializer_range=0.1, hidden_size=64, architecture="qwen3")
    policy.model.eval()
    rule = StopRule(("e", "go"), encoder_class(policy.tokenizer))
    sampler = VllmSampler(policy, 200, LIMIT, VllmConfig(), rule)
    try:
        prompts, streams = asked(policy, 12)
        samples = sampler.sample(prompts, streams, 1.0)
        for prompt, sample in zip(prompts, samples, strict=True):
            assert sample.logprobs == pytest.approx(logprobs(policy, prompt, sample.ids, 1.0), abs=1e-4)
            assert rule.cut(sample) == sample
            at_text = rule.complete(sample.ids)
            assert sample.ended == (at_text or sample.ids[-1] in policy.eos_ids)
            assert at_text or len(sample.ids) == LIMIT or sample.ids[-1] in policy.eos_ids
        assert any(rule.complete(s.ids) for s in samples) == (encoder_class is PromptEncoder)
        texts = [policy.tokenizer.decode(s.ids[:-1], skip_special_tokens=True) for s in samples]
        assert any("e" in text for text in texts) == (encoder_class is Thinking)
    finally:
        sampler.close()


def test_prompts_that_come_while_others_are_answered(pair):
    policy, sampler = pair
    prompts, streams = asked(policy)
    expected = sampler.sample(prompts, streams, 1.0)
    sampler.weights_will_move()  # so the cache of prompts is dropped
    found, waiting = {}, list(range(len(prompts)))
    while len(found) < len(prompts):
        for slot in waiting[:1]:
            sampler.put(slot, prompts[slot], streams[slot], 1.0)
        waiting = waiting[1:]
        found |= dict(sampler.advance())
    assert [found[slot].ids for slot in sorted(found)] == [sample.ids for sample in expected]
    for slot, sample in found.items():
        assert sample.logprobs == pytest.approx(expected[slot].logprobs, abs=1e-4)
    sampler.put(0, prompts[0], streams[0], 1.0)
    sampler.abandon()
    assert [s.ids for s in sampler.sample(prompts, streams, 1.0)] == [s.ids for s in expected]
    sampler.put(7, prompts[1], streams[1], 1.0)
    last = []
    while not last:
        last = sampler.advance()
    assert [(slot, sample.ids) for slot, sample in last] == [(7, expected[1].ids)]
