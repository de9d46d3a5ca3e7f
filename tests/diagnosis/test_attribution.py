"""What goal and history do to answers.

1. Prompts with the goal, the history or both left out are those of the renderer, and responses stay the same.
2. Divergences and attribution scores are those of a direct computation from the model's logits.
3. A step whose prompt loses nothing has no score.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stapo.agent import AgentConfig
from stapo.diagnosis import scoring
from stapo.diagnosis.scoring import BOTH, MASKS, SINGLE, attribute
from stapo.policy import RowTokens, find_chains, hidden_states
from stapo.rollout.collect import Collector
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.sampler import HFSampler
from stapo.training.batch import rows_of
from toy_world import ToyEnv, small_policy

AGENT = AgentConfig(prompt="compact", response="action", history_length=2, max_prompt_tokens=300, max_response_tokens=6)
TEMPERATURE = 0.8


@pytest.fixture(scope="module")
def played():
    policy = small_policy(3, architecture="qwen3", initializer_range=0.3)
    sampler = HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, 6)
    collector = Collector(ToyEnv, PromptEncoder(policy.tokenizer), sampler, AGENT, blind_mask=BOTH, masks=SINGLE)
    trajectories = collector.collect(["toy/train/red", "toy/train/teal"], 2, TEMPERATURE, (0, 9))
    return policy, [step for t in trajectories for step in t.steps]


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_prompts_lose_their_goal_or_their_history(played):
    policy, steps = played
    decode = PromptEncoder(policy.tokenizer).decode
    later = steps[2]
    assert later.prompt == decode(later.prompt_ids)
    assert "goal please the red judge.\n" in later.prompt
    assert later.prompt.count("saw ") == 2
    assert decode(later.masked["goal"]) == later.prompt.replace("goal please the red judge.\n", "")
    assert decode(later.masked["history"]) == later.prompt[later.prompt.index("now ") :]
    assert later.blind_prompt == decode(later.masked["history"]).replace("goal please the red judge.\n", "")


def test_nothing_is_rendered_that_was_not_asked_for(played):
    policy, _ = played
    sampler = HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, 6)
    plain = Collector(ToyEnv, PromptEncoder(policy.tokenizer), sampler, AGENT)
    assert plain.collect(["toy/train/red"], 1, TEMPERATURE, (0, 9))[0].steps[0].masked == {}


# -- 2 -----------------------------------------------------------------------------------------------------------------


def log_probabilities(policy, prompt_ids, response_ids):
    """(L, V) by one forward pass of the whole model over one row, nothing padded."""
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([[*prompt_ids, *response_ids]])).logits[0]
    return torch.log_softmax(logits[len(prompt_ids) - 1 : -1].double() / TEMPERATURE, -1)


@pytest.mark.parametrize("micro_tokens", [50, 10_000])
def test_scores_are_those_of_a_direct_computation(played, micro_tokens):
    policy, steps = played
    found = attribute(policy, steps, TEMPERATURE, micro_tokens)
    for b, step in enumerate(steps):
        token = torch.tensor(step.response_ids)[:, None]
        p = log_probabilities(policy, step.prompt_ids, step.response_ids)
        q = log_probabilities(policy, step.blind_ids, step.response_ids)
        assert found.kl_b[b] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), abs=2e-5)
        for mask in MASKS:
            prompt = step.blind_ids if mask == BOTH else step.masked[mask]
            if prompt == step.prompt_ids:
                continue
            q = log_probabilities(policy, prompt, step.response_ids)
            direct = float((p.gather(1, token) - q.gather(1, token)).mean())
            assert found.drop_b[mask][b] == pytest.approx(direct, abs=2e-5)
    assert np.nanmax(np.abs(found.drop_b["goal"])) > 0.01
    assert found.kl_b.min() > 0


@pytest.mark.parametrize("micro_tokens", [300, 10_000])
def test_steps_of_a_conversation_are_read_together_and_score_the_same(micro_tokens, monkeypatch):
    policy = small_policy(3, architecture="qwen3", initializer_range=0.3)
    sampler = HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, 6)
    agent = AgentConfig(prompt="conversation", response="action", max_prompt_tokens=900, max_response_tokens=6)
    collector = Collector(ToyEnv, PromptEncoder(policy.tokenizer), sampler, agent, blind_mask=BOTH, masks=SINGLE)
    trajectories = collector.collect(["toy/train/red", "toy/train/teal"], 2, TEMPERATURE, (0, 9))
    steps, chains = [step for t in trajectories for step in t.steps], rows_of(trajectories)[1]
    assert chains.sequences == 4 < len(steps)
    read = []

    def counted(model, rows, pad):
        out = hidden_states(model, rows, pad)
        ends = [b for b, row in enumerate(rows) if b + 1 == len(rows) or rows[b + 1].chain != row.chain]
        read.append(sum(rows[b].length for b in ends))
        return out

    monkeypatch.setattr(scoring, "hidden_states", counted)
    alone = attribute(policy, steps, TEMPERATURE, micro_tokens)
    before, read[:] = sum(read), []
    merged = attribute(policy, steps, TEMPERATURE, micro_tokens, chain_b=chains.chain_b)
    np.testing.assert_allclose(merged.kl_b, alone.kl_b, atol=2e-5)
    for mask in MASKS:
        np.testing.assert_allclose(merged.drop_b[mask], alone.drop_b[mask], atol=2e-5)
    # The full prompts and those without the goal grow; the two others begin anew at every step.
    fresh = sum(len(ids) + len(s.response_ids) - 1 for s in steps for ids in (s.blind_ids, s.masked["history"]))
    grown = find_chains([RowTokens(s.masked["goal"], s.response_ids) for s in steps], chains.chain_b)
    assert grown.sequences == 4
    assert sum(read) == fresh + chains.tokens + grown.tokens < before


def test_progress_reaches_the_end(played):
    policy, steps = played
    seen = []
    attribute(policy, steps, TEMPERATURE, 50, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(steps), len(steps))
    assert len(seen) > 1


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_a_first_step_has_no_history_to_leave_out(played):
    policy, steps = played
    found = attribute(policy, steps, TEMPERATURE, 10_000)
    first = np.array([s.masked["history"] == s.prompt_ids for s in steps])
    assert first.sum() == 4
    np.testing.assert_array_equal(np.isnan(found.drop_b["history"]), first)
    assert np.isfinite(found.drop_b["goal"]).all()
