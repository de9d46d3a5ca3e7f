"""Training on responses that were decoded under constraints.

1. H of a step is the mean over the tokens that could have been others; a step without any has no H, is in no statistic
   and is never flagged.
2. Every number of the update is that of the masked distribution: ratios begin at 1, divergences are those counted out.
3. Whole runs: sampler and trainer agree, no command is ever invalid, evaluation and diagnosis play alike.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import stapo
from stapo.agent import AgentConfig
from stapo.algo import OutlierConfig, get_algorithm
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data
from stapo.config.training import OptimConfig
from stapo.diagnosis.scoring import BOTH, SINGLE, attribute
from stapo.errors import ConfigError
from stapo.policy import RowTokens
from stapo.policy.sequences import Allowed
from stapo.rollout import Step, Trajectory
from stapo.rollout.collect import Collector
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.sampler import HFSampler
from stapo.run import RunDirectory
from stapo.training.batch import build_batch, counted_entropies, rows_of
from stapo.training.pipeline import train_run
from stapo.training.scoring import Scorer, token_masks
from stapo.training.update import Updater
from toy_world import ROOMS, OfferingEnv, small_policy, toy_settings

STAPO = get_algorithm("stapo")
GIGPO = get_algorithm("gigpo")
ALL_ROWS = replace(STAPO, outlier=OutlierConfig(select="all"))
AGENT = AgentConfig(
    prompt="compact", response="action", decode="constrained", history_length=1, require_admissible=True,
    max_prompt_tokens=500, max_response_tokens=40,
)  # fmt: skip
TASKS = ["toy/train/red", "toy/train/blue", "toy/train/teal"]


# -- 1 -----------------------------------------------------------------------------------------------------------------

MANY, ONE = Allowed((3, 4, 5)), Allowed((7,))


def step(entropies, allowed, anchor="a", **facts):
    n = len(entropies)
    return Step(
        prompt_ids=[1, 2, 3], blind_ids=[1], response_ids=[3] * n, logprobs=[-1.0] * n, entropies=entropies, prompt="p",
        blind_prompt="b", response="r", action="go", valid=True, problem="", anchor=anchor, observation=anchor,
        allowed=allowed, **facts,
    )  # fmt: skip


def test_forced_tokens_do_not_count():
    chosen = step([0.9, 0.0, 0.3, 0.0], [MANY, ONE, MANY, ONE], parts={"action": (1, 3)})
    assert counted_entropies(chosen, "response") == [0.9, 0.3]
    assert counted_entropies(chosen, "action") == [0.3]
    assert counted_entropies(replace(chosen, allowed=None), "response") == [0.9, 0.0, 0.3, 0.0]
    assert counted_entropies(step([0.0, 0.0], [ONE, ONE]), "response") == []


def test_a_step_without_a_choice_is_in_no_statistic():
    """The fences are those of the steps with a choice alone, and no forced step is flagged, however many there are."""
    usual = [0.50, 0.51, 0.52, 0.49, 0.48, 0.50, 0.51, 0.49, 0.50, 0.52, 0.48, 2.5]

    def batch_of(forced):
        chosen = [step([h, 0.0], [MANY, ONE]) for h in usual]
        members = [[s, *([step([0.0, 0.0], [ONE, ONE])] if forced else [])] for s in chosen]
        return build_batch([Trajectory(f"t{0}", "type", "goal", 0, j, steps) for j, steps in enumerate(members)], STAPO)

    mixed, plain = batch_of(True), batch_of(False)
    forced_b = np.isnan(mixed.entropy_b)
    assert forced_b.tolist() == [False, True] * 12
    assert mixed.entropy_b[~forced_b] == pytest.approx(usual)
    assert (mixed.outliers.lower, mixed.outliers.upper) == (plain.outliers.lower, plain.outliers.upper)
    assert mixed.outliers.mask_b[~forced_b].tolist() == plain.outliers.mask_b.tolist() == [False] * 11 + [True]
    assert not mixed.outliers.mask_b[forced_b].any()
    assert mixed.outliers.included == 12


# -- 2 -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def played(request):
    policy = small_policy(3, architecture=request.param, initializer_range=0.3)
    sampler = HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, AGENT.max_response_tokens)
    collector = Collector(OfferingEnv, PromptEncoder(policy.tokenizer), sampler, AGENT, blind_mask=BOTH, masks=SINGLE)
    return policy, collector.collect(TASKS, 6, 0.8, (0, 1))


def counted_out(policy, prompt, response, allowed, temperature=0.8):
    """Log-probabilities of the allowed tokens at each position, one dict per position, from the model's own logits."""
    with torch.no_grad():
        logits_lv = policy.model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1].double()
    found = []
    for logits_v, may in zip(logits_lv, allowed, strict=True):
        ids = sorted({*may.ids, *(may.free.ids.tolist() if may.free else ())})
        found.append(dict(zip(ids, torch.log_softmax(logits_v[ids] / temperature, -1).tolist(), strict=True)))
    return found


def kl(one, two):
    return sum(math.exp(p) * (p - two[token]) for token, p in one.items())


def test_divergences_are_those_between_masked_distributions(played):
    policy, trajectories = played
    batch = build_batch(trajectories, ALL_ROWS)
    other = replace(policy, model=copy.deepcopy(policy.model))
    with torch.no_grad():
        other.model.get_input_embeddings().weight.mul_(0.8)
    scorer = Scorer(policy, other.model, ALL_ROWS, 0.8)
    rows = [0, 1, 2, 7, 11]
    scored = scorer.score(policy.model, [batch.full(b) for b in rows])
    with torch.no_grad():
        terms = scorer.selective(batch, rows, (scored.hidden_nh, scored.targets_n))
    reference = scorer.reference_logp(batch, 4000)
    measured = attribute(policy, batch.steps, 0.8, 4000)
    for k, b in enumerate(rows):
        s = batch.steps[b]
        p = counted_out(policy, s.prompt_ids, s.response_ids, s.allowed)
        q = counted_out(policy, s.blind_ids, s.response_ids, s.allowed)
        r = counted_out(other, s.blind_ids, s.response_ids, s.allowed)
        full_r = counted_out(other, s.prompt_ids, s.response_ids, s.allowed)
        tokens = range(len(s.response_ids))
        assert float(terms.r_ta_k[k]) == pytest.approx(np.mean([kl(p[i], q[i]) for i in tokens]), abs=1e-5)
        assert float(terms.p_ti_k[k]) == pytest.approx(np.mean([kl(q[i], r[i]) for i in tokens]), abs=1e-5)
        assert measured.kl_b[b] == pytest.approx(float(terms.r_ta_k[k]), abs=1e-5)
        assert reference[b] == pytest.approx([full_r[i][t] for i, t in enumerate(s.response_ids)], abs=1e-5)
        for mask in SINGLE:
            without = counted_out(policy, s.masked[mask], s.response_ids, s.allowed)
            drop = np.mean([p[i][t] - without[i][t] for i, t in enumerate(s.response_ids)])
            assert np.isnan(measured.drop_b[mask][b]) or measured.drop_b[mask][b] == pytest.approx(drop, abs=1e-5)
    assert float(terms.r_ta_k[1]) == 0  # nothing to choose
    assert float(terms.r_ta_k[[0, 2]].min()) > 0.001


def test_entropies_that_the_sampler_does_not_know_are_those_of_the_masked_distribution(played):
    policy, trajectories = played
    steps = [s for t in trajectories for s in t.steps]
    known = [s.entropies for s in steps]
    rows = [RowTokens(s.prompt_ids, s.response_ids, s.allowed) for s in steps]
    filled = [replace(s, entropies=[math.nan] * len(s.entropies)) for s in steps]
    Scorer(policy, None, STAPO, 0.8).rescore(filled, rows, 500)
    for s, entropies in zip(filled, known, strict=True):
        assert s.entropies == pytest.approx(entropies, abs=1e-5)


@pytest.mark.parametrize("name", ["gigpo", "stapo", "gspo", "empg"])
def test_ratios_begin_at_1(played, name):
    policy, trajectories = replace(played[0], model=copy.deepcopy(played[0].model)), played[1]
    algorithm = ALL_ROWS if name == "stapo" else get_algorithm(name)
    reference = copy.deepcopy(policy.model).eval()
    updater = Updater(policy, reference, algorithm, OptimConfig(learning_rate=1e-3, mini_batch=1000), 0.8)
    batch = build_batch(trajectories, algorithm)
    log = updater.update(batch, 1e-3, seed=(0, 2, 1))[0]["update"]
    assert log["logprob_gap"] < 1e-5
    assert log["clip_high"] == log["clip_low"] == 0
    assert log["grad_norm"] > 0
    assert log["selective_rows"] == (36 if name == "stapo" else 0)  # of 54; 18 had nothing to choose


def test_rows_with_and_without_masks_do_not_mix():
    rows = [RowTokens([1], [3, 7], [MANY, ONE]), RowTokens([1], [3])]
    head = torch.zeros(9, 2)
    assert token_masks(rows[1:], head) is None
    masks = token_masks(rows[:1], head)
    assert masks.ids_nk.tolist() == [[3, 4, 5], [7, -1, -1]]
    assert masks.free_n.tolist() == [-1, -1]
    for wrong in (rows, [replace(rows[0], allowed=[MANY])]):
        with pytest.raises(ValueError, match="with and without allowed tokens"):
            token_masks(wrong, head)


def conversations(policy, kept):
    """Episodes as conversations; with kept keys each turn reads its new tokens alone."""
    agent = replace(AGENT, prompt="conversation", max_prompt_tokens=470)
    sampler = HFSampler(
        policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, AGENT.max_response_tokens, kept_bytes=kept,
        growing=agent.grows,
    )  # fmt: skip
    played = Collector(OfferingEnv, PromptEncoder(policy.tokenizer), sampler, agent).collect(TASKS, 4, 0.8, (0, 1))
    return played, sampler.counts.reused


def test_conversations_are_read_once_and_masked_alike(played):
    """Kept keys draw the same responses, and merged rows have the numbers of single ones, gradients included."""
    policy = played[0]
    trajectories, reused = conversations(policy, 1 << 28)
    again, none = conversations(policy, 0)
    assert reused > none
    steps, others = ([s for t in ts for s in t.steps] for ts in (trajectories, again))
    assert [s.response_ids for s in steps] == [s.response_ids for s in others]
    assert all(s.valid for s in steps)
    # The commands are the decoder's: a first prompt lists none of them.
    assert not any(command in t.steps[0].prompt for t in trajectories for command in ROOMS[4:6])
    merged = build_batch(trajectories, ALL_ROWS)
    assert merged.chains.sequences < len(merged)
    single = build_batch(trajectories, ALL_ROWS, chains=rows_of(trajectories, merge=False)[1])
    assert single.chains.sequences == len(single)
    found = []
    for batch in (merged, single):
        model = copy.deepcopy(policy.model)
        scorer = Scorer(replace(policy, model=model), None, GIGPO, 0.8)
        scored = scorer.score(model, [batch.full(b) for b in range(len(batch))], entropy_grad=True)
        (scored.logp_bl.sum() + scored.entropy_bl.sum()).backward()
        grads = torch.cat([p.grad.flatten() for p in model.parameters()])
        found.append((scored.logp_bl, scored.entropy_bl, grads))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-4)
    for b, s in enumerate(steps):
        assert found[0][0][b, : len(s.logprobs)].tolist() == pytest.approx(s.logprobs, abs=2e-5)


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_a_run_from_a_saved_model(tmp_path):
    small_policy(3, architecture="qwen3", initializer_range=0.2).save(tmp_path / "model")
    settings = toy_settings(
        tmp_path / "model", env__name="toy-offering", agent__decode="constrained", agent__require_admissible=True,
        agent__max_response_tokens=40, agent__max_prompt_tokens=470,
        algorithm={"name": "stapo", "outlier": {"select": "all"}},
    )  # fmt: skip
    train_run(from_data(RunConfig, settings), tmp_path / "run", ["test"])
    run = RunDirectory.open(tmp_path / "run")
    for row in run.rows("metrics"):
        assert row["valid_actions"] == 1
        assert row["update"]["logprob_gap"] < 1e-4
        assert row["outlier"]["flagged"] == 16  # of 24 steps; 8 had nothing to choose
    assert "allowed" not in run.transcripts()[0].read_text()


TINY = {
    "alfworld": {"scenes": "tiny", "games_per_type": 3, "max_steps": 5},
    "webshop": {"size": "tiny", "catalog_products": 240, "max_steps": 5},
}


@pytest.mark.parametrize("name", TINY)
def test_generated_worlds_from_nothing_to_a_diagnosis(tmp_path, name):
    data = {
        "env": {"name": name, "split": "train", "options": TINY[name]},
        "agent": {"prompt": "compact", "response": "action", "decode": "constrained", "require_admissible": True,
                  "max_prompt_tokens": 900, "max_response_tokens": 24},
        "model": {"architecture": "qwen3", "hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32,
                  "vocab_size": 400, "device": "cpu", "tokenizer": "words" if name == "webshop" else "phrases"},
        "sft": {"steps": 6, "episodes": 12, "batch_size": 8},
        "rollout": {"groups": 2, "group_size": 3, "anchor": "observation_and_admissible"},
        "optim": {"iterations": 2, "learning_rate": 1e-3},
        "eval": {"episodes": 4, "split": "test" if name == "webshop" else "heldout"},
        "log": {"transcript_every": 1},
    }  # fmt: skip
    train_run(from_data(RunConfig, data), tmp_path / "run", ["test"])
    run = RunDirectory.open(tmp_path / "run")
    for row in run.rows("metrics"):
        assert row["valid_actions"] == 1
        assert row["truncated_responses"] == 0
        assert row["update"]["logprob_gap"] < 1e-4
    said = "".join(path.read_text() for path in run.transcripts())
    assert name != "webshop" or '"action": "search[' in said
    evaluation = stapo.evaluate(tmp_path / "run", episodes=3, seeds=(0,))
    assert evaluation.document["valid_actions"] == 1
    (diagnosis,) = stapo.diagnose(tmp_path / "run", tasks=2, group_size=2)
    assert diagnosis.document


def test_engines_that_cannot_mask_are_refused(tmp_path):
    settings = toy_settings(tmp_path, agent__decode="constrained", rollout__engine="vllm")
    with pytest.raises(ConfigError, match="at each token"):
        from_data(RunConfig, settings)
