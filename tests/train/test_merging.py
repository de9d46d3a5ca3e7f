"""Rows of an episode read as one sequence.

1. Chains: a row joins the row before it where its prompt begins with that row's prompt and response; else one begins.
2. Merged and unmerged rows give the same log-probabilities, entropies, values, losses, gradients and weights.
3. Mini-batches hold whole chains and are counted in rows; micro-batches change nothing.
4. What is planted is found: a torn chain, an advantage on the wrong token, a mask off by one.
5. SFT draws whole sequences.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from random_episodes import batch_of_episodes, conversation
from slow import slow_except
from stapo.algo import ALGORITHMS, get_algorithm
from stapo.config.training import OptimConfig, SFTConfig
from stapo.policy import RowTokens, find_chains, row_batches
from stapo.training import scoring as scoring_module
from stapo.training import sft as sft_module
from stapo.training.batch import build_batch, rows_of
from stapo.training.critic import CriticLearner
from stapo.training.update import Updater, _Call
from toy_world import small_policy

OPTIM = OptimConfig(learning_rate=1e-3, mini_batch=9, micro_tokens=120, grad_clip=1e9)


def scored(policy, trajectories, merge=True):
    rows, _ = rows_of(trajectories, merge=merge)
    updater = Updater(policy, None, get_algorithm("gigpo"), OPTIM, 1.0)
    steps = [copy.copy(s) for t in trajectories for s in t.steps]
    updater.scorer.rescore(steps, rows, 60)
    reference = Updater(policy, policy.model, get_algorithm("gigpo"), OPTIM, 1.0).scorer
    batch = replace(build_batch(trajectories, get_algorithm("gigpo")), chains=rows_of(trajectories, merge=merge)[1])
    return [s.entropies for s in steps], reference.reference_logp(batch, 60)


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_a_chain_is_a_run_of_prompts_that_extend_each_other():
    rows = [
        RowTokens([5, 6], [7, 1]),
        RowTokens([5, 6, 7, 1, 8], [9]),
        RowTokens([5, 6, 7, 1, 8, 9], [4, 2]),  # nothing in between
        RowTokens([5, 6, 7, 1, 8, 9, 3, 2], [2]),  # another response than was sampled
        RowTokens([5, 7], [2]),  # another prompt
        RowTokens([5, 7, 2, 1], [2]),  # extends it, but is another episode's
    ]
    chains = find_chains(rows, [0, 0, 0, 0, 0, 1])
    assert chains.chain_b == [0, 0, 0, 1, 2, 3]
    assert chains.breaks == {"prompt": 1, "response": 1}
    assert (chains.rows, chains.sequences) == (6, 4)
    assert chains.row_tokens == 3 + 5 + 7 + 8 + 2 + 4
    assert chains.tokens == 7 + 8 + 2 + 4
    alone = find_chains(rows, [0] * 6, merge=False)
    assert (alone.chain_b, alone.sequences, alone.tokens) == ([0, 1, 2, 3, 4, 5], 6, chains.row_tokens)


def test_a_response_that_was_cut_is_another_text():
    """The last token alone may be missing, since no forward pass reads it; a token list with a mask needs it."""
    rows = [RowTokens([5], [6, 7, 8]), RowTokens([5, 6, 7, 9], [1])]
    assert find_chains(rows, [0, 0]).chain_b == [0, 0]
    assert find_chains(rows, [0, 0], whole=True).breaks == {"response": 1}
    chains = find_chains([RowTokens([5], [6, 7, 8, 2]), RowTokens([5, 6, 7, 9], [1])], [0, 0])
    assert chains.chain_b == [0, 1]
    assert chains.breaks == {"response": 1}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.sets(st.integers(0, 7)), min_size=1, max_size=5), st.integers(1, 60))
def test_chains_and_micro_batches_of_random_episodes(seed, breaks, budget):
    rng = np.random.default_rng(seed)
    trajectories = [conversation(rng, 0, j, int(rng.integers(1, 8)), b, cut=0.3) for j, b in enumerate(breaks)]
    rows, chains = rows_of(trajectories)
    starts = [k == 0 or k in b for t, b in zip(trajectories, breaks, strict=True) for k in range(len(t.steps))]
    assert chains.chain_b == (np.cumsum(starts) - 1).tolist()
    batches = row_batches(rows, budget)
    assert sorted(b for batch in batches for b in batch) == list(range(len(rows)))
    for batch in batches:
        assert all(set(np.flatnonzero(np.array(chains.chain_b) == chains.chain_b[b])) <= set(batch) for b in batch)
        numbers = [chains.chain_b[b] for b in batch]
        runs = 1 + sum(one != other for one, other in pairwise(numbers))
        assert runs == len(set(numbers))
        longest = max(rows[b].length for b in batch)
        assert len(set(numbers)) == 1 or len(set(numbers)) * longest <= budget


# -- 2 -----------------------------------------------------------------------------------------------------------------


def flat(rows):
    return [number for row in rows for number in row]


def close(one, other, tolerance=1e-5):
    one, other = (torch.as_tensor(x, dtype=torch.float64) for x in (one, other))
    return float((one - other).norm()) <= tolerance * max(1e-3, float(other.norm()))


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
def test_the_same_scores(architecture):
    policy = small_policy(1, architecture=architecture, initializer_range=0.2)
    trajectories = batch_of_episodes(policy, cut=0.3)
    merged, alone = scored(policy, trajectories), scored(policy, trajectories, merge=False)
    for what in (0, 1):
        assert close(flat(merged[what]), flat(alone[what]))
        assert [len(row) for row in merged[what]] == [len(s.response_ids) for t in trajectories for s in t.steps]


def learned(policy, trajectories, algorithm, merge, optim=OPTIM):
    """Weights after an update, its metrics, and the rows' order, which both ways share."""
    policy = replace(policy, model=copy.deepcopy(policy.model))
    rows, chains = rows_of(trajectories)
    value_b = np.linspace(-0.2, 0.3, len(rows)) if algorithm.needs_critic else None
    batch = build_batch(trajectories, algorithm, seed=(0,), states={}, value_b=value_b, chains=chains)
    reference = copy.deepcopy(policy.model).eval() if algorithm.needs_reference else None
    critic = CriticLearner(policy, algorithm.critic, optim) if algorithm.needs_critic else None
    updater = Updater(policy, reference, algorithm, optim, 1.0, critic)
    order = updater._order(batch, (0, 2, 1))
    updater._order = lambda batch, seed: order
    if not merge:
        batch = replace(batch, chains=rows_of(trajectories, merge=False)[1])
    metrics, _ = updater.update(batch, 1e-3, seed=(0, 2, 1))
    moved = [policy.model] + ([critic.model] if critic else [])
    return batch, metrics, torch.cat([p.detach().flatten() for m in moved for p in m.parameters()])


@pytest.mark.parametrize("name", slow_except(sorted(ALGORITHMS), "stapo", "grpo", "ppo", "gspo", "hgpo"))
def test_the_same_update(name):
    """Metrics of the update and the weights after it, over several mini-batches, for every algorithm."""
    policy = small_policy(2, architecture="qwen3", initializer_range=0.2)
    algorithm = get_algorithm(name).resolved(5)
    trajectories = batch_of_episodes(policy, 7, cut=0.3)
    before = torch.cat([p.detach().flatten() for p in policy.model.parameters()])
    (batch, merged, weights), (other, alone, expected) = (
        learned(policy, trajectories, algorithm, merge) for merge in (True, False)
    )
    assert batch.chains.sequences < batch.chains.rows == other.chains.sequences
    assert np.array_equal(batch.advantages.total_b, other.advantages.total_b)
    assert np.array_equal(batch.flag_b, other.flag_b)
    found, wanted = {**merged["update"]}, {**alone["update"]}
    assert found.pop("logprob_gap") == pytest.approx(wanted.pop("logprob_gap"), rel=1e-4)
    # AdamW divides by the size of the gradient: where that is rounding, so is the step.
    assert {k for k, v in found.items() if v is None} == {k for k, v in wanted.items() if v is None}
    numbers = {k: v for k, v in wanted.items() if v is not None}
    assert {k: found[k] for k in numbers} == pytest.approx(numbers, rel=2e-4, abs=1e-6)
    moved, should = weights[: len(before)] - before, expected[: len(before)] - before
    assert float((moved - should).norm()) <= 2e-3 * float(should.norm())
    assert float(should.norm()) > 0


@pytest.mark.parametrize("name", ["grpo", "gigpo", "stapo", "stapo-all-steps", "gspo", "ppo"])
def test_the_same_gradient(name):
    policy = small_policy(2, architecture="llama", initializer_range=0.2)
    algorithm, found = get_algorithm(name).resolved(5), []
    trajectories = batch_of_episodes(policy, 11, cut=0.3)
    for merge in (True, False):
        rows, _ = rows_of(trajectories)
        value_b = np.linspace(-0.2, 0.3, len(rows)) if algorithm.needs_critic else None
        batch = build_batch(trajectories, algorithm, value_b=value_b, chains=rows_of(trajectories, merge=merge)[1])
        reference = copy.deepcopy(policy.model).eval() if algorithm.needs_reference else None
        updater = Updater(policy, reference, algorithm, OPTIM, 1.0)
        updater.optimizer.zero_grad(set_to_none=True)
        order = list(range(len(batch)))
        ref = updater.scorer.reference_logp(batch, 90) if algorithm.loss.beta > 0 else None
        log = updater._backward(_Call(batch, None, ref), order, "here", True, None)
        grads = torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])
        extra = (log.get("selective_loss") or 0.0, log["selective_gradient_ratio"] or 0.0)
        found.append((log["loss"], *extra, grads))
        policy.model.zero_grad(set_to_none=True)
    assert found[0][:3] == pytest.approx(found[1][:3], rel=1e-5, abs=1e-7)
    assert close(found[0][3], found[1][3])


def test_the_same_values_of_a_critic():
    policy = small_policy(3)
    learner = CriticLearner(policy, get_algorithm("ppo").critic, OPTIM)
    torch.nn.init.normal_(learner.model.head.weight)
    trajectories = batch_of_episodes(policy, 5, cut=0.3)
    merged, alone = (learner.values(rows_of(trajectories, merge=merge)[0]) for merge in (True, False))
    assert close(merged, alone)
    assert np.std(alone) > 0.01


# -- 3 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 9, 1000])
def test_mini_batches_hold_whole_chains(size):
    policy = small_policy(0)
    algorithm = get_algorithm("gigpo")
    batch = build_batch(batch_of_episodes(policy, 3, cut=0.3), algorithm)
    updater = Updater(policy, None, algorithm, replace(OPTIM, mini_batch=size, epochs=2), 1.0)
    order = updater._order(batch, (1,))
    for epoch in (order[: len(order) // 2], order[len(order) // 2 :]):
        assert sorted(b for part in epoch for b in part) == list(range(len(batch)))
        homes = [{batch.chains.chain_b[b] for b in part} for part in epoch]
        assert sum(map(len, homes)) == batch.chains.sequences
        longest = max(np.bincount(batch.chains.chain_b))
        assert all(size <= len(part) < size + longest for part in epoch[:-1])


def test_rows_without_chains_are_ordered_as_ever():
    policy, algorithm = small_policy(0), get_algorithm("gigpo")
    trajectories = batch_of_episodes(policy, 3, cut=0.3)
    batch = build_batch(trajectories, algorithm, chains=rows_of(trajectories, merge=False)[1])
    order = Updater(policy, None, algorithm, OPTIM, 1.0)._order(batch, (1,))
    assert flat(order) == np.random.default_rng([1]).permutation(len(batch)).tolist()


# -- 4 -----------------------------------------------------------------------------------------------------------------


def test_a_torn_chain_is_found():
    policy, rng = small_policy(0), np.random.default_rng(0)
    rows, _ = rows_of([conversation(rng, 0, 0, 3)])
    torn = [rows[0], replace(rows[1], prompt_ids=[9, *rows[1].prompt_ids[1:]]), rows[2]]
    scorer = Updater(policy, None, get_algorithm("gigpo"), OPTIM, 1.0).scorer
    with pytest.raises(ValueError, match="does not extend"):
        scorer.score(policy.model, torn)
    # One that misses a row is whole all the same: its last row has read what is missing.
    both = scorer.score(policy.model, [rows[0], rows[2]]).logp_bl
    each = [scorer.score(policy.model, [row]).logp_bl[0] for row in (rows[0], rows[2])]
    for found, expected in zip(both, each, strict=True):
        assert torch.allclose(found[: len(expected)], expected, atol=1e-5)


@pytest.mark.parametrize("fault", ["token", "row"])
def test_what_is_planted_is_found(fault, monkeypatch):
    """A response read one token beside its place, and rows whose hidden states are those of their neighbors."""
    real = scoring_module.hidden_states

    def planted(model, rows, pad):
        hidden, targets, row_n = real(model, rows, pad)
        if fault == "token":
            hidden = torch.roll(hidden, 1, 0)
        elif len(rows) > 1:
            hidden = torch.cat([hidden[row_n != 0], hidden[row_n == 0]])
        return hidden, targets, row_n

    policy = small_policy(1, initializer_range=0.2)
    trajectories = batch_of_episodes(policy, cut=0.3)
    expected = scored(policy, trajectories, merge=False)
    assert close(flat(scored(policy, trajectories)[1]), flat(expected[1]))
    monkeypatch.setattr(scoring_module, "hidden_states", planted)
    assert not close(flat(scored(policy, trajectories)[1]), flat(expected[1]), 1e-2)


def test_an_advantage_on_the_wrong_row_is_found():
    """Swapping two advantages of a chain changes the gradient: they are spread with each step's own mask."""
    policy, algorithm = small_policy(2, initializer_range=0.2), get_algorithm("gigpo")
    batch = build_batch(batch_of_episodes(policy, 7, cut=0.3), algorithm)
    totals = batch.advantages.total_b
    chain = np.array(batch.chains.chain_b)
    gaps = np.where(chain[1:] == chain[:-1], np.abs(np.diff(totals)), 0)
    one = int(gaps.argmax())
    grads = []
    for swapped in (False, True):
        moved = totals.copy()
        moved[[one, one + 1]] = moved[[one + 1, one]] if swapped else moved[[one, one + 1]]
        updater = Updater(policy, copy.deepcopy(policy.model), algorithm, OPTIM, 1.0)
        policy.model.zero_grad(set_to_none=True)
        changed = replace(batch, advantages=replace(batch.advantages, total_b=moved))
        ref = updater.scorer.reference_logp(changed, 90)
        updater._backward(_Call(changed, None, ref), list(range(len(batch))), "here", False, None)
        grads.append(torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]))
    assert not close(grads[0], grads[1], 1e-3)


# -- 5 -----------------------------------------------------------------------------------------------------------------


class _Spelled:
    """Encodes demonstrations that are spelled as ids already."""

    def encode(self, prompt):
        return list(prompt)

    def encode_response(self, text, foreign="", ended=True):
        return list(text)


def demonstrations(breaks):
    from stapo.training.demonstrations import DemoStep

    rng, demos = np.random.default_rng(0), []
    for j in range(12):
        for step in conversation(rng, 0, j, 4, breaks).steps:
            demos.append(DemoStep("", step.prompt_ids, step.prompt_ids[:1], step.blind_ids, step.response_ids))
    return demos


def test_sft_draws_whole_sequences():
    config = SFTConfig(steps=40, batch_size=8, blind_fraction=0.3, curriculum=0.0)
    batches = sft_module._batches(demonstrations(()), _Spelled(), config, 0, lambda done, total: None)
    seen = []
    for _ in range(6):
        batch = next(batches)
        assert len(batch) == 8
        full = [row for row in batch if row.chain is not None]
        assert batch[: len(full)] == full
        assert len({row.chain for row in full}) == 2
        seen += [row for row in batch if row.chain is None]
    assert 0.1 < len(seen) / 48 < 0.5
    policy = small_policy(0)
    hidden, targets, _ = scoring_module.hidden_states(policy.model, batch, 0)
    alone = [replace(row, chain=None) for row in batch]
    expected, again, _ = scoring_module.hidden_states(policy.model, alone, 0)
    assert torch.allclose(hidden, expected, atol=1e-5)
    assert targets.tolist() == again.tolist()
