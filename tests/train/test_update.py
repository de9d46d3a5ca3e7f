"""One policy update.

1. The base loss moves the policy towards what paid; the first step's probabilities are those of the sampler.
2. Cutting the rows into micro-batches changes no gradient, nor does leaving out rows that have none.
3. Selective terms act on flagged rows only; each of them moves the weights, and in its own direction.
4. A number that is not finite stops the update before the weights move.
5. Every row is used once an epoch.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PhiConfig, PhiForCausalLM

from slow import slow_except
from stapo.agent import AgentConfig
from stapo.algo import OutlierConfig, SelectiveConfig, get_algorithm
from stapo.config.training import OptimConfig
from stapo.errors import NonFiniteError
from stapo.policy import ModelConfig
from stapo.policy.model import finish_policy
from stapo.rollout.collect import Collector
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.sampler import HFSampler
from stapo.training import scoring
from stapo.training import update as training_update
from stapo.training.batch import build_batch
from stapo.training.scoring import Scorer
from stapo.training.update import Updater
from toy_world import ToyEnv, small_policy

TASKS = ["toy/train/red", "toy/train/blue", "toy/train/teal"]
AGENT = AgentConfig(prompt="compact", response="action", history_length=1, max_prompt_tokens=300, max_response_tokens=6)
OPTIM = OptimConfig(learning_rate=1e-3, mini_batch=1000, grad_clip=1e9)
GIGPO, STAPO = get_algorithm("gigpo"), get_algorithm("stapo")
ALL_ROWS = replace(STAPO, outlier=OutlierConfig(select="all"))
"""STAPO that flags every step: a small batch need not hold an outlier."""


def trajectories_of(policy, size=6):
    sampler = HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, 6)
    return Collector(ToyEnv, PromptEncoder(policy.tokenizer), sampler, AGENT).collect(TASKS, size, 1.0, (0, 1))


@pytest.fixture(scope="module")
def played():
    policy = small_policy(3, architecture="qwen3", initializer_range=0.2)
    return policy, trajectories_of(policy)


def fresh(played):
    """A copy of the policy that played, to be trained."""
    policy, trajectories = played
    return replace(policy, model=copy.deepcopy(policy.model)), trajectories


def updater_of(policy, algorithm, optim=OPTIM, reference=None):
    if reference is None and algorithm.needs_reference:
        reference = copy.deepcopy(policy.model).eval()
    return Updater(policy, reference, algorithm, optim, 1.0)


def update(played, algorithm, optim=OPTIM, *, rate=None, change=None, reference=None):
    """Returns the trained policy, the metrics and the gradients of the last optimizer step."""
    policy, trajectories = fresh(played)
    batch = build_batch(trajectories, algorithm)
    batch = change(batch) if change else batch
    updater = updater_of(policy, algorithm, optim, reference)
    metrics, seconds = updater.update(batch, optim.learning_rate if rate is None else rate, seed=(0, 2, 1))
    assert set(seconds) == {"reference", "blind", "update"}
    grads = torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])
    return policy, metrics, grads


def weights(policy):
    return torch.cat([p.detach().flatten() for p in policy.model.parameters()])


def logprobs(policy, batch):
    updater = updater_of(policy, GIGPO)
    with torch.no_grad():
        scored = updater.scorer.score(policy.model, [batch.full(b) for b in range(len(batch))])
    return scored.logp_bl.sum(1).numpy()


def plain(algorithm):
    """No reference term, so that the policy loss is alone."""
    return replace(algorithm, loss=replace(algorithm.loss, beta=0.0))


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_what_paid_becomes_more_probable(played):
    batch = build_batch(played[1], GIGPO)
    policy, metrics, _ = update(played, plain(GIGPO), rate=1e-3)
    gain = logprobs(policy, batch) - logprobs(played[0], batch)
    advantage = batch.advantages.total_b
    assert np.corrcoef(gain, advantage)[0, 1] > 0.3
    assert gain[advantage > 0].mean() > 0 > gain[advantage < 0].mean()
    assert metrics["update"]["optimizer_steps"] == 1


@pytest.mark.parametrize("kind", ["qwen2", "llama", "phi", "gpt2 with dropout"])
def test_the_first_step_scores_what_was_sampled(kind):
    """Ratios start at 1, also with a bias in the head, and with dropout, which only training would switch on."""
    policy = small_policy(architecture=kind if kind in ("qwen2", "llama") else "qwen2")
    ends = {"bos_token_id": 0, "eos_token_id": 1, "vocab_size": 300}
    if kind == "phi":
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        model = PhiForCausalLM(PhiConfig(**ends, **sizes, initializer_range=0.3))
        torch.nn.init.normal_(model.lm_head.bias)
        policy = finish_policy(model, policy.tokenizer, ModelConfig(device="cpu"))
    elif kind.startswith("gpt2"):
        model = GPT2LMHeadModel(GPT2Config(**ends, n_embd=16, n_layer=1, n_head=2, n_positions=320, resid_pdrop=0.5))
        policy = finish_policy(model.train(), policy.tokenizer, ModelConfig(device="cpu"))
    for algorithm in (GIGPO, ALL_ROWS):
        _, metrics, _ = update((policy, trajectories_of(policy, 3)), algorithm)
        assert metrics["update"]["logprob_gap"] < 1e-4
        assert metrics["update"]["ratio"] == pytest.approx(1, abs=1e-4)
        # Until the weights move, policy and reference are the same, and so are their blind distributions.
        assert metrics["update"]["ref_kl"] == pytest.approx(0, abs=1e-6)
        assert metrics["update"].get("p_ti", 0) == pytest.approx(0, abs=1e-6)


def test_the_reference_stays_where_it_is(played):
    policy, trajectories = fresh(played)
    reference = copy.deepcopy(policy.model)
    before = torch.cat([p.flatten() for p in reference.parameters()])
    updater = updater_of(policy, ALL_ROWS, replace(OPTIM, epochs=2), reference)
    metrics, _ = updater.update(build_batch(trajectories, ALL_ROWS), 1e-2, seed=(0,))
    assert torch.equal(before, torch.cat([p.flatten() for p in reference.parameters()]))
    assert not torch.equal(before, weights(policy))
    assert metrics["update"]["ref_kl"] > 0
    assert metrics["update"]["p_ti"] > 0


def test_the_learning_rate_is_that_of_the_iteration(played):
    assert torch.equal(weights(update(played, GIGPO, rate=0.0)[0]), weights(played[0]))
    small, large = (weights(update(played, plain(GIGPO), rate=r)[0]) - weights(played[0]) for r in (1e-5, 1e-4))
    # AdamW's first step has the size of the learning rate.
    assert float(large.abs().max() / small.abs().max()) == pytest.approx(10, rel=0.05)


def test_the_gradient_is_clipped(played):
    _, metrics, grads = update(played, GIGPO, replace(OPTIM, grad_clip=1e-3))
    assert metrics["update"]["grad_norm"] > 1e-3
    assert float(grads.norm()) == pytest.approx(1e-3, rel=1e-3)


# -- 2 -----------------------------------------------------------------------------------------------------------------


def _flag_every_third(batch):
    flag_b = np.arange(len(batch)) % 3 == 0
    return replace(batch, flag_b=flag_b & batch.flag_b)


AGGREGATIONS = ["token", "step", "trajectory", "sequence-sum-norm"]
ENOUGH = [*((aggregation, "flagged") for aggregation in AGGREGATIONS), ("step", "all"), ("step", "masked_mean")]


@pytest.mark.parametrize(
    "aggregation, norm", slow_except(product(AGGREGATIONS, ["flagged", "all", "masked_mean"]), *ENOUGH)
)
def test_micro_batches_do_not_change_the_gradient(played, aggregation, norm):
    loss = replace(STAPO.loss, aggregation=aggregation, constant_length=6, entropy_coef=0.01, beta=0.1)
    selective = SelectiveConfig(alpha=0.5, gamma=0.5, norm=norm)
    algorithm = replace(ALL_ROWS, loss=loss, selective=selective)
    reference = small_policy(9, architecture="qwen3", initializer_range=0.2).model
    found = [
        update(played, algorithm, replace(OPTIM, micro_tokens=m), change=_flag_every_third, reference=reference)
        for m in (100_000, 700, 1)
    ]
    _, whole, grads = found[0]
    assert float(grads.abs().max()) > 1e-3
    for _, metrics, other in found[1:]:
        assert torch.allclose(other, grads, atol=1e-6, rtol=1e-5)
        for key, value in whole["update"].items():
            if key != "selective_gradient_ratio":  # measured on the first micro-batch
                assert metrics["update"][key] == pytest.approx(value, abs=1e-5, rel=1e-4), key


def test_rows_without_a_gradient_are_left_out_without_a_trace(played, monkeypatch):
    def some_zero(batch):
        total_b = np.where(np.arange(len(batch)) % 2 == 0, 0.0, batch.advantages.total_b).astype(np.float32)
        return replace(batch, advantages=replace(batch.advantages, total_b=total_b))

    _, few, grads = update(played, plain(GIGPO), change=some_zero)
    monkeypatch.setattr(Updater, "_has_base_gradient", lambda self, batch, b: True)
    _, many, same = update(played, plain(GIGPO), change=some_zero)
    assert torch.allclose(grads, same, atol=1e-7)
    assert few["update"]["tokens"] < many["update"]["tokens"]


def test_a_batch_without_any_gradient_moves_nothing(played):
    def all_zero(batch):
        return replace(batch, advantages=replace(batch.advantages, total_b=np.zeros(len(batch), np.float32)))

    policy, trajectories = fresh(played)
    updater = updater_of(policy, plain(GIGPO))
    metrics, _ = updater.update(all_zero(build_batch(trajectories, GIGPO)), 1e-2, seed=(0,))
    assert torch.equal(weights(policy), weights(played[0]))
    assert metrics["update"]["loss"] == metrics["update"]["grad_norm"] == 0


# -- 3 -----------------------------------------------------------------------------------------------------------------


def no_flags(batch):
    return replace(batch, flag_b=np.zeros(len(batch), bool))


def no_advantage(batch):
    return replace(batch, advantages=replace(batch.advantages, total_b=np.zeros(len(batch), np.float32)))


def test_without_flags_there_are_no_selective_terms(played):
    gigpo, _, expected = update(played, GIGPO)
    stapo, metrics, grads = update(played, ALL_ROWS, change=no_flags)
    assert torch.equal(grads, expected)
    assert torch.equal(weights(stapo), weights(gigpo))
    assert metrics["update"]["selective_rows"] == 0
    assert "selective_loss" not in metrics["update"]


def test_without_weights_there_are_no_selective_terms(played):
    gigpo, _, expected = update(played, GIGPO)
    for selective in (SelectiveConfig(alpha=0, gamma=0), SelectiveConfig(blind_mask="none")):
        stapo, metrics, grads = update(played, replace(ALL_ROWS, selective=selective))
        assert torch.equal(grads, expected)
        assert torch.equal(weights(stapo), weights(gigpo))
        assert metrics["update"]["selective_rows"] == 0
        assert metrics["unflagged_kl"] is None


@pytest.mark.parametrize("estimator", ["full", "k3", "k2k1"])
@pytest.mark.parametrize("alpha, gamma, term, sign", [(1.0, 0.0, "r_ta", 1), (0.0, 1.0, "p_ti", -1)])
def test_each_term_moves_the_weights_its_own_way(played, estimator, alpha, gamma, term, sign):
    """With no advantage the selective term is alone: R_TA has to rise, P_TI to fall."""
    selective = SelectiveConfig(alpha=alpha, gamma=gamma, kl_estimator=estimator)
    algorithm = plain(replace(ALL_ROWS, selective=selective))
    reference = small_policy(9, architecture="qwen3", initializer_range=0.2).model
    policy, metrics, grads = update(played, algorithm, change=no_advantage, reference=reference, rate=1e-3)
    assert float(grads.norm()) > 1e-4
    assert not torch.equal(weights(policy), weights(played[0]))
    assert metrics["update"]["selective_rows"] == len(build_batch(played[1], algorithm))
    # Measured exactly, on the rows of the batch, before and after.
    exact = replace(algorithm, selective=SelectiveConfig(alpha=1.0, gamma=1.0))
    batch = build_batch(played[1], algorithm)
    values = []
    for p in (played[0], policy):
        scorer = updater_of(p, exact, reference=reference).scorer
        with torch.no_grad():
            rows = list(range(len(batch)))
            scored = scorer.score(p.model, [batch.full(b) for b in rows])
            terms = scorer.selective(batch, rows, (scored.hidden_nh, scored.targets_n))
        values.append(float((terms.r_ta_k if term == "r_ta" else terms.p_ti_k).mean()))
    assert sign * (values[1] - values[0]) > 0
    if estimator == "full":
        assert metrics["update"][term] == pytest.approx(values[0], abs=1e-5)


@pytest.mark.parametrize("side", ["both", "full_only", "blind_only"])
def test_the_gradient_of_awareness_can_be_limited_to_a_side(played, side):
    grads = {
        s: update(played, plain(replace(ALL_ROWS, selective=SelectiveConfig(alpha=1, gamma=0, ta_grad=s))),
                  change=no_advantage)[2]
        for s in ("both", "full_only", "blind_only")
    }  # fmt: skip
    assert torch.allclose(grads["both"], grads["full_only"] + grads["blind_only"], atol=1e-6)
    assert float(grads[side].norm()) > 1e-4


OTHER = {"architecture": "qwen3", "initializer_range": 0.2}


def selective_update(played, reference=None, **settings):
    algorithm = plain(replace(ALL_ROWS, selective=SelectiveConfig(alpha=1, gamma=0, **settings)))
    return update(played, algorithm, change=no_advantage, reference=reference)


def test_what_bounds_r_ta_takes_its_gradient(played):
    """Below its bound a row has the gradient it had; beyond it, none."""
    free, capped = (selective_update(played, **given) for given in ({}, {"bound": "cap", "bound_at": 1e-4}))
    r_ta = free[1]["update"]["r_ta"]
    assert float(free[2].norm()) > 1e-3 > float(capped[2].norm()) / 10
    assert capped[1]["update"]["r_ta"] <= 1e-4 < r_ta
    assert capped[1]["update"]["r_ta_capped"] > 0.5
    loose = selective_update(played, bound="cap", bound_at=9.0)
    assert torch.equal(loose[2], free[2])
    # Against itself a policy is at its target, and a margin lets it be raised.
    at_target = selective_update(played, bound="target", bound_at=1e-6)
    assert at_target[1]["update"]["r_ta"] == pytest.approx(r_ta, rel=1e-4)
    assert torch.allclose(at_target[2], free[2], atol=1e-6)
    other = small_policy(9, **OTHER).model
    beyond = selective_update(played, other, bound="target", bound_at=1e-6)
    assert 0 < beyond[1]["update"]["r_ta"] < r_ta
    js = selective_update(played, bound="js")
    assert 0 < js[1]["update"]["r_ta"] < math.log(2)
    support = selective_update(played, other, support="reference", support_min=0.01)
    assert support[1]["update"]["r_ta"] != pytest.approx(r_ta, rel=1e-3)


def test_only_steps_that_paid_are_asked_for_r_ta(played):
    def advantages(batch):
        total_b = np.where(np.arange(len(batch)) < 5, 0.5, -0.5).astype(np.float32)
        return replace(batch, advantages=replace(batch.advantages, total_b=total_b))

    def gradient(gate, rows=None):
        def change(batch):
            batch = advantages(batch)
            return batch if rows is None else replace(batch, flag_b=np.isin(np.arange(len(batch)), rows))

        selective = SelectiveConfig(alpha=1, gamma=0, norm="all", gate=gate)
        return update(played, plain(replace(ALL_ROWS, selective=selective)), change=change)[2]

    without = gradient("none", [])
    assert torch.allclose(gradient("positive") - without, gradient("none", range(5)) - without, atol=1e-6)
    assert not torch.allclose(gradient("none"), gradient("positive"), atol=1e-4)


def test_a_bonus_is_a_constant_on_the_advantage(played):
    """The gradient is that of GiGPO under advantages that are larger by alpha times R_TA, and P_TI's on top."""
    policy, trajectories = fresh(played)
    selective = SelectiveConfig(alpha=0.5, gamma=0.3, gate="bonus")
    algorithm = plain(replace(ALL_ROWS, selective=selective))
    batch = build_batch(trajectories, algorithm)
    rows = np.flatnonzero(batch.flag_b)
    r_ta = updater_of(policy, algorithm).scorer.awareness(batch, rows.tolist(), 700).numpy()
    assert len(r_ta) == len(rows) > 10
    assert (r_ta > 0).all()
    one_by_one = [updater_of(policy, algorithm).scorer.awareness(batch, [b], 700).item() for b in rows[:5]]
    assert r_ta[:5] == pytest.approx(one_by_one, rel=1e-4)

    def raised(batch):
        total_b = batch.advantages.total_b.copy()
        total_b[rows] += 0.5 * r_ta
        return replace(batch, advantages=replace(batch.advantages, total_b=total_b))

    _, metrics, found = update(played, algorithm)
    by_hand = plain(replace(ALL_ROWS, selective=replace(selective, alpha=0.0, gate="none")))
    _, _, expected = update(played, by_hand, change=raised)
    assert torch.allclose(found, expected, atol=1e-6)
    assert metrics["update"]["r_ta"] == pytest.approx(r_ta.mean(), rel=1e-4)
    assert not torch.allclose(found, update(played, by_hand)[2], atol=1e-4)


def test_only_flagged_rows_are_acted_on(played):
    """The selective gradient of some rows is the sum of theirs: others have no part in it."""
    algorithm = plain(replace(ALL_ROWS, selective=SelectiveConfig(alpha=1, gamma=0, norm="all")))

    def flag(rows):
        return lambda batch: no_advantage(replace(batch, flag_b=np.isin(np.arange(len(batch)), rows)))

    one, two, both = (update(played, algorithm, change=flag(rows))[2] for rows in ([4], [17], [4, 17]))
    assert torch.allclose(one + two, both, atol=1e-6)
    assert not torch.allclose(one, two, atol=1e-4)


def test_the_divisor_is_the_flagged_rows_or_all(played):
    def flag_three(batch):
        return no_advantage(replace(batch, flag_b=np.arange(len(batch)) < 3))

    grads = {
        norm: update(
            played, plain(replace(ALL_ROWS, selective=SelectiveConfig(alpha=1, gamma=0, norm=norm))), change=flag_three
        )[2]
        for norm in ("flagged", "all")
    }
    rows = len(build_batch(played[1], STAPO))
    assert torch.allclose(grads["flagged"], grads["all"] * rows / 3, rtol=1e-4, atol=1e-6)


def test_the_size_of_the_selective_gradient_is_measured(played):
    _, metrics, _ = update(played, replace(ALL_ROWS, selective=SelectiveConfig(alpha=0.02, gamma=0)))
    _, double, _ = update(played, replace(ALL_ROWS, selective=SelectiveConfig(alpha=0.04, gamma=0)))
    ratio = metrics["update"]["selective_gradient_ratio"]
    assert ratio > 0
    assert double["update"]["selective_gradient_ratio"] == pytest.approx(2 * ratio, rel=1e-3)


def test_a_gradient_that_is_not_measured_apart_is_the_same(played):
    """Within rounding: the two parts are added up in another order."""
    found = []
    for measure in (True, False):
        policy, trajectories = fresh(played)
        updater = updater_of(policy, ALL_ROWS)
        batch = build_batch(trajectories, ALL_ROWS)
        metrics, _ = updater.update(batch, 1e-3, seed=(0,), measure_ratio=measure)
        found.append((metrics["update"], torch.cat([p.grad.flatten() for p in updater.parameters])))
    (apart, grads), (together, same) = found
    assert apart.pop("selective_gradient_ratio") > 0
    assert together.pop("selective_gradient_ratio") is None
    assert apart == pytest.approx(together, rel=1e-5)
    assert float((grads - same).norm()) < 1e-6 * float(same.norm())


def test_a_fiftieth_of_the_rows_is_measured_for_comparison(played, monkeypatch):
    """R_TA of unflagged rows that the first mini-batch reads anyway: nothing but their blind prompts is run for it."""
    asked, read, original, hidden = [], [], Scorer.full_and_blind_kl, scoring.hidden_states

    def noted(scorer, batch, full, micro_tokens, record):
        read.clear()
        asked.append((batch, full, original(scorer, batch, full, micro_tokens), list(read)))
        return asked[-1][2]

    def counted(model, rows, pad_id):
        read.extend(rows)
        return hidden(model, rows, pad_id)

    monkeypatch.setattr(Scorer, "full_and_blind_kl", noted)
    monkeypatch.setattr(scoring, "hidden_states", counted)
    monkeypatch.setattr(training_update, "_COMPARED_SHARE", 0.1)
    algorithm = replace(ALL_ROWS, selective=SelectiveConfig(alpha=1.0, gamma=0.0))
    _, metrics, _ = update(played, algorithm, change=lambda b: replace(b, flag_b=np.arange(len(b)) % 5 == 0))
    ((batch, full, kl, rows),) = asked
    assert len(full) == math.ceil(0.1 * len(batch))
    assert all(b % 5 for b in full)
    assert sorted(map(repr, rows)) == sorted(repr(batch.blind(b)) for b in full)
    terms = [_terms(played, algorithm, batch, b) for b in full]
    assert metrics["unflagged_kl"] == kl == pytest.approx(np.mean(terms), rel=1e-4)
    assert "unflagged_kl" not in metrics["update"]
    _, metrics, _ = update(played, ALL_ROWS)
    assert metrics["unflagged_kl"] is None


@torch.no_grad()
def _terms(played, algorithm, batch, b):
    scorer = updater_of(played[0], algorithm).scorer
    scored = scorer.score(played[0].model, [batch.full(b)])
    return float(scorer.selective(batch, [b], (scored.hidden_nh, scored.targets_n)).r_ta_k)


def test_the_comparison_is_read_in_passes_of_micro_tokens(played, monkeypatch):
    policy, trajectories = fresh(played)
    batch = build_batch(trajectories, ALL_ROWS)
    scorer, full = updater_of(policy, ALL_ROWS).scorer, {}
    with torch.no_grad():
        for b in range(len(batch)):
            scored = scorer.score(policy.model, [batch.full(b)])
            full[b] = scored.hidden_nh, scored.targets_n
    whole = scorer.full_and_blind_kl(batch, full, 10**6)
    longest = max(batch.blind(b).length for b in range(len(batch)))
    sizes, original = [], scoring.hidden_states

    def counted(model, part, pad_id):
        sizes.append(len(part) * max(row.length for row in part))
        return original(model, part, pad_id)

    monkeypatch.setattr(scoring, "hidden_states", counted)
    assert scorer.full_and_blind_kl(batch, full, 3 * longest) == pytest.approx(whole, rel=1e-5)
    assert len(sizes) > 2
    assert max(sizes) <= 3 * longest


# -- 4 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights_move(played, bad):
    policy, trajectories = fresh(played)
    batch = build_batch(trajectories, GIGPO)
    total_b = batch.advantages.total_b.copy()
    total_b[5] = bad
    updater = updater_of(policy, GIGPO)
    with pytest.raises(NonFiniteError, match="the loss at optimizer step 1 is"):
        updater.update(replace(batch, advantages=replace(batch.advantages, total_b=total_b)), 1e-2, seed=(0,))
    assert torch.equal(weights(policy), weights(played[0]))
    assert not updater.optimizer.state


def test_a_selective_loss_that_is_not_finite_stops_it_too(played):
    policy, trajectories = fresh(played)
    reference = copy.deepcopy(policy.model)
    with torch.no_grad():
        reference.model.norm.weight[0] = float("nan")
    algorithm = plain(ALL_ROWS)
    with pytest.raises(NonFiniteError, match="the selective loss at optimizer step 1 is nan"):
        updater_of(policy, algorithm, reference=reference).update(build_batch(trajectories, algorithm), 1e-2, seed=(0,))
    assert torch.equal(weights(policy), weights(played[0]))


def test_a_gradient_that_is_not_finite_stops_it_too(played):
    policy, trajectories = fresh(played)
    policy.model.model.norm.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(NonFiniteError, match=r"the gradient norm is (inf|nan) at optimizer step 1"):
        updater_of(policy, GIGPO).update(build_batch(trajectories, GIGPO), 1e-2, seed=(0,))
    assert torch.equal(weights(policy), weights(played[0]))


# -- 5 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, sizes",
    [
        (1000, [54]),
        (54, [54]),
        (27, [27, 27]),
        (20, [20, 20, 14]),
        (25, [25, 29]),
        (40, [54]),
        (35, [35, 19]),
        (10, [10] * 4 + [14]),
    ],
)
@pytest.mark.parametrize("epochs", [1, 2])
def test_every_row_is_used_once_an_epoch(played, size, sizes, epochs):
    """A remainder of less than half a mini-batch joins the one before it."""
    policy, trajectories = fresh(played)
    batch = build_batch(trajectories, GIGPO)
    assert len(batch) == 54
    updater = updater_of(policy, GIGPO, replace(OPTIM, mini_batch=size, epochs=epochs))
    order = updater._order(batch, (0, 2, 1))
    assert [len(part) for part in order] == sizes * epochs
    per_epoch = len(sizes)
    for e in range(epochs):
        rows = [b for part in order[e * per_epoch : (e + 1) * per_epoch] for b in part]
        assert sorted(rows) == list(range(54))
    assert order == updater._order(batch, (0, 2, 1))
    assert order != updater._order(batch, (0, 2, 2))


def test_progress_and_counts(played):
    policy, trajectories = fresh(played)
    told = []
    updater = updater_of(policy, GIGPO, replace(OPTIM, mini_batch=27, epochs=2))
    metrics, _ = updater.update(
        build_batch(trajectories, GIGPO), 1e-4, seed=(0,), progress=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert metrics["update"]["optimizer_steps"] == 4
    assert metrics["update"]["tokens"] == 2 * sum(len(s.response_ids) for t in trajectories for s in t.steps)
