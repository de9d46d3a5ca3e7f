"""Reading prompts in parts, decoding together, and drawing among allowed tokens.

1. Samples are the same however prompts are cut into parts and rows decode together; more rows together, fewer passes.
2. A prompt that several rows have is read once.
3. Tokens that a grammar leaves no choice about take no pass of their own, and those that end a response take none.
4. Only the rows of the head that may be taken are computed; the numbers are those of the masked vocabulary.
5. Rows whose response is complete leave, and the rest go on as they would have; four at least go on.
6. Query heads that share keys attend to them where they are; the model is left as it was.
7. Models with other caches, and with none, answer as `generate` does.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import VOCABULARY, model_of

from stapo.policy.sequences import Allowed, FreeTokens
from stapo.rollout.batch_cache import shared_heads
from stapo.rollout.drawing import Drawer, draw
from stapo.rollout.sampler import HFSampler
from stapo.rollout.trie import Grammar


@pytest.fixture(scope="module")
def model():
    """In double precision: how single precision rounds products of other shapes depends on the processor."""
    return model_of().double()


@pytest.fixture
def passes(model):
    """(rows, tokens) of each pass of the model's body."""
    seen = []
    hook = model.base_model.register_forward_pre_hook(
        lambda body, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield seen
    hook.remove()


def prompts(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(3, VOCABULARY, 5 + 3 * i).tolist() for i in range(count)]


def streams(count):
    return [(1, i) for i in range(count)]


def sampled(sampler, asked, **more):
    samples = sampler.sample(asked, streams(len(asked)), 1.0, **more)
    return [s.ids for s in samples], [p for s in samples for p in s.logprobs]


# -- 1 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_tokens", "decode_tokens", "decoded"),
    [(10_000, 10_000, 1), (60, 10_000, 1), (1, 10_000, 1), (10_000, 60, 4), (1, 1, 9), (60, 100, 3)],
)
def test_parts_and_rows_together_do_not_matter(model, passes, batch_tokens, decode_tokens, decoded):
    asked = prompts(9)
    wanted, numbers = sampled(HFSampler(model, [], 0, 5), asked)
    passes.clear()
    found, others = sampled(HFSampler(model, [], 0, 5, batch_tokens, decode_tokens=decode_tokens), asked)
    assert found == wanted
    assert others == pytest.approx(numbers, abs=1e-9)
    assert sum(tokens == 1 for _, tokens in passes) == 1 + 4 * decoded  # one sees whether keys can be kept
    read = [rows * tokens for rows, tokens in passes if tokens > 1]
    assert max(read) <= max(batch_tokens, 29)


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_a_prompt_of_several_rows_is_read_once(model, passes):
    one, two = prompts(2)
    asked = [one, two, one, one, two, one]
    alone = [HFSampler(model, [], 0, 5).sample([p], [s], 1.0)[0].ids for p, s in zip(asked, streams(6), strict=True)]
    passes.clear()
    sampler = HFSampler(model, [], 0, 5)
    assert sampled(sampler, asked)[0] == alone
    assert len({tuple(ids) for ids in alone}) > 4
    assert passes[1:] == [(2, 8)] + [(6, 1)] * 4
    assert (sampler.counts.prefilled, sampler.counts.reused) == (5 + 8, 3 * 5 + 8)


def test_rows_of_one_prompt_do_not_exceed_what_decodes_together(model, passes):
    asked = [prompts(2)[1]] * 7
    wanted = sampled(HFSampler(model, [], 0, 3), asked)[0]
    passes.clear()
    assert sampled(HFSampler(model, [], 0, 3, decode_tokens=25), asked)[0] == wanted
    assert max(rows for rows, _ in passes) == 3


# -- 3 -----------------------------------------------------------------------------------------------------------------

PATHS = [[10, 11, 12, 20, 21, 2], [10, 11, 12, 30, 31, 32, 2], [10, 11, 12, 30, 40, 2]]


def test_tokens_without_a_choice_take_no_pass(model, passes):
    grammar, asked = Grammar(PATHS, limit=8), prompts(8)
    sampler = HFSampler(model, [2], 0, 8)
    ids, numbers = sampled(sampler, asked, constraints=[grammar] * 8)
    assert {tuple(i) for i in ids} == {tuple(path) for path in PATHS}
    # 10, 11 and 12 are read with the prompt; one token decides, and of 30 one more.
    assert [tokens for _, tokens in passes[1:]] == [26 + 3, 1]
    with torch.no_grad():
        for prompt, path, found in zip(asked, ids, np.split(numbers, np.cumsum([len(i) for i in ids])), strict=False):
            logits_lv = model(torch.tensor([[*prompt, *path]])).logits[0, len(prompt) - 1 :].double()
            for k, (token, logprob) in enumerate(zip(path, found, strict=True)):
                may = sorted({p[k] for p in PATHS if p[:k] == path[:k]})
                assert logprob == pytest.approx(float(logits_lv[k, may].log_softmax(-1)[may.index(token)]), abs=1e-5)


def test_a_response_without_a_choice_is_not_read(model, passes):
    sampler = HFSampler(model, [2], 0, 8)
    ids, numbers = sampled(sampler, prompts(2), constraints=[Grammar([[7, 8, 2]], limit=8)] * 2)
    assert ids == [[7, 8, 2]] * 2
    assert numbers == [0.0] * 6
    assert passes[1:] == []


@pytest.mark.parametrize("kept", [0, 1 << 30])
def test_rows_at_different_places_read_together(model, kept):
    """Some have three tokens to read at once, some one, some have no grammar; turn after turn."""
    long = Grammar([[10, 11, 12, 13, a, 14, 15, 16, b, 2] for a in (20, 21) for b in (22, 23)], limit=12)
    bound = [long, None, Grammar([[a, b, c, 2] for a in (5, 6) for b in (7, 8) for c in (9, 3)], limit=12), None, long]
    together, alone = (HFSampler(model, [2], 0, 12, kept_bytes=size, growing=True) for size in (kept, 0))
    asked = prompts(5)
    for turn in range(3):
        named = [(1, i, turn) for i in range(5)]
        found = together.sample(asked, named, 1.0, constraints=bound)
        for i in range(5):
            (one,) = alone.sample([asked[i]], [named[i]], 1.0, constraints=[bound[i]])
            assert found[i].ids == one.ids
            assert found[i].logprobs == pytest.approx(one.logprobs, abs=1e-9)
        asked = [[*p, *s.ids, 50 + i] for i, (p, s) in enumerate(zip(asked, found, strict=True))]
    assert (together.counts.reused > 200) == (kept > 0)


# -- 4 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_numbers_are_those_of_the_masked_vocabulary(temperature, bias):
    torch.manual_seed(0)
    hidden, weight = torch.randn(9, 16), torch.randn(VOCABULARY, 16)
    bias_v = torch.randn(VOCABULARY) if bias else None
    free = FreeTokens(dict.fromkeys(range(30, 50), 1))
    allowed = [Allowed((3, 9, 40)), None, Allowed((7,)), Allowed((1, 2), free), Allowed((5, 60)), Allowed((), free)]
    rows, uniforms = [8, 0, 3, 1, 5, 7], [0.01, 0.5, 0.99, 0.3, 0.7, 0.999]
    drawn = Drawer(weight, bias_v, temperature)(hidden, rows, uniforms, allowed)
    for row, u, may, *found in zip(rows, uniforms, allowed, *drawn, strict=True):
        logits = torch.nn.functional.linear(hidden[row : row + 1], weight, bias_v)
        if may is not None:
            ids = [*may.ids, *(may.free.ids if may.free else ())]
            logits = logits.index_fill(1, torch.tensor([i for i in range(VOCABULARY) if i not in ids]), -torch.inf)
        wanted = draw(logits, torch.tensor([u]) if temperature else None, temperature)
        assert found == pytest.approx([float(value) for value in wanted], abs=1e-5)


def test_the_rest_of_the_head_is_not_read():
    weight = torch.full((VOCABULARY, 4), float("nan"))
    weight[[3, 9]] = torch.eye(2, 4)
    drawn = Drawer(weight, None, 1.0)(torch.eye(2, 4), [0, 1], [0.1, 0.9], [Allowed((3, 9))] * 2)
    assert drawn.tokens == [3, 9]


# -- 5 -----------------------------------------------------------------------------------------------------------------


def test_complete_rows_leave_and_change_nothing(model, passes):
    asked = [prompts(9)[3]] * 24
    whole = HFSampler(model, [], 0, 40).sample(asked, streams(24), 1.0)
    passes.clear()
    samples = HFSampler(model, [11, 12, 13, 14], 0, 40).sample(asked, streams(24), 1.0)
    for short, long in zip(samples, whole, strict=True):
        end = len(short.ids)
        assert short.ids == long.ids[:end]
        assert short.logprobs == pytest.approx(long.logprobs[:end], abs=1e-9)
        assert short.entropies == pytest.approx(long.entropies[:end], abs=1e-9)
    rows = [rows for rows, tokens in passes[2:]]
    assert rows[0] == 24
    assert 1 < len({len(s.ids) for s in samples}) < 40
    assert rows[-1] in range(4, 12)
    assert rows == sorted(rows, reverse=True)


# -- 6 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma"])
def test_shared_heads_give_the_same_states_and_leave_the_model_alone(kind):
    model = model_of(kind, num_attention_heads=4, num_key_value_heads=1)
    ids = torch.randint(3, VOCABULARY, (3, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    with torch.no_grad():
        before = model(ids, attention_mask=mask).logits
        calls = []
        with shared_heads(model), pytest.MonkeyPatch.context() as patch:
            right = torch.nn.functional.scaled_dot_product_attention
            patch.setattr(
                torch.nn.functional,
                "scaled_dot_product_attention",
                lambda q, k, *args, **more: (calls.append((q.shape, k.shape)), right(q, k, *args, **more))[1],
            )
            after = model(ids, attention_mask=mask).logits
    assert model.config._attn_implementation == "sdpa"
    assert torch.allclose(before[mask == 1], after[mask == 1], atol=2e-5)
    assert {(q[:3], k[:3]) for q, k in calls} == {((3, 1, 44), (3, 1, 11))}


# -- 7 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mistral", {"sliding_window": 8}),
        ("lfm2", {"layer_types": ["conv", "full_attention"], "block_ff_dim": 64}),
        ("mamba", {"state_size": 4}),
        ("gpt2", {}),
        ("bloom", {}),
    ],
)
def test_other_models_answer_as_generate_does(kind, changes):
    model, asked = model_of(kind, **changes), [prompts(4)[3], prompts(1)[0], prompts(3)[2]]
    found = [s.ids for s in HFSampler(model, [], 0, 6).sample(asked, streams(3), 0.0)]
    for prompt, ids in zip(asked, found, strict=True):
        given = torch.tensor([prompt])
        wanted = model.generate(given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=6)
        assert ids == wanted[0, len(prompt) :].tolist()
    long = Grammar([[10, 11, a, 12, 13, b, 2] for a in (20, 21) for b in (22, 23)], limit=8)
    bound = HFSampler(model, [2], 0, 8).sample(asked, streams(3), 1.0, constraints=[long, None, long])
    for i in range(3):
        (one,) = HFSampler(model, [2], 0, 8).sample(
            [asked[i]], streams(3)[i : i + 1], 1.0, constraints=[None if i == 1 else long]
        )
        assert bound[i].ids == one.ids
        assert bound[i].logprobs == pytest.approx(one.logprobs, abs=1e-4)
