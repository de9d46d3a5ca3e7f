"""What a transcript tells of single tokens, blind passes and prompts.

1. Each token has the entropy and log-probability that it was sampled with, and its characters of the response.
2. R_TA, P_TI and the divergence at each token are those of the blind passes, and are there only where one ran; the
   bonus of ``gate=bonus`` is there where the update added one.
3. Both prompts come back exactly as they were scored, with any style and chat template.
4. Recording changes no number of the training, and `log.tokens` decides about the numbers of tokens alone.
5. They take the bytes that the settings promise.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from stapo.agent import AgentConfig
from stapo.algo import OutlierConfig, SelectiveConfig, get_algorithm
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.config.training import OptimConfig
from stapo.errors import RunDirectoryError
from stapo.policy import load_policy
from stapo.rollout.collect import Collector
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.sampler import HFSampler
from stapo.run import RunDirectory
from stapo.run.per_token import decode_per_token, encode_per_token
from stapo.run.scored_prompts import scored_prompts
from stapo.training.batch import build_batch
from stapo.training.callbacks import Callbacks
from stapo.training.loop import Trainer
from stapo.training.transcript_details import BlindNumbers, Details
from stapo.training.transcripts import kept_rows, trajectory_records
from stapo.training.update import Updater
from toy_world import ToyEnv, small_policy, toy_settings

TASKS = ["toy/train/red", "toy/train/blue"]
AGENT = AgentConfig(prompt="compact", response="action", history_length=1, max_prompt_tokens=400, max_response_tokens=6)
CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<eos>{% endfor %}<|assistant|>"
STAPO = get_algorithm("stapo")
ALL_ROWS = replace(STAPO, outlier=OutlierConfig(select="all"), selective=SelectiveConfig(kl_cap=1e9))
"""STAPO that flags every step: a small batch need not hold an outlier."""


def played(agent=AGENT, template=None, algorithm=ALL_ROWS, size=4):
    """A policy before and after an update, the batch, what was recorded, and the records as a reader finds them."""
    policy = small_policy(3, architecture="qwen3", initializer_range=0.2)
    policy.tokenizer.chat_template = template
    encoder = PromptEncoder(policy.tokenizer)
    sampler = HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, 6)
    batch = build_batch(Collector(ToyEnv, encoder, sampler, agent).collect(TASKS, size, 1.0, (0, 1)), algorithm)
    before = copy.deepcopy(policy)
    updater = Updater(
        policy, copy.deepcopy(policy.model).eval(), algorithm, OptimConfig(learning_rate=1e-3, mini_batch=1000), 1.0
    )
    blind = BlindNumbers(kept_rows(batch, 1))
    updater.update(batch, 1e-3, seed=(0, 2, 1), record=blind)
    details = Details(blind, policy.tokenizer, encoder.decode, True)
    records = trajectory_records(batch, 1, 1, details)
    return before, batch, blind, json.loads(json.dumps(records, default=float))


@pytest.fixture(scope="module")
def all_flagged():
    return played()


def told_rows(batch, records):
    """(row of the batch, record, step) of everything that is recorded."""
    by_place = {(t.group, t.member): j for j, t in enumerate(batch.trajectories)}
    for record in records:
        j = by_place[record["group"], record["member"]]
        rows = np.flatnonzero(batch.traj_b == j).tolist()
        yield from ((b, record, step) for b, step in zip(rows, record["steps"], strict=True))


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_each_token_has_the_numbers_it_was_sampled_with(all_flagged):
    _, batch, _, records = all_flagged
    assert len(records) == 4
    for b, _, step in told_rows(batch, records):
        sampled, found = batch.steps[b], decode_per_token(step)
        np.testing.assert_allclose(found["entropy"], sampled.entropies, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found["logprob"], sampled.logprobs, rtol=1e-3, atol=1e-3)
        assert found["characters"].sum() == len(step["response"])
        assert len(found["characters"]) == step["tokens"]


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_the_divergence_at_each_token_is_that_of_the_two_distributions(all_flagged):
    """Against the divergence from whole logits, computed here."""
    policy, batch, _, records = all_flagged

    def log_probs(prompt, response):
        with torch.no_grad():
            logits = policy.model(torch.tensor([[*prompt, *response]])).logits[0].double()
        return torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)

    seen = 0
    for b, _, step in told_rows(batch, records):
        if not step["acted_on"]:
            continue
        seen += 1
        row = batch.steps[b]
        p, q = log_probs(row.prompt_ids, row.response_ids), log_probs(row.blind_ids, row.response_ids)
        kl = (p.exp() * (p - q)).sum(-1)
        np.testing.assert_allclose(decode_per_token(step)["kl"], kl, rtol=2e-3, atol=2e-3)
        assert step["r_ta"] == pytest.approx(float(kl.mean()), abs=1e-4)
        # Before the first step the reference is the policy.
        assert step["p_ti"] == pytest.approx(0, abs=1e-5)
    assert seen > 5


def test_rows_without_a_blind_pass_have_none():
    _, batch, blind, records = played(algorithm=get_algorithm("gigpo"))
    assert not blind.r_ta
    for _, _, step in told_rows(batch, records):
        assert step["r_ta"] is None
        assert step["p_ti"] is None
        assert "kl" not in step["per_token"]
        assert "bonus" not in step


def test_a_bonus_is_told_beside_the_advantage():
    selective = SelectiveConfig(alpha=0.5, kl_cap=1e9, gate="bonus")
    _, batch, _, records = played(algorithm=replace(ALL_ROWS, selective=selective))
    told = list(told_rows(batch, records))
    assert any(step["bonus"] > 0.01 for _, _, step in told)
    for b, _, step in told:
        assert step["bonus"] == pytest.approx(0.5 * step["r_ta"], abs=1e-5)
        assert step["advantage"] == pytest.approx(float(batch.advantages.total_b[b]))


def test_only_rows_of_the_transcript_are_recorded(all_flagged):
    _, batch, blind, _ = all_flagged
    kept = kept_rows(batch, 1)
    assert set(blind.r_ta) == {b for b in kept if batch.flag_b[b]}
    assert kept == {b for b in range(len(batch)) if batch.group_b[b] == batch.group_b[0]}


def test_the_first_scoring_of_a_row_counts():
    """In later epochs the weights have moved."""
    terms = type("Terms", (), {"r_ta_k": torch.tensor([1.0, 2.0]), "p_ti_k": None})
    record = BlindNumbers({4, 7})
    record.add([4, 5], terms, torch.tensor([1.0, 2.0, 3.0]), [2, 1])
    terms.r_ta_k, terms.p_ti_k = torch.tensor([9.0, 8.0]), torch.tensor([0.5, 0.25])
    record.add([4, 7], terms, torch.tensor([7.0, 7.0, 6.0]), [2, 1])
    assert record.r_ta == {4: 1.0, 7: 8.0}
    assert record.p_ti == {7: 0.25}
    assert {b: kl.tolist() for b, kl in record.kl.items()} == {4: [1.0, 2.0], 7: [6.0]}


# -- 3 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [None, CHAT], ids=["plain", "chat"])
@pytest.mark.parametrize("style", ["compact", "conversation", "standard", "search-r1"])
def test_prompts_come_back_as_they_were_scored(style, template):
    response = {"standard": "think_action", "search-r1": "search_answer"}.get(style, "action")
    agent = replace(AGENT, prompt=style, response=response, max_prompt_tokens=2000)
    policy, batch, _, records = played(agent, template, get_algorithm("gigpo"), size=2)
    tokenizer, one_message = policy.tokenizer, style in ("compact", "standard")
    for b, record, step in told_rows(batch, records):
        found = scored_prompts(record, step["step"])
        for text, ids in zip(found, (batch.steps[b].prompt_ids, batch.steps[b].blind_ids), strict=True):
            assert text == tokenizer.decode(ids)
            # The model's own tokens, and not only a text that looks the same.
            if one_message:
                assert tokenizer.encode(text) == ids
    if one_message:
        assert not any("scored" in step for record in records for step in record["steps"])


# -- 4 -----------------------------------------------------------------------------------------------------------------


def trained(model, folder, **changes):
    config = from_data(RunConfig, toy_settings(model, eval__at_start=False, **changes))
    run = RunDirectory.create(folder, to_data(config), ["test"])
    trainer = Trainer(config, load_policy(str(model), config.model), run, Callbacks([]))
    trainer.train()
    weights = torch.cat([p.detach().flatten() for p in trainer.policy.model.parameters()])
    return run, weights


def test_recording_changes_no_number(toy_model, tmp_path):
    on, weights = trained(toy_model, tmp_path / "on")
    off, same = trained(toy_model, tmp_path / "off", log__tokens=False)
    none, equal = trained(toy_model, tmp_path / "none", log__transcript_every=0)
    assert torch.equal(weights, same)
    assert torch.equal(weights, equal)

    def numbers(run):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in run.rows("metrics")]

    assert numbers(on) == numbers(off) == numbers(none)
    assert not none.transcripts()
    assert not none.rows("steps")
    for with_tokens, without in zip(on.transcripts(), off.transcripts(), strict=True):
        for one, other in zip(*(p.read_text().splitlines() for p in (with_tokens, without)), strict=True):
            left = json.loads(one)
            assert all(step.pop("per_token") for step in left["steps"])
            assert left == json.loads(other)


# -- 5 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 7, 500])
def test_a_token_takes_at_most_eleven_bytes(tokens):
    values = np.linspace(-9, 9, tokens)
    held = encode_per_token({"characters": np.full(tokens, 3), "entropy": values, "logprob": values, "kl": values})
    # Base64 fills up to three bytes; names and quotes are 60 bytes a step.
    assert len(json.dumps(held)) <= 11 * tokens + 80
    found = decode_per_token({"per_token": held, "tokens": tokens})
    np.testing.assert_allclose(found["kl"], values, rtol=1e-3, atol=1e-3)
    assert found["characters"].tolist() == [3] * tokens


def test_numbers_beyond_half_precision_are_infinite_and_long_tokens_have_no_characters():
    held = encode_per_token({"characters": [2**16], "entropy": [1e9], "logprob": [-1e9], "kl": None})
    found = decode_per_token({"per_token": held, "tokens": 1})
    assert {name: array.tolist() for name, array in found.items()} == {"entropy": [np.inf], "logprob": [-np.inf]}


@pytest.mark.parametrize("held", ["text", {"entropy": 5}, {"entropy": "é"}, {"entropy": "AA=="}, {"kl": "AAAAAAAA"}])
def test_odd_numbers_of_tokens_are_refused(held):
    with pytest.raises(RunDirectoryError, match="per_token"):
        decode_per_token({"per_token": held, "tokens": 1})
