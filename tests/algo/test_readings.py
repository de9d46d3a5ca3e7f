"""Readings of the method that differ between its text, the baselines' code and what works, each worked by hand.

1. A group of failures: the invalid penalty counts where statistics run over rows, as in the code.
2. Nothing to compare with: 0, or the return itself.
3. Groups whose entropies hardly differ are left out of fences and flags; in bfloat16 always.
4. R_TA is bounded and P_TI is not; by a cap, by the reference's own divergence, as a Jensen-Shannon divergence.
5. Greedy maximum similarity beside first fit.
6. HGPO's levels as published.
7. A masked mean over every few rows.
8. Who is asked for R_TA.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rapidfuzz.distance import Indel

from stapo.algo import (
    AdvantageConfig,
    OutlierConfig,
    SelectiveConfig,
    anchor_groups,
    compute_advantages,
    flagged_scores,
    get_algorithm,
    history_advantages,
    masked_mean_weights,
    select_outliers,
    selective_divisor,
    selective_loss,
    selective_terms,
    token_kl,
)
from stapo.algo.config import ROUNDING
from stapo.config.presets import load_config
from stapo.errors import ConfigError

# -- 1, 2 --------------------------------------------------------------------------------------------------------------


def failures(config):
    """Three attempts of three steps, all failed, each step in a state of its own; the second step is invalid."""
    valid = np.ones(9, bool)
    valid[1] = False
    traj = np.repeat([0, 1, 2], 3)
    return compute_advantages(np.zeros(9), valid, np.zeros(9), traj, np.tile([0, 1, 2], 3), np.arange(9), None, config)


def test_a_penalty_in_a_group_of_failures():
    """Nine rows with the scores 0 and once -.1: mean -.0111, sample deviation .0333; -8 / 3 and 1 / 3 of it."""
    assert not failures(AdvantageConfig()).total_b.any()
    found = failures(AdvantageConfig(episode_stats="step"))
    assert found.total_b[1] == pytest.approx(-8 / 3, rel=1e-4)
    assert np.delete(found.total_b, 1) == pytest.approx(np.full(8, 1 / 3), rel=1e-4)


@pytest.mark.parametrize("preset", ["paper/alfworld-1.5b", "paper/webshop-1.5b", "paper/search-7b"])
def test_presets_of_the_paper_keep_the_signal_of_the_format(preset):
    found = failures(load_config(preset, "stapo").algorithm.advantage)
    assert found.total_b[1] == pytest.approx(-8 / 3, rel=1e-3)


@pytest.mark.parametrize("stats, steps", [("trajectory", 2), ("step", 1)])
def test_one_trajectory_alone(stats, steps):
    reward, valid = np.zeros(steps), np.ones(steps, bool)
    reward[-1], valid[0] = 1.0, False
    args = (reward, valid, np.zeros(steps), np.zeros(steps), np.arange(steps), np.arange(steps), None)
    assert not compute_advantages(*args, AdvantageConfig(episode_stats=stats)).total_b.any()
    raw = compute_advantages(*args, AdvantageConfig(episode_stats=stats, lone="return")).total_b
    assert raw.tolist() == pytest.approx([0.9, 1.0][:steps])


# -- 3 -----------------------------------------------------------------------------------------------------------------

# Two groups that really differ, and one of six rows whose entropies differ by rounding.
CLEAR = [0.2, 0.6, 1.0, 0.4, 0.5, 0.9]
ROUNDED = [0.3, 0.3 + 8e-4, 0.3 - 8e-4, 0.3, 0.3, 0.3 + 4e-4]
ENTROPY = np.array([*CLEAR, *ROUNDED])
ANCHOR = np.repeat([0, 1], 6)


def test_a_group_without_a_difference_is_left_out_and_the_rest_keeps_its_fences():
    alone = select_outliers(CLEAR, np.zeros(6), None, OutlierConfig())
    out = select_outliers(ENTROPY, ANCHOR, None, OutlierConfig(min_std=0.01))
    assert (out.q1, out.q3, out.included) == (alone.q1, alone.q3, 6)
    assert not out.included_b[6:].any()
    assert not out.normalized_b[6:].any()
    assert abs(select_outliers(ENTROPY, ANCHOR, None, OutlierConfig()).normalized_b[6:]).max() > 1.4


def test_scored_0_they_would_close_the_fences():
    """Thirty rows at 0 of thirty-eight: both quartiles are 0, and nothing can be flagged; left out, one row is."""
    entropy = np.concatenate([np.tile(ROUNDED, 5), [0.2, 0.21, 0.19, 0.2, 0.21, 0.19, 0.2, 0.9]])
    anchor = np.concatenate([np.repeat(np.arange(5), 6), np.full(8, 5)])
    closed = select_outliers(entropy, anchor, None, OutlierConfig(std_floor=0.01))
    assert (closed.iqr, closed.flagged) == (0.0, 0)
    left_out = select_outliers(entropy, anchor, None, OutlierConfig(min_std=0.01))
    assert np.flatnonzero(left_out.mask_b).tolist() == [37]
    assert left_out.included == 8


@pytest.mark.parametrize("ddof, kept", [(1, True), (0, False)])
def test_the_least_difference_is_in_the_standard_deviation_of_eq_2(ddof, kept):
    """Entropies .30 and .33: .0212 as a sample, .015 as a population."""
    entropy, anchor = [0.30, 0.33, 0.1, 0.5, 0.9], [0, 0, 1, 1, 1]
    out = select_outliers(entropy, anchor, None, OutlierConfig(min_std=0.02, ddof=ddof))
    assert out.included_b.tolist() == [kept, kept, True, True, True]


def test_singletons_are_for_their_own_setting():
    out = select_outliers([0.1, 0.5, 0.9, 0.3], [0, 0, 0, 1], None, OutlierConfig(min_std=0.01))
    assert out.included_b.tolist() == [True] * 4
    assert out.normalized_b[3] == pytest.approx(0.3)


def test_in_bfloat16_the_least_difference_is_above_rounding():
    stapo = get_algorithm("stapo")
    assert stapo.resolved(9) is stapo.resolved(9, "float32") is stapo
    found = stapo.resolved(9, "bfloat16").outlier
    assert found.min_std == ROUNDING["bfloat16"] > 8e-4
    assert not select_outliers(ENTROPY, ANCHOR, None, found).included_b[6:].any()
    given = replace(stapo, outlier=OutlierConfig(min_std=0.0))
    assert given.resolved(9, "bfloat16") is given


# -- 4 -----------------------------------------------------------------------------------------------------------------

ROWS = {"logp_kl": torch.zeros(2, 2), "logq_kl": torch.zeros(2, 2)}


def terms(config, pq, qr, **more):
    pq, qr = torch.tensor(pq, requires_grad=True), torch.tensor(qr, requires_grad=True)
    found = selective_terms(torch.ones(2, 2), config, **ROWS, kl_pq_kl=pq, kl_qr_kl=qr, **more)
    (found.r_ta_k.sum() + found.p_ti_k.sum()).backward()
    return found, pq.grad, qr.grad


PQ, QR = [[2.0, 25.0], [0.5, 1.5]], [[30.0, 4.0], [0.0, 2.0]]


def test_the_cap_is_on_r_ta_alone():
    found, pq, qr = terms(SelectiveConfig(), PQ, QR)
    assert found.r_ta_k.tolist() == [(2 + 10) / 2, 1.0]
    assert found.p_ti_k.tolist() == [(30 + 4) / 2, 1.0]
    assert pq.tolist() == [[0.5, 0.0], [0.5, 0.5]]
    assert qr.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert int(found.stats["p_ti_capped"]) == 1


def test_a_row_counts_up_to_a_cap():
    found, pq, _ = terms(SelectiveConfig(bound="cap", bound_at=1.25), PQ, QR)
    assert found.r_ta_k.tolist() == [1.25, 1.0]
    assert pq.tolist() == [[0.0, 0.0], [0.5, 0.5]]
    # Of row 0 one token is beyond kl_cap, and the other is lost to the bound of its row.
    assert int(found.stats["r_ta_capped"]) == 2
    summed = SelectiveConfig(bound="cap", bound_at=1.25, token_aggregation="sum")
    assert terms(summed, PQ, QR)[0].r_ta_k.tolist() == [2.5, 2.0]


@pytest.mark.parametrize("bound", ["cap", "target"])
def test_a_bound_that_bounds_nothing(bound):
    with pytest.raises(ConfigError, match=r"bound_at is 2, above selective\.kl_cap \(1\.5\)"):
        SelectiveConfig(bound=bound, bound_at=2.0, kl_cap=1.5)
    assert SelectiveConfig(bound="js", bound_at=2.0, kl_cap=1.5).bound_at == 2.0


def test_a_row_counts_up_to_what_the_reference_has_and_a_margin():
    config = SelectiveConfig(bound="target", bound_at=0.25)
    own = torch.tensor([[0.5, 1.5], [2.0, 4.0]])
    found, pq, _ = terms(config, PQ, QR, kl_rr_kl=own)
    assert found.r_ta_k.tolist() == [1.25, 1.0]
    assert pq.tolist() == [[0.0, 0.0], [0.5, 0.5]]
    with pytest.raises(ValueError, match="kl_rr_kl is None"):
        selective_terms(torch.ones(2, 2), config, **ROWS, kl_pq_kl=own, kl_qr_kl=own)


# A head of three tokens whose hidden states are the logits.
HEAD = torch.eye(3)


def states(*rows):
    return torch.log(torch.tensor(rows))


def test_jensen_shannon_by_hand():
    """p = (1/2, 1/2, 0+), q = (1/2, 0+, 1/2): half of the mass is shared, so the divergence is log(2) / 2."""
    p, q = states([0.5, 0.5, 1e-30]).requires_grad_(), states([0.5, 1e-30, 0.5]).requires_grad_()
    found = flagged_scores(p, q, HEAD, torch.tensor([0]), divergence="js").kl_pq_n
    assert found.item() == pytest.approx(math.log(2) / 2, rel=1e-5)
    far = flagged_scores(
        states([1.0, 1e-30, 1e-30]), states([1e-30, 1.0, 1e-30]), HEAD, torch.tensor([0]), divergence="js"
    )
    assert far.kl_pq_n.item() == pytest.approx(math.log(2), rel=1e-5)
    for side, grads in (("full_only", (True, False)), ("blind_only", (False, True))):
        one = flagged_scores(p, q, HEAD, torch.tensor([0]), divergence="js", ta_grad=side).kl_pq_n
        got = torch.autograd.grad(one.sum(), (p, q), allow_unused=True)
        assert tuple(g is not None for g in got) == grads


def test_what_the_reference_holds_possible():
    """Token 1 is impossible for the reference: p is (.5, .5) on the others, and q (.2, .6, .2) there as it is."""
    p, q = states([0.25, 0.5, 0.25]), states([0.2, 0.6, 0.2])
    full, blind = states([0.5, 1e-6, 0.5]), states([0.8, 0.1, 0.1])
    found = flagged_scores(
        p, q, HEAD, torch.tensor([1]), hidden_r_nh=blind, weight_r_vh=HEAD, hidden_rp_nh=full, support_min=1e-3
    )
    assert found.kl_pq_n.item() == pytest.approx(math.log(0.5 / 0.2), rel=1e-5)
    assert found.logp_n.item() == pytest.approx(math.log(0.5), rel=1e-5)
    own = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.1) + 1e-6 * math.log(1e-6 / 0.1)
    assert found.kl_rr_n.item() == pytest.approx(own, rel=1e-4)
    with pytest.raises(ValueError, match="reference's states on one of the prompts are missing"):
        flagged_scores(p, q, HEAD, torch.tensor([1]), hidden_r_nh=blind, support_min=1e-3)


def test_jensen_shannon_without_zeros():
    """p = (.8, .2), q = (.4, .6), their mean (.6, .4): half of .8 log 4/3 + .2 log 1/2 + .4 log 2/3 + .6 log 3/2."""
    p, q = states([0.8, 0.2, 1e-30]), states([0.4, 0.6, 1e-30])
    found = flagged_scores(p, q, HEAD, torch.tensor([0]), divergence="js").kl_pq_n
    assert found.item() == pytest.approx(0.0863046, abs=1e-6)


def test_a_sampled_token_by_hand():
    """p(v) = .8, q(v) = .4, so d = log 2: k3 is 1/2 - 1 + d; its slopes are +-1/2, those of k2k1 d and -1."""
    logp, logq = (torch.tensor([math.log(x)], requires_grad=True) for x in (0.8, 0.4))
    for estimator, slopes in (("k3", (0.5, -0.5)), ("k2k1", (math.log(2), -1.0))):
        value = token_kl(logp, logq, estimator)
        assert value.item() == pytest.approx(math.log(2) - 0.5)
        assert [g.item() for g in torch.autograd.grad(value, (logp, logq))] == pytest.approx(slopes)


@pytest.mark.parametrize("given", [{"bound": "js"}, {"support": "reference"}])
def test_what_needs_whole_distributions(given):
    with pytest.raises(ConfigError, match="needs whole distributions"):
        SelectiveConfig(kl_estimator="k3", **given)


# -- 5 -----------------------------------------------------------------------------------------------------------------


def test_a_text_joins_the_most_similar_of_the_groups_that_fit():
    """Of ten letters: `near` is .8 like the first founder and .9 like the second; the founders are .7 alike."""
    one, two, near = "aaaaaaaaaa", "aaaaaaabbb", "aaaaaaaabb"
    texts, config = [one, two, near, one], AdvantageConfig(anchor="similarity", similarity_threshold=0.8)
    assert anchor_groups([0] * 4, texts, config).tolist() == [0, 1, 0, 0]
    best = replace(config, similarity_fit="best")
    assert anchor_groups([0] * 4, texts, best).tolist() == [0, 1, 1, 0]
    # Founded later, a group had not been there to be joined; and tasks stay apart.
    assert anchor_groups([0] * 3, [one, near, two], best).tolist() == [0, 0, 1]
    assert anchor_groups([0, 1, 0], [one, two, near], best).tolist() == [0, 1, 0]


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.85, 0.9])
def test_a_text_exactly_at_the_threshold_fits(threshold):
    other = "a" * round(20 * threshold) + "b" * (20 - round(20 * threshold))
    config = AdvantageConfig(anchor="similarity", similarity_threshold=threshold)
    assert anchor_groups([0, 0], ["a" * 20, other], config).tolist() == [0, 0]


def test_best_is_what_placing_one_by_one_gives():
    rng = np.random.default_rng(0)
    # Each once: equal texts stay together, wherever the first of them went.
    texts = list(dict.fromkeys("".join(rng.choice(list("ab"), 12)) for _ in range(300)))
    founders, expected = [], []
    for text in texts:
        scores = [Indel.normalized_similarity(text, other) for other in founders]
        if scores and max(scores) >= 0.8 - 1e-9:
            expected.append(scores.index(max(scores)))
        else:
            expected.append(len(founders))
            founders.append(text)
    config = AdvantageConfig(anchor="similarity", similarity_threshold=0.8, similarity_fit="best")
    assert anchor_groups([0] * len(texts), texts, config).tolist() == expected
    assert len(founders) < len(texts) / 3


# -- 6 -----------------------------------------------------------------------------------------------------------------


def test_hgpo_as_its_code_has_it():
    """Levels z = (-1, 0) and (1, -1) with the weights 2 and 3; a level at exactly 0 does not count."""
    levels = [np.array([0, 0, 1, 1, 1]), np.array([0, 0, -1, 2, 2])]
    value = np.array([1.0, 3.0, 5.0, 2.0, 8.0])
    z0 = np.array([-1, 1, *((np.array([5, 2, 8]) - 5) / np.sqrt(6))])
    config = AdvantageConfig(ddof=0, step_groups="history", level_weights="code", eps=0.0)
    found = history_advantages(value, levels, config)
    z1 = [-1, 1, None, -1, 1]
    expected = [-1, 1, 0, (2 * z0[3] + 3 * z1[3]) / 5, (2 * z0[4] + 3 * z1[4]) / 5]
    assert found == pytest.approx(expected, abs=1e-5)
    # Row 2 of the paper's reading: its only level is at 0 as well. A row with a level at 0 beside another:
    one = history_advantages(np.array([1.0, 2.0, 3.0, 9.0]), [np.array([0, 0, 0, 1]), np.array([-1, 1, 1, -1])], config)
    assert one[1] == pytest.approx(-1.0)  # z of the anchor group is 0, and does not pull
    paper = history_advantages(
        np.array([1.0, 2.0, 3.0, 9.0]), [np.array([0, 0, 0, 1]), np.array([-1, 1, 1, -1])],
        replace(config, level_weights="paper"),
    )  # fmt: skip
    assert paper[1] == pytest.approx(-2 / 3)


# -- 7, 8 --------------------------------------------------------------------------------------------------------------


def test_a_masked_mean_over_every_four_rows():
    """Ten rows: parts of 4, 4 and 2. Two flagged rows with 3 and 1 tokens share the first; the last has one alone."""
    config = SelectiveConfig(norm="masked_mean", mean_rows=4)
    flag, tokens = [1, 0, 1, 0, 0, 0, 0, 0, 0, 1], [3, 9, 1, 9, 9, 9, 9, 9, 9, 7]
    weights = masked_mean_weights(config, flag, tokens)
    assert weights.tolist() == pytest.approx([0.4 * 3 / 4, 0, 0.4 / 4, 0, 0, 0, 0, 0, 0, 0.2])
    assert selective_divisor(config, flagged=3, rows=10) == 1.0
    loss = selective_loss(
        torch.tensor([2.0, 4.0]), torch.tensor([1.0, 1.0]), replace(config, alpha=0.1, gamma=0.2), 1.0,
        weight_k=torch.tensor([0.3, 0.1]),
    )  # fmt: skip
    assert loss.item() == pytest.approx(-0.1 * (0.6 + 0.4) + 0.2 * 0.4)


def test_a_masked_mean_is_over_tokens_already():
    with pytest.raises(ConfigError, match=r"'sum' with selective\.norm 'masked_mean'"):
        SelectiveConfig(norm="masked_mean", token_aggregation="sum")


def test_who_is_asked_for_r_ta():
    r, p = torch.tensor([2.0, 4.0], requires_grad=True), torch.tensor([1.0, 3.0])
    gated = selective_loss(
        r, p, SelectiveConfig(alpha=0.1, gamma=0.2, gate="positive"), 2.0, gain_k=torch.tensor([1.0, 0.0])
    )
    assert gated.item() == pytest.approx(-0.1 * 2 / 2 + 0.2 * 4 / 2)
    bonus = selective_loss(r, p, SelectiveConfig(alpha=0.1, gamma=0.2, gate="bonus"), 2.0)
    assert bonus.item() == pytest.approx(0.2 * 4 / 2)


def test_table_3_raises_the_penalty():
    raised, stapo = get_algorithm("stapo-raised-penalty"), get_algorithm("stapo")
    assert raised.selective == replace(stapo.selective, gamma=10 * stapo.selective.gamma)
