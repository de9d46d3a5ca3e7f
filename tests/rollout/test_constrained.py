"""Constrained decoding: responses that can be nothing but an offered command.

1. Grammars: which responses give the offered commands, whatever the tokenizer makes of them.
2. Probabilities, checked against all commands counted out: they add up to 1, sampler and trainer agree to rounding, and
   the entropy of the choice among commands is the expected sum of the tokens' entropies.
3. A response is a sample of it, in whatever batch, and rows without constraints are none the wiser.
4. Episodes: every response is valid, steps say what was allowed, and what cannot be constrained is said at once.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from stapo.agent import AgentConfig
from stapo.algo import get_algorithm
from stapo.envs.offers import offers
from stapo.errors import ConfigError
from stapo.policy import RowTokens
from stapo.rollout.collect import Collector
from stapo.rollout.constraints import Grammars
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.sampler import HFSampler
from stapo.rollout.text_codec import TextCodec
from stapo.training.scoring import Scorer
from toy_world import ROOMS, SHOP, TEXTS, OfferingEnv, ToyEnv, small_policy

AGENT = AgentConfig(prompt="compact", response="action", decode="constrained", max_response_tokens=40)
CHOICE = replace(AGENT, response="choice")
SEARCH = SHOP[0]


def greedy_tokenizer(vocabulary=420):
    """Byte-level BPE that merges across everything: brackets with words, blanks with brackets, commands whole."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = ("red lamp]", "blue desk].", "[red", "a]b", "lamps]\n", "search[red", "click[red lamp] now")
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<pad>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([word for word in words for _ in range(9)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<pad>")


def sharp(architecture="qwen3", tokenizer=None):
    policy = small_policy(2, architecture=architecture, initializer_range=0.3, vocab_size=460)
    if tokenizer is not None:
        policy.model.resize_token_embeddings(len(tokenizer) + 3, mean_resizing=False)
        policy.tokenizer, policy.eos_ids = tokenizer, [tokenizer.eos_token_id]
    policy.model.eval()
    return policy


def sampler(policy, agent=AGENT):
    return HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, agent.max_response_tokens)


def grammars(policy, agent=AGENT):
    return Grammars(PromptEncoder(policy.tokenizer), agent)


def scored(policy, rows, temperature=1.0):
    with torch.no_grad():
        return Scorer(policy, None, get_algorithm("gigpo"), temperature).score(policy.model, rows)


@pytest.fixture(scope="module", params=["qwen3", "llama", "merging"])
def policy(request):
    return sharp("qwen2", greedy_tokenizer()) if request.param == "merging" else sharp(request.param)


# -- 1 -----------------------------------------------------------------------------------------------------------------


def complete(grammar):
    """All responses of a grammar without texts of the agent's own."""
    found, pending = [], [()]
    while pending:
        walk, begun = grammar.walk(), pending.pop()
        for token in begun:
            walk.take(token)
        assert walk.allowed.free is None
        pending += [(*begun, token) for token in walk.allowed.ids]
        found += [list(begun)] if walk.complete else []
    return found


def test_responses_are_the_commands_as_demonstrations_spell_them(policy):
    encoder = PromptEncoder(policy.tokenizer)
    found = complete(grammars(policy).of(ROOMS))
    assert sorted(found) == sorted(encoder.encode_response(command) for command in set(ROOMS))
    numbers = complete(grammars(policy, CHOICE).of(tuple(f"go {n}" for n in range(12))))
    assert sorted(found := [encoder.decode(ids) for ids in numbers], key=int) == [str(n) for n in range(1, 13)]
    assert len(found) == 12


def test_what_a_response_cannot_give_is_left_out(policy):
    encoder, kept = PromptEncoder(policy.tokenizer), ("wait",)
    wrong = ("", "   ", "two\nlines", " blank before", "go " + "x" * 60)
    assert complete(grammars(policy).of(kept + wrong)) == [encoder.encode_response("wait")]
    with pytest.raises(ConfigError, match="none of 2 offered commands, such as ''"):
        grammars(policy).of(wrong[:2])
    with pytest.raises(ConfigError, match="in agent"):
        grammars(policy, replace(AGENT, max_response_tokens=1)).of(kept)


def test_a_list_of_commands_is_built_once(policy):
    built = grammars(policy)
    assert built.of(ROOMS) is built.of(tuple(ROOMS))
    assert built.of(ROOMS[1:]) is not built.of(ROOMS)


def test_tokens_of_a_text_leave_out_what_would_end_or_break_it(policy):
    walk = grammars(policy).of((SEARCH,)).walk()
    for token in policy.tokenizer.encode("search[", add_special_tokens=False):
        assert walk.allowed.ids == (token,)
        walk.take(token)
    free = walk.allowed.free
    texts = {i: policy.tokenizer.decode([i]) for i in range(len(policy.tokenizer))}
    left_out = {text for i, text in texts.items() if i not in free.characters}
    assert not any(set("]<\n\ufffd") & set(texts[i]) or not texts[i].strip() for i in free.characters)
    assert {"]", "\n", "<", " ", "<|im_end|>"} <= left_out
    assert {"a", "[", ">", "0", "r"} <= set(texts.values()) - left_out
    walk.take(next(i for i, text in texts.items() if text == "a"))
    assert walk.allowed.ids == tuple(policy.tokenizer.encode("]", add_special_tokens=False))
    assert {texts[i] for i in walk.allowed.free.characters} - {texts[i] for i in free.characters} >= {" "}


# -- 2 -----------------------------------------------------------------------------------------------------------------


def by_counting(policy, prompt, paths, temperature):
    """(probability, entropies) of every path, from the model's logits and the list of paths alone."""
    found = []
    for path in paths:
        with torch.no_grad():
            logits_lv = policy.model(torch.tensor([[*prompt, *path]])).logits[0, len(prompt) - 1 :].double()
        chance, entropies = 1.0, []
        for k, token in enumerate(path):
            going_on = sorted({other[k] for other in paths if other[:k] == path[:k] and len(other) > k})
            p = torch.softmax(logits_lv[k, going_on] / temperature, -1)
            chance *= float(p[going_on.index(token)])
            entropies.append(float(-(p * p.log()).sum()))
        found.append((chance, entropies))
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_probabilities_of_all_commands(policy, temperature):
    prompt, grammar = policy.tokenizer.encode(TEXTS[0]), grammars(policy).of(ROOMS)
    paths = complete(grammar)
    wanted = by_counting(policy, prompt, paths, temperature)
    chances = np.array([chance for chance, _ in wanted])
    assert chances.sum() == pytest.approx(1, abs=1e-6)
    assert np.sort(chances)[-2] > 0.02

    trained = scored(policy, [RowTokens(prompt, path, grammar.along(path)) for path in paths], temperature)
    assert trained.logp_bl.sum(-1).exp().tolist() == pytest.approx(chances, abs=1e-5)
    for row, (_, entropies) in zip(trained.entropy_bl, wanted, strict=True):
        assert row[: len(entropies)].tolist() == pytest.approx(entropies, abs=1e-5)
    of_choice = -(chances * np.log(chances)).sum()
    assert of_choice == pytest.approx(float((torch.tensor(chances) * trained.entropy_bl.sum(-1)).sum()), abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("offered", [ROOMS, SHOP])
def test_sampler_and_trainer_agree(policy, offered, temperature):
    grammar = grammars(policy).of(offered)
    prompts = [policy.tokenizer.encode(text) for text in TEXTS[:12]]
    samples = sampler(policy).sample(prompts, [(1, i) for i in range(12)], temperature, constraints=[grammar] * 12)
    rows = [RowTokens(p, s.ids, grammar.along(s.ids)) for p, s in zip(prompts, samples, strict=True)]
    trained = scored(policy, rows, temperature)
    for b, sample in enumerate(samples):
        assert trained.logp_bl[b, : len(sample.ids)].tolist() == pytest.approx(sample.logprobs, abs=2e-5)
        assert trained.entropy_bl[b, : len(sample.ids)].tolist() == pytest.approx(sample.entropies, abs=2e-5)
        for allowed, logp, entropy in zip(rows[b].allowed, sample.logprobs, sample.entropies, strict=True):
            assert (logp, entropy) == (0, 0) or allowed.choice
    assert len({tuple(s.ids) for s in samples}) > 1


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_responses_follow_the_distribution(policy):
    prompt, grammar, n = policy.tokenizer.encode(TEXTS[0]), grammars(policy).of(ROOMS), 1500
    paths = complete(grammar)
    chances = np.array([chance for chance, _ in by_counting(policy, prompt, paths, 1.0)])
    samples = sampler(policy).sample([prompt] * n, [(5, i) for i in range(n)], 1.0, constraints=[grammar] * n)
    counts = np.array([sum(s.ids == path for s in samples) for path in paths])
    assert counts.sum() == n
    # The 99.99 % quantile of chi-square with 5 degrees of freedom is 25.7; the rare ones are taken together.
    common = n * chances > 5
    seen, wanted = (np.append(v[common], v[~common].sum()) for v in (counts, n * chances))
    assert float(((seen - wanted) ** 2 / np.maximum(wanted, 1)).sum()) < 25.7
    assert all(s.ended for s in samples)


def test_the_most_probable_token_where_the_temperature_is_0(policy):
    prompt, grammar = policy.tokenizer.encode(TEXTS[3]), grammars(policy).of(ROOMS)
    (sample,) = sampler(policy).sample([prompt], [(0,)], 0.0, constraints=[grammar])
    with torch.no_grad():
        logits_lv = policy.model(torch.tensor([[*prompt, *sample.ids]])).logits[0, len(prompt) - 1 :]
    for k, (token, allowed) in enumerate(zip(sample.ids, grammar.along(sample.ids), strict=True)):
        assert token == max(allowed.ids, key=lambda i, k=k: float(logits_lv[k, i]))


def test_rows_of_a_batch_follow_their_own_grammars(policy):
    built = grammars(policy)
    bound = [built.of(ROOMS), None, built.of(SHOP), None, built.of(("wait",)), built.of(ROOMS[:3])]
    prompts = [policy.tokenizer.encode(TEXTS[i] * (1 + i % 2)) for i in range(6)]
    streams = [(3, i) for i in range(6)]
    together = sampler(policy).sample(prompts, streams, 1.0, constraints=bound)
    alone = [
        sampler(policy).sample([p], [s], 1.0, constraints=[g])[0]
        for p, s, g in zip(prompts, streams, bound, strict=True)
    ]
    free = sampler(policy).sample(prompts, streams, 1.0)
    for b, (one, two) in enumerate(zip(together, alone, strict=True)):
        assert one.ids == two.ids
        assert one.logprobs == pytest.approx(two.logprobs, abs=1e-5)
        assert (one.ids == free[b].ids) == (bound[b] is None)
    encoder = PromptEncoder(policy.tokenizer)
    assert encoder.decode(together[4].ids) == "wait"
    assert together[4].logprobs == [0] * len(together[4].ids)


@pytest.mark.parametrize("limit", [0, 1, 2, 5, 30])
def test_texts_are_closed_in_time(policy, limit):
    """`limit` tokens more than the shortest search needs."""
    encoder = PromptEncoder(policy.tokenizer)
    agent = replace(AGENT, max_response_tokens=len(encoder.encode_response("search[")) + 2 + limit)
    grammar = grammars(policy, agent).of((SEARCH,))
    prompts = [policy.tokenizer.encode(text) for text in TEXTS]
    samples = sampler(policy, agent).sample(
        prompts, [(2, i) for i in range(18)], 1.0, constraints=[grammar] * 18
    )  # fmt: skip
    for sample in samples:
        assert sample.ended
        assert offers((SEARCH,), encoder.parse(sample.ids, agent, ()).action)
    assert max(len(s.ids) for s in samples) == agent.max_response_tokens or limit == 30
    assert len({tuple(s.ids) for s in samples}) > 9


# -- 4 -----------------------------------------------------------------------------------------------------------------


def collector(policy, agent=AGENT, env=OfferingEnv, player=None):
    return Collector(env, PromptEncoder(policy.tokenizer), player or sampler(policy, agent), agent)


def test_every_response_of_an_episode_is_an_offered_command(policy):
    agent = replace(AGENT, require_admissible=True, max_prompt_tokens=500)
    played = collector(policy, agent).collect([f"toy/train/{c}" for c in ("red", "blue")], 6, 1.0, (0, 1))
    assert [len(t.steps) for t in played] == [3] * 12
    for t in played:
        assert [(s.valid, s.problem, s.truncated) for s in t.steps] == [(True, "", False)] * 3
        assert [s.action for s in t.steps][1] == "wait"
        assert "help" not in [s.action for s in t.steps]
        for s in t.steps:
            assert len(s.allowed) == len(s.response_ids)
            assert all(a.has(token) for a, token in zip(s.allowed, s.response_ids, strict=True))
        assert [any(a.choice for a in s.allowed) for s in t.steps] == [True, False, True]
    assert len({s.action for t in played for s in t.steps}) > 5


def test_numbers_are_those_of_the_list(policy):
    agent = replace(CHOICE, require_admissible=True, max_prompt_tokens=500, max_commands=4)
    played = collector(policy, agent).collect(["toy/train/red"], 12, 1.0, (0, 1))
    assert all(s.valid for t in played for s in t.steps)
    assert {t.steps[0].action for t in played} <= set(ROOMS[:4])
    assert {t.steps[2].action for t in played} <= set(SHOP[1:])
    assert all(len(t.steps[1].response_ids) == 2 for t in played)


def test_no_more_commands_than_prompts_list(policy):
    played = collector(policy, replace(AGENT, max_commands=2, max_prompt_tokens=500)).collect(
        ["toy/train/red"], 8, 1.0, (0, 1)
    )  # fmt: skip
    assert {t.steps[0].action for t in played} <= set(ROOMS[:2])


def test_without_it_nothing_is_noted(policy):
    agent = replace(AGENT, decode="free", max_response_tokens=4, max_prompt_tokens=500)
    played = collector(policy, agent, ToyEnv).collect(["toy/train/red"], 2, 1.0, (0, 1))
    assert {s.allowed for t in played for s in t.steps} == {None}


class Ignores:
    """A sampler that takes constraints and does as it likes."""

    def __init__(self, inner):
        self.inner = inner

    def sample(self, prompts, streams, temperature, constraints):
        return self.inner.sample(prompts, streams, temperature)


def test_a_sampler_that_ignores_them_costs_its_episodes(policy):
    play = collector(policy, replace(AGENT, max_prompt_tokens=500), player=Ignores(sampler(policy)))
    (lost,) = play.collect(["toy/train/red"], 1, 1.0, (0, 1))
    assert lost.failure.boundary.value == "model"
    assert "is not allowed" in lost.failure.error


def test_what_cannot_be_constrained_is_said_at_once(policy):
    with pytest.raises(ConfigError, match="the environment offers no list of commands"):
        collector(policy, env=ToyEnv).collect(["toy/train/red"], 1, 1.0, (0, 1))
    with pytest.raises(ConfigError, match="the environment offers none at this step"):
        collector(policy, replace(AGENT, hidden_commands=tuple({*ROOMS, "help"}))).collect(
            ["toy/train/red"], 1, 1.0, (0, 1)
        )
    with pytest.raises(ConfigError, match="a model behind a server"):
        Collector(OfferingEnv, TextCodec(), sampler(policy), AGENT)
    for response in ("think_action", "search_answer"):
        with pytest.raises(ConfigError, match="more than a command"):
            replace(AGENT, response=response)
    with pytest.raises(ConfigError, match="expected one of free, constrained"):
        replace(AGENT, decode="trie")
