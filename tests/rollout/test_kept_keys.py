"""Keys and values that the sampler keeps between the turns of an episode.

1. The samples are those of a sampler that keeps nothing, whatever the model, the lengths, breaks, ends and batches.
2. A turn reads its new tokens alone; what the members of a group begin with is read once.
3. Where no prompt extends the last one and its response, nothing is kept, and the numbers are the same to the bit.
4. What is kept goes with its episode, with the rollout, and when the weights move; an episode that is begun again
   begins with nothing.
5. What is kept stays within the budget; episodes that find no room are counted once, and their samples are the same.
6. Models whose cache is something else read every prompt from its start; that is said once.
7. Rows are cut into sub-batches by what they have to read.
8. A rollout forgets at its end; its metrics say what was read; the setting has a range.
"""

from __future__ import annotations

import random
from functools import partial

import pytest
import small_models
import torch
from small_models import VOCABULARY

from slow import slow_except
from stapo.agent import AgentConfig
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data
from stapo.errors import ConfigError, NonFiniteError
from stapo.policy import LoraConfig, ModelConfig, load_policy
from stapo.policy.adapter import Adapter
from stapo.progress import listen_to_notes
from stapo.rollout.collect import Collector
from stapo.rollout.config import RolloutConfig
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.kept_keys import KeptKeys, key_bytes, sub_batches
from stapo.rollout.sampler import HFSampler
from stapo.run import RunDirectory
from stapo.training.loop import build_collector
from toy_world import ToyEnv, small_policy, toy_settings

EOS = 2
model_of = partial(small_models.model_of, eos_token_id=EOS)


def sampler_of(model, kept=1 << 30, growing=True, limit=6, batch_tokens=10_000):
    return HFSampler(model, [EOS], 0, limit, batch_tokens, kept, growing)


def play(sampler, seed=0, episodes=6, turns=5, temperature=1.0, broken=0.0, retried=0.0):
    """Random conversations: lengths, ends, breaks and retries; returns all samples by stream, and the prompts."""
    rng = random.Random(seed)
    said = {}
    prompts = {}
    running = {m: (rng.randint(1, turns), 0) for m in range(episodes)}
    text = lambda n: [rng.randrange(3, VOCABULARY) for _ in range(n)]  # noqa: E731
    first = text(9)
    present = {m: list(first) for m in running}
    while running:
        order = sorted(running, key=lambda m: rng.random())
        streams = [(5, 1, 0, m, running[m][1]) for m in order]
        answers = sampler.sample([present[m] for m in order], streams, temperature)
        for m, stream, answer in zip(order, streams, answers, strict=True):
            said[stream], prompts[stream] = answer, list(present[m])
            left, step = running[m]
            if rng.random() < retried:
                present[m], running[m] = list(first), (left, 0)
            elif left == 1:
                del running[m]
            else:
                running[m] = (left - 1, step + 1)
                if rng.random() < broken:
                    present[m] = present[m][: rng.randint(3, len(present[m]))] + text(rng.randint(1, 20))
                else:
                    present[m] = [*present[m], *answer.ids, *text(rng.randint(1, 12))]
    sampler.forget()
    return said, prompts


def assert_same(one, other):
    assert one.keys() == other.keys()
    for stream in one:
        assert one[stream].ids == other[stream].ids, stream
        assert one[stream].ended == other[stream].ended
        assert one[stream].logprobs == pytest.approx(other[stream].logprobs, abs=2e-5)
        assert one[stream].entropies == pytest.approx(other[stream].entropies, abs=2e-5)


# -- 1 -----------------------------------------------------------------------------------------------------------------

KINDS = ["llama", "qwen2", "qwen3", "gpt2", "bloom", "gpt_neox", "gemma"]


@pytest.mark.parametrize("temperature", [1.0, 0.0])
@pytest.mark.parametrize("kind", slow_except(KINDS, "llama", "qwen3", "gpt2"))
def test_samples_are_those_of_one_that_keeps_nothing(kind, temperature):
    model = model_of(kind)
    for seed in range(2):
        keeping, other = sampler_of(model), sampler_of(model, 0)
        kept, prompts = play(keeping, seed, broken=0.15, retried=0.1, temperature=temperature)
        plain, asked = play(other, seed, broken=0.15, retried=0.1, temperature=temperature)
        assert prompts == asked
        assert_same(kept, plain)
        # What all begin with is read once either way.
        assert keeping.counts.reused > 125 > other.counts.reused >= 45


def test_so_they_are_with_adapters():
    plain = model_of("qwen2")
    model = model_of("qwen2")
    Adapter(model, LoraConfig(rank=4), seed=0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(3)).mul_(0.5)
    keeping = sampler_of(model)
    kept, prompts = play(keeping, 4, broken=0.15)
    other, asked = play(sampler_of(model, 0), 4, broken=0.15)
    assert prompts == asked
    assert_same(kept, other)
    assert keeping.counts.reused > 0
    assert kept != play(sampler_of(plain), 4, broken=0.15)[0]


def test_so_they_are_with_responses_of_every_length():
    model = model_of(initializer_range=0.2)
    kept, _ = play(sampler_of(model, limit=12), 3, episodes=12)
    plain, _ = play(sampler_of(model, 0, limit=12), 3, episodes=12)
    assert_same(kept, plain)
    assert len({len(s.ids) for s in kept.values()}) > 3
    assert {s.ended for s in kept.values()} == {True, False}


@pytest.mark.parametrize("batch_tokens", [1, 60, 150])
def test_so_they_are_in_sub_batches(batch_tokens):
    model = model_of()
    kept, _ = play(sampler_of(model, batch_tokens=batch_tokens), 2, broken=0.2)
    plain, _ = play(sampler_of(model, 0), 2, broken=0.2)
    assert_same(kept, plain)


def test_two_episodes_under_one_name_are_two():
    model, stream = model_of(), (5, 0, 0, 0)
    sampler = sampler_of(model)
    first = sampler.sample([[5, 6, 7], [9, 8, 7, 6]], [stream, stream], 1.0)
    longer = [[5, 6, 7, *first[0].ids, 11], [9, 8, 7, 6, *first[1].ids, 12]]
    plain = sampler_of(model, 0).sample(longer, [(5, 0, 0, 1)] * 2, 1.0)
    assert [s.ids for s in sampler.sample(longer, [(5, 0, 0, 1)] * 2, 1.0)] == [s.ids for s in plain]


@pytest.mark.parametrize("shift", [-1, 1])
def test_keys_of_the_wrong_tokens_would_be_seen(monkeypatch, shift):
    right = KeptKeys.keep

    def wrong(self, stream, ids, size, layers):
        right(self, stream, ids, size, lambda: [(k.roll(shift, 1), v.roll(shift, 1)) for k, v in layers()])

    model = model_of()
    plain, _ = play(sampler_of(model, 0))
    monkeypatch.setattr(KeptKeys, "keep", wrong)
    kept, _ = play(sampler_of(model))
    with pytest.raises(AssertionError):
        assert_same(kept, plain)


# -- 2 -----------------------------------------------------------------------------------------------------------------


def turns_of(sampler, lengths, group=2, text=5, first=10):
    """Play turns of one group whose prompts grow by `text` tokens; returns (prefilled, reused) after each turn."""
    prompts, seen = [list(range(3, 3 + first)) for _ in range(group)], []
    for step in range(lengths):
        answers = sampler.sample(prompts, [(1, 0, m, step) for m in range(group)], 1.0)
        for m, answer in enumerate(answers):
            prompts[m] = [*prompts[m], *answer.ids, *range(20 + m, 20 + m + text)]
        seen.append((sampler.counts.prefilled, sampler.counts.reused))
    return seen, prompts


def test_a_turn_reads_its_new_tokens_alone():
    model = model_of(eos_token_id=None)
    sampler = HFSampler(model, [], 0, 4, 10_000, 1 << 30, True)
    seen, prompts = turns_of(sampler, 4)
    # The first prompt once; then five of text and the last one that was drawn, of each of two.
    assert [prefilled for prefilled, _ in seen] == [10, 22, 34, 46]
    # Of two prompts of 10, 19, 28 and 37 tokens all the others.
    assert [reused for _, reused in seen] == [10, 10 + 2 * 13, 36 + 2 * 22, 80 + 2 * 31]
    plain = HFSampler(model, [], 0, 4)
    seen, asked = turns_of(plain, 4)
    assert seen[-1] == (10 + 2 * (19 + 28 + 37), 10)
    assert asked == prompts


def test_a_break_reuses_what_is_common():
    sampler = sampler_of(model_of())
    prompt = list(range(3, 43))
    sampler.sample([prompt], [(1, 0, 0, 0)], 1.0)
    before = sampler.counts.prefilled
    sampler.sample([[*prompt[:25], 50, 51, 52]], [(1, 0, 0, 1)], 1.0)
    assert (sampler.counts.prefilled - before, sampler.counts.reused) == (3, 25)


def test_the_same_prompt_again_reads_one_token():
    sampler = sampler_of(model_of())
    prompt = list(range(3, 43))
    for step in (0, 1):
        sampler.sample([prompt], [(1, 0, 0, step)], 1.0)
    assert (sampler.counts.prefilled, sampler.counts.reused) == (41, 39)


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_fresh_prompts_keep_nothing_and_change_no_bit():
    """Each prompt begins as the last one did, and is not what was said before."""
    model = model_of()
    keeping, other = sampler_of(model, growing=False), sampler_of(model, 0)
    for step in range(4):
        prompts = [[*range(3, 20), *range(30 + step, 33 + step + m)] for m in range(5)]
        streams = [(1, 0, m, step) for m in range(5)]
        assert keeping.sample(prompts, streams, 1.0) == other.sample(prompts, streams, 1.0)
        assert keeping._kept.nbytes == 0
    assert keeping.counts == other.counts
    assert keeping.counts.reused == 0


def test_prompts_that_grow_are_seen_at_the_second_turn_of_each_rollout():
    sampler = HFSampler(model_of(eos_token_id=None), [], 0, 4, 10_000, 1 << 30, False)
    for rollout in range(2):
        before = sampler.counts.prefilled
        seen, _ = turns_of(sampler, 4)
        # 10 tokens that two share and 19 of each from their start, then six new ones of each.
        assert [prefilled - before for prefilled, _ in seen] == [10, 48, 60, 72], rollout
        sampler.forget()


# -- 4 -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def begun():
    """A sampler that keeps the first turns of three episodes; what it keeps is NaN, so that its use is seen."""
    sampler = sampler_of(model_of())
    prompts = [[*range(3, 12), 20 + m] for m in range(3)]
    answers = sampler.sample(prompts, [(1, 0, m, 0) for m in range(3)], 1.0)
    assert sampler._kept.nbytes > 0
    with torch.inference_mode():
        for kept in sampler._kept._kept.values():
            for part in (part for layer in kept.layers for part in layer):
                part.fill_(float("nan"))
    return sampler, [[*p, *a.ids, 30] for p, a in zip(prompts, answers, strict=True)]


def test_what_is_kept_is_used(begun):
    sampler, longer = begun
    with pytest.raises(NonFiniteError):
        sampler.sample(longer, [(1, 0, m, 1) for m in range(3)], 1.0)


def test_an_episode_that_is_begun_again_begins_with_nothing(begun):
    sampler, longer = begun
    sampler.sample(longer, [(1, 0, m, 0) for m in range(3)], 1.0)


def test_so_does_one_of_another_rollout_and_one_after_that(begun):
    sampler, longer = begun
    sampler.sample(longer, [(2, 0, m, 1) for m in range(3)], 1.0)
    sampler.sample(longer, [(1, 0, m, 1) for m in range(3)], 1.0)


def test_episodes_that_are_not_asked_about_are_dropped_at_once(begun):
    sampler, longer = begun
    whole = sampler._kept.nbytes
    sampler.sample(longer[:1], [(9, 0, 0, 1)], 1.0)
    assert sampler._kept.nbytes < whole
    sampler.sample(longer, [(1, 0, m, 1) for m in range(3)], 1.0)


def test_everything_is_dropped_when_a_rollout_ends(begun):
    sampler, longer = begun
    sampler.forget()
    assert sampler._kept.nbytes == 0
    sampler.sample(longer, [(1, 0, m, 1) for m in range(3)], 1.0)


def test_everything_is_dropped_when_the_weights_move(begun):
    sampler, longer = begun
    optimizer = torch.optim.AdamW(sampler.model.parameters(), lr=0.1)
    sampler.model(torch.tensor([[5, 6, 7]])).logits.sum().backward()
    optimizer.step()
    moved = sampler.sample(longer, [(1, 0, m, 1) for m in range(3)], 1.0)
    assert moved == sampler_of(sampler.model, 0).sample(longer, [(1, 0, m, 1) for m in range(3)], 1.0)


# -- 5 -----------------------------------------------------------------------------------------------------------------


def test_the_budget_holds_and_what_finds_no_room_is_counted_once(monkeypatch):
    model, most = model_of(), []
    right = KeptKeys.keep

    def watched(self, *args):
        right(self, *args)
        most.append(self.nbytes)

    monkeypatch.setattr(KeptKeys, "keep", watched)
    roomy = sampler_of(model)
    plain, _ = play(roomy, 4, episodes=8)
    budget = max(most) // 3
    assert roomy.counts.not_kept == 0
    most.clear()
    tight = sampler_of(model, budget)
    kept, _ = play(tight, 4, episodes=8)
    assert_same(kept, plain)
    assert budget / 2 < max(most) <= budget
    assert 0 < tight.counts.not_kept < 8
    assert 0 < tight.counts.reused < roomy.counts.reused
    assert tight.counts.prefilled > roomy.counts.prefilled


def test_bytes_are_those_of_the_tensors():
    sampler = sampler_of(model_of())
    answer = sampler.sample([list(range(3, 20))], [(1, 0, 0, 0)], 1.0)[0]
    tokens = 17 + len(answer.ids) - 1
    assert sampler._kept.nbytes == tokens * 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads of eight numbers
    assert key_bytes(sampler.model.config, 4) == 2 * 2 * 2 * 8 * 4
    assert key_bytes(object(), 4) is None


# -- 6 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("growing", [True, False])
@pytest.mark.parametrize(("kind", "changes"), [("mistral", {"sliding_window": 8}), ("gemma2", {"sliding_window": 8})])
def test_other_caches_read_every_prompt_from_its_start(kind, changes, growing):
    notes = []
    listen_to_notes(notes.append)
    model = model_of(kind, **changes)
    keeping, other = sampler_of(model, growing=growing), sampler_of(model, 0)
    kept, _ = play(keeping, 1)
    plain, _ = play(other, 1)
    assert_same(kept, plain)
    assert keeping.counts.reused == 0
    assert len(notes) == 1
    assert "DynamicSlidingWindowLayer" in notes[0]
    assert "rollout.kept_keys_gib" in notes[0]


# -- 7 -----------------------------------------------------------------------------------------------------------------


def test_rows_with_little_to_read_go_together():
    # 5, 6 and 400 tokens to read: together, 2 x 394 would be read in vain; a pass of its own is worth 32.
    assert sub_batches([5, 400, 6], 10_000, "cpu") == [[0, 2], [1]]
    # On a GPU a pass is worth 1,024.
    assert sub_batches([5, 400, 6], 10_000, "cuda") == [[0, 2, 1]]


def test_a_part_reads_no_more_than_its_budget():
    assert sub_batches([5, 5, 5], 10, "cpu") == [[0, 1], [2]]
    assert sub_batches([1, 10, 11], 22, "cpu") == [[0, 1], [2]]
    assert sub_batches([500], 100, "cpu") == [[0]]


# -- 8 -----------------------------------------------------------------------------------------------------------------


def test_a_rollout_begins_and_ends_with_nothing_kept():
    policy = small_policy()
    sampler = HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, 6, 10_000, 1 << 30, True)
    agent = AgentConfig(prompt="compact", response="action", max_prompt_tokens=300, max_response_tokens=6)
    collector = Collector(ToyEnv, PromptEncoder(policy.tokenizer), sampler, agent)
    sampler.sample([[5, 6, 7]], [(1, 0, 0, 0)], 1.0)
    assert sampler._kept.nbytes > 0
    seen = []
    collector.collect(["toy/train/red"], 2, 1.0, (0, 1), progress=lambda done, total: seen.append(sampler._kept.nbytes))
    assert min(seen) > 0 == sampler._kept.nbytes


def test_a_conversation_is_read_once_and_played_the_same(tmp_path, toy_model):
    policy = load_policy(str(toy_model), ModelConfig(device="cpu"))
    played = []
    for gib in (1.0, 0.0):
        settings = toy_settings(toy_model, agent__prompt="conversation", rollout__kept_keys_gib=gib)
        collector = build_collector(from_data(RunConfig, settings), policy)
        episodes = collector.collect(["toy/train/red", "toy/train/blue"], 3, 1.0, (0, 1))
        played.append((episodes, collector.sampler.counts))
    (kept, counts), (plain, all_of_them) = played
    for one, other in zip(kept, plain, strict=True):
        assert [s.response_ids for s in one.steps] == [s.response_ids for s in other.steps]
        assert [s.prompt_ids for s in one.steps] == [s.prompt_ids for s in other.steps]
    assert sum(len(t.steps) for t in kept) == 18
    first = sum(len(t.steps[0].prompt_ids) for t in kept[::3])
    last = sum(len(t.steps[-1].prompt_ids) - len(t.steps[0].prompt_ids) for t in kept)
    # Each first prompt once, and what came to it, which holds responses that are there.
    said = sum(len(s.response_ids) for t in kept for s in t.steps[:-1])
    assert first + last - said <= counts.prefilled <= first + last < all_of_them.prefilled / 3
    assert counts.prefilled + counts.reused == all_of_them.prefilled + all_of_them.reused


def test_the_metrics_say_what_was_read(toy_run):
    for row in RunDirectory.open(toy_run).rows("metrics"):
        prefill = row["prefill"]
        # Members of a group read their first prompt once, the last three of each four.
        assert prefill["tokens"] + prefill["reused"] == round(row["prompt_tokens"] * row["rows"])
        assert prefill["reused"] >= prefill["tokens"] / 10
        assert prefill["not_kept"] == 0


@pytest.mark.parametrize("wrong", [-0.5, float("inf"), float("nan")])
def test_the_budget_has_a_range(wrong):
    with pytest.raises(ConfigError, match=r"rollout\.kept_keys_gib is .*expected a number of 0 or more"):
        RolloutConfig(kept_keys_gib=wrong)


def test_the_settings_of_a_run_reach_its_sampler(toy_model):
    policy = load_policy(str(toy_model), ModelConfig(device="cpu"))
    for gib, nbytes in ((2.0, 1 << 31), (0.0, 0)):
        config = from_data(RunConfig, toy_settings(toy_model, rollout__kept_keys_gib=gib))
        assert build_collector(config, policy).sampler._kept.budget == nbytes
