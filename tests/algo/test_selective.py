"""Selective terms: estimator gradients by enumeration, caps, divisors, exact zeros."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stapo.algo import (
    SelectiveConfig,
    flagged_scores,
    selective_divisor,
    selective_loss,
    selective_terms,
    token_kl,
    unflatten_tokens,
)
from stapo.algo.loss import mean_stats

WAYS = 12


def kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    return (log_p.exp() * (log_p - log_q)).sum()


class TestEstimatorsByEnumeration:
    """Every outcome of a 12-way softmax, weighted by p, stands for sampling from p."""

    @pytest.fixture
    def logits(self):
        g = torch.Generator().manual_seed(5)
        return tuple(torch.randn(WAYS, generator=g).requires_grad_() for _ in range(2))

    def expected(self, estimator, logits):
        """Value and both gradients of E_p[estimator], the sampling weights held fixed."""
        log_p, log_q = (x.log_softmax(0) for x in logits)
        value = (log_p.exp().detach() * token_kl(log_p, log_q, estimator)).sum()
        grads = torch.autograd.grad(value, logits, allow_unused=True)
        return value, [torch.zeros(WAYS) if g is None else g for g in grads]

    def exact(self, logits, *, swap=False):
        log_p, log_q = (x.log_softmax(0) for x in logits)
        value = kl(log_q, log_p) if swap else kl(log_p, log_q)
        return value, torch.autograd.grad(value, logits)

    @pytest.mark.parametrize("estimator", ["k1", "k3", "k2k1"])
    def test_values_are_unbiased(self, estimator, logits):
        value, _ = self.expected(estimator, logits)
        torch.testing.assert_close(value, self.exact(logits)[0], atol=1e-6, rtol=1e-5)

    @pytest.mark.parametrize("estimator", ["k1", "k3", "k2k1"])
    def test_gradients_through_q_are_exact(self, estimator, logits):
        _, grads = self.expected(estimator, logits)
        torch.testing.assert_close(grads[1], self.exact(logits)[1][1], atol=1e-6, rtol=1e-5)

    def test_k3_through_p_is_the_other_direction(self, logits):
        _, grads = self.expected("k3", logits)
        other = self.exact(logits, swap=True)[1][0]
        torch.testing.assert_close(grads[0], other, atol=1e-6, rtol=1e-5)
        assert (grads[0] - self.exact(logits)[1][0]).abs().max() > 0.01

    def test_k1_through_p_is_zero(self, logits):
        _, grads = self.expected("k1", logits)
        assert grads[0].abs().max() < 1e-6

    def test_k2_through_p_is_exact(self, logits):
        _, grads = self.expected("k2k1", logits)
        torch.testing.assert_close(grads[0], self.exact(logits)[1][0], atol=1e-6, rtol=1e-5)

    def test_full_is_exact_in_value_and_both_gradients(self, logits):
        eye = torch.eye(WAYS)
        scores = flagged_scores(logits[0][None], logits[1][None], eye, torch.tensor([0]))
        grads = torch.autograd.grad(scores.kl_pq_n.sum(), logits)
        value, expected = self.exact(logits)
        torch.testing.assert_close(scores.kl_pq_n[0], value)
        for got, want in zip(grads, expected, strict=True):
            torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)

    def test_an_unknown_estimator_is_refused(self):
        with pytest.raises(ValueError, match="expected k1, k3 or k2k1"):
            token_kl(torch.zeros(1), torch.zeros(1), "k2")


@given(st.floats(-60, 0), st.floats(-60, 0))
@settings(max_examples=80, deadline=None)
def test_k3_and_k2k1_have_one_value_that_is_never_negative(p, q):
    a, b = torch.tensor([p]), torch.tensor([q])
    k3_value, k2k1_value = token_kl(a, b, "k3").item(), token_kl(a, b, "k2k1").item()
    assert k3_value >= 0
    assert k3_value == pytest.approx(k2k1_value, rel=1e-5, abs=1e-7)
    assert math.isfinite(k3_value)


def inputs(k=3, length=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = {name: (-3 * torch.rand(k, length, generator=g)).requires_grad_() for name in ("logp_kl", "logq_kl", "logr_kl")}
    mask = torch.ones(k, length, dtype=torch.long)
    mask[0, 2:] = 0
    return mask, x


SAMPLED = SelectiveConfig(kl_estimator="k3")


class TestTerms:
    def test_by_hand_with_mask_and_cap(self):
        mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
        zero = torch.zeros(2, 3)
        kl_pq = torch.tensor([[2.0, 25.0, math.nan], [0.5, math.nan, 99.0]])
        kl_qr = torch.tensor([[1.0, 3.0, 9.0], [12.0, 9.0, 9.0]])
        out = selective_terms(
            mask,
            SelectiveConfig(),
            logp_kl=zero,
            logq_kl=zero,
            kl_pq_kl=kl_pq,
            kl_qr_kl=kl_qr,
        )
        torch.testing.assert_close(out.r_ta_k, torch.tensor([6.0, 0.5]))
        torch.testing.assert_close(out.p_ti_k, torch.tensor([2.0, 12.0]))
        assert mean_stats([out.stats])["r_ta_capped"] == pytest.approx(1 / 3)
        assert mean_stats([out.stats])["p_ti_capped"] == pytest.approx(1 / 3)
        summed = selective_terms(
            mask,
            SelectiveConfig(token_aggregation="sum", gamma=0.0),
            logp_kl=zero,
            logq_kl=zero,
            kl_pq_kl=kl_pq,
        )
        torch.testing.assert_close(summed.r_ta_k, torch.tensor([12.0, 0.5]))
        assert summed.p_ti_k is None

    def test_loss_by_hand(self):
        loss = selective_loss(
            torch.tensor([6.0, 0.5]),
            torch.tensor([2.0, 10.0]),
            SelectiveConfig(alpha=0.1, gamma=0.01),
            2.0,
        )
        assert loss.item() == pytest.approx(-(0.1 * 6.5 - 0.01 * 12) / 2)

    @pytest.mark.parametrize("estimator", ["k3", "k2k1"])
    @pytest.mark.parametrize(
        ("ta_grad", "p", "q"),
        [("both", True, True), ("full_only", True, False), ("blind_only", False, True)],
    )
    def test_ta_grad_chooses_the_sides_of_r_ta(self, estimator, ta_grad, p, q):
        mask, x = inputs()
        settings = SelectiveConfig(kl_estimator=estimator, ta_grad=ta_grad)
        selective_terms(mask, settings, **x).r_ta_k.sum().backward()
        assert (x["logp_kl"].grad is not None) == p
        assert (x["logq_kl"].grad is not None) == q
        assert x["logr_kl"].grad is None

    @pytest.mark.parametrize("ta_grad", ["both", "full_only", "blind_only"])
    def test_p_ti_reaches_q_alone(self, ta_grad):
        mask, x = inputs()
        settings = SelectiveConfig(kl_estimator="k3", ta_grad=ta_grad)
        p_ti = selective_terms(mask, settings, **x).p_ti_k
        assert p_ti is not None
        p_ti.sum().backward()
        assert x["logq_kl"].grad is not None
        assert x["logp_kl"].grad is None
        assert x["logr_kl"].grad is None

    def test_each_term_changes_the_gradient(self):
        grads = {}
        for alpha, gamma in ((0.1, 0.1), (0.1, 0.0), (0.0, 0.1)):
            mask, x = inputs()
            settings = SelectiveConfig(alpha=alpha, gamma=gamma, kl_estimator="k3")
            out = selective_terms(mask, settings, **x)
            selective_loss(out.r_ta_k, out.p_ti_k, settings, 3.0).backward()
            grads[alpha, gamma] = x["logq_kl"].grad
        assert (grads[0.1, 0.1] - grads[0.1, 0.0]).abs().max() > 1e-3
        assert (grads[0.1, 0.1] - grads[0.0, 0.1]).abs().max() > 1e-3
        torch.testing.assert_close(grads[0.1, 0.1], grads[0.1, 0.0] + grads[0.0, 0.1])

    def test_the_loss_raises_r_ta_and_lowers_p_ti(self):
        for alpha, gamma, attribute, sign in ((1.0, 0.0, "r_ta_k", 1), (0.0, 1.0, "p_ti_k", -1)):
            mask, x = inputs()
            settings = SelectiveConfig(alpha=alpha, gamma=gamma, kl_estimator="k3")
            before = selective_terms(mask, settings, **x)
            selective_loss(before.r_ta_k, before.p_ti_k, settings, 3.0).backward()
            moved = {n: t.detach() - (0 if t.grad is None else 0.01 * t.grad) for n, t in x.items()}
            after = selective_terms(mask, settings, **moved)
            change = getattr(after, attribute).sum() - getattr(before, attribute).sum()
            assert sign * change.item() > 0

    def test_capped_tokens_get_no_gradient(self):
        kl_pq = torch.tensor([[2.0, 25.0]], requires_grad=True)
        settings = SelectiveConfig(gamma=0.0)
        zero = torch.zeros(1, 2)
        selective_terms(torch.ones(1, 2), settings, logp_kl=zero, logq_kl=zero, kl_pq_kl=kl_pq).r_ta_k.sum().backward()
        assert kl_pq.grad is not None
        assert kl_pq.grad.tolist() == [[0.5, 0.0]]

    def test_clamped_log_ratios_are_counted_and_get_no_gradient(self):
        logp = torch.tensor([[-30.0, -1.0]], requires_grad=True)
        logq = torch.tensor([[-1.0, -2.0]], requires_grad=True)
        settings = SelectiveConfig(kl_estimator="k2k1", gamma=0.0, kl_cap=1e9)
        out = selective_terms(torch.ones(1, 2), settings, logp_kl=logp, logq_kl=logq)
        out.r_ta_k.sum().backward()
        assert out.stats["log_ratio_clamped"].item() == 1
        assert logp.grad is not None
        assert logp.grad[0, 0].item() == 0
        assert logp.grad[0, 1].item() != 0

    @pytest.mark.parametrize("estimator", ["k3", "k2k1"])
    def test_masked_positions_may_hold_anything(self, estimator):
        mask, x = inputs()
        for t in x.values():
            t.data[0, 2:] = math.nan
        settings = SelectiveConfig(kl_estimator=estimator)
        out = selective_terms(mask, settings, **x)
        selective_loss(out.r_ta_k, out.p_ti_k, settings, 3.0).backward()
        for name in ("logp_kl", "logq_kl"):
            assert x[name].grad.isfinite().all()

    def test_a_row_without_tokens_counts_zero(self):
        mask, x = inputs()
        mask[1] = 0
        out = selective_terms(mask, SAMPLED, **x)
        assert out.r_ta_k[1].item() == 0
        assert out.p_ti_k is not None
        assert out.p_ti_k[1].item() == 0

    def test_missing_inputs_are_named(self):
        mask, x = inputs()
        with pytest.raises(ValueError, match="kl_pq_kl is None"):
            selective_terms(mask, SelectiveConfig(), **x)
        with pytest.raises(ValueError, match="kl_qr_kl is None"):
            selective_terms(mask, SelectiveConfig(), kl_pq_kl=torch.zeros(3, 4), **x)
        del x["logr_kl"]
        with pytest.raises(ValueError, match=r"logr_kl is None with selective\.gamma 0\.01"):
            selective_terms(mask, SAMPLED, **x)
        with pytest.raises(ValueError, match="p_ti_k is None"):
            selective_loss(torch.ones(1), None, SAMPLED, 1.0)


class TestExactZeros:
    def test_no_flagged_rows(self):
        empty = torch.zeros(0, 4, requires_grad=True)
        out = selective_terms(empty, SAMPLED, logp_kl=empty, logq_kl=empty, logr_kl=empty)
        loss = selective_loss(out.r_ta_k, out.p_ti_k, SAMPLED, 1.0)
        assert loss.item() == 0.0
        assert not loss.requires_grad

    def test_no_weights(self):
        mask, x = inputs()
        settings = SelectiveConfig(alpha=0.0, gamma=0.0, kl_estimator="k3")
        out = selective_terms(mask, settings, **x)
        loss = selective_loss(out.r_ta_k, out.p_ti_k, settings, 1.0)
        assert loss.item() == 0.0
        assert not loss.requires_grad

    def test_dummy_rows_keep_their_graph_and_add_nothing(self):
        mask, x = inputs()
        out = selective_terms(mask, SAMPLED, **x)
        alone = selective_loss(out.r_ta_k[:2], out.p_ti_k[:2], SAMPLED, 2.0)
        weight = torch.tensor([1.0, 1.0, 0.0])
        padded = selective_loss(out.r_ta_k, out.p_ti_k, SAMPLED, 2.0, weight_k=weight)
        torch.testing.assert_close(alone, padded)
        only_dummies = selective_loss(out.r_ta_k, out.p_ti_k, SAMPLED, 1.0, weight_k=torch.zeros(3))
        assert only_dummies.item() == 0.0
        only_dummies.backward()
        assert not x["logq_kl"].grad.any()


def test_divisors():
    literal = SelectiveConfig(norm="all")
    assert selective_divisor(SelectiveConfig(), flagged=3, rows=256) == 3
    assert selective_divisor(literal, flagged=3, rows=256) == 256
    assert selective_divisor(SelectiveConfig(), flagged=0, rows=256) == 1
    assert selective_divisor(literal, flagged=0, rows=0) == 1


@pytest.mark.parametrize("cut", [[1, 2], [1, 1, 1]])
def test_micro_batches_add_up(cut):
    mask, x = inputs()
    whole = selective_terms(mask, SAMPLED, **x)
    expected = selective_loss(whole.r_ta_k, whole.p_ti_k, SAMPLED, 3.0)
    total, start = 0.0, 0
    for size in cut:
        rows = slice(start, start + size)
        part = selective_terms(mask[rows], SAMPLED, **{n: t[rows] for n, t in x.items()})
        total += selective_loss(part.r_ta_k, part.p_ti_k, SAMPLED, 3.0).item()
        start += size
    assert total == pytest.approx(expected.item(), abs=1e-8)


def test_unflatten_is_the_inverse_of_masking_and_carries_gradients():
    mask = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 1]])
    flat = torch.arange(1.0, 5.0, requires_grad=True)
    rows = unflatten_tokens(flat, mask)
    assert rows.tolist() == [[1, 0, 2], [0, 0, 0], [0, 3, 4]]
    torch.testing.assert_close(rows[mask.bool()], flat)
    (rows * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert flat.grad is not None
    assert flat.grad.tolist() == [1, 3, 2, 3]
    assert unflatten_tokens(torch.zeros(0), torch.zeros(0, 3)).shape == (0, 3)
    with pytest.raises(ValueError, match="3 entries for a mask of 4"):
        unflatten_tokens(torch.zeros(3), mask)
