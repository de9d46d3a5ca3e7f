"""The chunked head against the plain formulas: values and gradients, at every chunk size."""

from __future__ import annotations

import math

import pytest
import torch

import stapo.algo.head as head
from stapo.algo import flagged_scores, score_tokens, two_context_kl

N, H, V = 11, 6, 37
CHUNKS = [1, 4, 11, 64, None]


@pytest.fixture(autouse=True)
def recompute_even_small_arrays(monkeypatch):
    monkeypatch.setattr(head, "_NO_RECOMPUTE_BYTES", 0)


def make(seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    x = {k: torch.randn(N, H, generator=g) for k in ("p", "q", "r")}
    x |= {"w": torch.randn(V, H, generator=g), "b": torch.randn(V, generator=g)}
    x = {k: v.to(dtype).requires_grad_() for k, v in x.items()}
    return x, torch.randint(V, (N,), generator=g)


def log_softmax(h, w, b=None, temperature=1.0):
    z = h @ w.T if b is None else h @ w.T + b
    return torch.log_softmax(z / temperature, dim=-1)


def naive_kl(a, b):
    return (a.exp() * (a - b)).sum(-1)


def grads(loss, x, names):
    tensors = [x[n] for n in names]
    out = torch.autograd.grad(loss, tensors, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(x[n]) if g is None else g for n, g in zip(names, out, strict=True)]


def assert_same(got, want):
    """Up to the order of sums in float32, which depends on how many threads a product gets."""
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=3e-5, rtol=1e-5)


mix = torch.linspace(-1, 2, N)  # uneven weights, so that no two positions are interchangeable


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("temperature", [1.0, 0.4])
class TestAgainstTheNaiveForm:
    def test_score_tokens(self, chunk, temperature):
        x, t = make()
        logp, entropy = score_tokens(
            x["p"],
            x["w"],
            t,
            temperature=temperature,
            chunk=chunk,
            bias_v=x["b"],
            entropy_grad=True,
        )
        full = log_softmax(x["p"], x["w"], x["b"], temperature)
        want_logp = full.gather(1, t[:, None])[:, 0]
        want_entropy = -(full.exp() * full).sum(-1)
        assert_same([logp, entropy], [want_logp, want_entropy])
        names = ["p", "w", "b"]
        assert_same(
            grads((mix * logp + entropy).sum(), x, names),
            grads((mix * want_logp + want_entropy).sum(), x, names),
        )

    def test_two_context_kl(self, chunk, temperature):
        x, _ = make()
        got = two_context_kl(x["p"], x["q"], x["w"], temperature=temperature, chunk=chunk)
        want = naive_kl(*(log_softmax(x[k], x["w"], None, temperature) for k in "pq"))
        assert_same([got], [want])
        assert_same(
            grads((mix * got).sum(), x, ["p", "q", "w"]),
            grads((mix * want).sum(), x, ["p", "q", "w"]),
        )

    def test_flagged_scores(self, chunk, temperature):
        x, t = make()
        other = torch.randn(V, H, requires_grad=True)
        got = flagged_scores(
            x["p"],
            x["q"],
            x["w"],
            t,
            hidden_r_nh=x["r"],
            weight_r_vh=other,
            temperature=temperature,
            chunk=chunk,
            bias_v=x["b"],
        )
        log_p, log_q = (log_softmax(x[k], x["w"], x["b"], temperature) for k in "pq")
        log_r = log_softmax(x["r"], other, None, temperature).detach()
        at = t[:, None]
        want = [
            log_p.gather(1, at)[:, 0],
            log_q.gather(1, at)[:, 0],
            naive_kl(log_p, log_q),
            log_r.gather(1, at)[:, 0],
            naive_kl(log_q, log_r),
        ]
        parts = [got.logp_n, got.logq_n, got.kl_pq_n, got.logr_n, got.kl_qr_n]
        assert_same(parts, want)
        names = ["p", "q", "w", "b"]
        for i in (0, 1, 2, 4):
            got_grads = grads((mix * parts[i]).sum(), x, names)
            assert_same(got_grads, grads((mix * want[i]).sum(), x, names))
        total = (mix * (parts[2] - 0.5 * parts[4] + parts[0])).sum()
        wanted = (mix * (want[2] - 0.5 * want[4] + want[0])).sum()
        assert_same(grads(total, x, names), grads(wanted, x, names))


def test_the_reference_is_a_constant():
    x, t = make()
    other = torch.randn(V, H, requires_grad=True)
    out = flagged_scores(x["p"], x["q"], x["w"], t, hidden_r_nh=x["r"], weight_r_vh=other)
    assert out.logr_n is not None
    assert not out.logr_n.requires_grad
    x["other"] = other
    reference_grads = grads(out.kl_qr_n.sum(), x, ["r", "other", "p"])
    assert not any(g.any() for g in reference_grads)


def test_the_policys_own_head_serves_the_reference_without_gradient():
    """With an adapter the head is shared; its gradient may come through q alone."""
    x, t = make()
    out = flagged_scores(x["p"], x["q"], x["w"], t, hidden_r_nh=x["r"], bias_v=x["b"])
    log_q = log_softmax(x["q"], x["w"], x["b"])
    want = naive_kl(log_q, log_softmax(x["r"], x["w"], x["b"]).detach())
    assert_same([out.kl_qr_n], [want])
    names = ["w", "b"]
    assert_same(grads(out.kl_qr_n.sum(), x, names), grads(want.sum(), x, names))


@pytest.mark.parametrize("ta_grad", ["both", "full_only", "blind_only"])
def test_ta_grad_cuts_r_ta_alone(ta_grad):
    x, t = make()
    out = flagged_scores(x["p"], x["q"], x["w"], t, hidden_r_nh=x["r"], ta_grad=ta_grad)
    gp, gq = grads(out.kl_pq_n.sum(), x, ["p", "q"])
    assert bool(gp.any()) == (ta_grad != "blind_only")
    assert bool(gq.any()) == (ta_grad != "full_only")
    (gq,) = grads(out.kl_qr_n.sum(), x, ["q"])
    assert gq.any()
    direct = two_context_kl(x["p"], x["q"], x["w"], ta_grad=ta_grad)
    gp, gq = grads(direct.sum(), x, ["p", "q"])
    assert bool(gp.any()) == (ta_grad != "blind_only")
    assert bool(gq.any()) == (ta_grad != "full_only")


def test_the_cut_sides_get_the_same_gradient_as_before():
    x, _ = make()
    both = grads(two_context_kl(x["p"], x["q"], x["w"]).sum(), x, ["p", "q", "w"])
    full = grads(two_context_kl(x["p"], x["q"], x["w"], ta_grad="full_only").sum(), x, ["p", "q", "w"])
    blind = grads(two_context_kl(x["p"], x["q"], x["w"], ta_grad="blind_only").sum(), x, ["p", "q", "w"])
    assert_same(both, [a + b for a, b in zip(full, blind, strict=True)])


def test_a_second_head_for_the_second_context():
    x, _ = make()
    other = torch.randn(V, H)
    got = two_context_kl(x["p"], x["r"], x["w"], weight_q_vh=other)
    assert_same([got], [naive_kl(log_softmax(x["p"], x["w"]), log_softmax(x["r"], other))])


def test_entropy_without_gradient_by_default():
    x, t = make()
    _, entropy = score_tokens(x["p"], x["w"], t)
    assert entropy is not None
    assert not entropy.requires_grad
    assert score_tokens(x["p"], x["w"], t, entropy=False)[1] is None


def test_entropy_of_a_uniform_and_of_a_certain_step():
    uniform = score_tokens(torch.zeros(1, H), torch.randn(V, H), torch.tensor([0]))
    assert uniform[1].item() == pytest.approx(math.log(V), rel=1e-6)
    assert uniform[0].item() == pytest.approx(-math.log(V), rel=1e-6)
    weight = torch.zeros(V, H)
    weight[3] = 200.0
    certain = score_tokens(torch.ones(1, H), weight, torch.tensor([3]))
    assert certain[1].item() == 0
    assert certain[0].item() == 0


def test_extreme_logits_stay_finite():
    x, t = make()
    big = (x["p"] * 300, x["q"] * 300)
    out = flagged_scores(*big, x["w"], t, hidden_r_nh=x["r"])
    assert out.kl_pq_n.isfinite().all()
    assert all(g.isfinite().all() for g in grads(out.kl_pq_n.sum(), x, ["p", "q", "w"]))


def test_equal_contexts_have_zero_divergence_and_gradient():
    x, _ = make()
    kl = two_context_kl(x["p"], x["p"].detach().clone(), x["w"])
    assert kl.abs().max() < 1e-6
    assert grads(kl.sum(), x, ["p"])[0].abs().max() < 1e-5


def test_half_precision_states_are_scored_in_fp32():
    x, t = make(dtype=torch.bfloat16)
    logp, entropy = score_tokens(x["p"], x["w"], t, chunk=4)
    assert logp.dtype == torch.float32
    want = torch.log_softmax((x["p"] @ x["w"].T).float(), -1).gather(1, t[:, None])[:, 0]
    torch.testing.assert_close(logp, want, atol=1e-5, rtol=1e-5)
    assert entropy is not None
    assert entropy.dtype == torch.float32


def test_chunks_agree_bit_for_bit_up_to_rounding():
    x, t = make()
    reference = score_tokens(x["p"], x["w"], t, chunk=N)
    for chunk in (1, 2, 3, 5):
        for a, b in zip(score_tokens(x["p"], x["w"], t, chunk=chunk), reference, strict=True):
            torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-6)


def test_small_arrays_are_not_recomputed(monkeypatch):
    monkeypatch.setattr(head, "_NO_RECOMPUTE_BYTES", 4_000_000)
    monkeypatch.setattr(head, "checkpoint", None)
    x, t = make()
    assert score_tokens(x["p"], x["w"], t)[0].requires_grad
    monkeypatch.setattr(head, "_NO_RECOMPUTE_BYTES", 0)
    with pytest.raises(TypeError):
        score_tokens(x["p"], x["w"], t)


def test_no_graph_without_gradients():
    x, t = make()
    with torch.no_grad():
        assert not score_tokens(x["p"], x["w"], t)[0].requires_grad


def test_no_tokens():
    x, t = make()
    logp, entropy = score_tokens(x["p"][:0], x["w"], t[:0])
    assert logp.shape == (0,)
    assert entropy is not None
    assert entropy.shape == (0,)
    out = flagged_scores(x["p"][:0], x["q"][:0], x["w"], t[:0], hidden_r_nh=x["r"][:0])
    assert out.kl_qr_n is not None
    assert out.kl_qr_n.shape == (0,)


def test_logits_of_one_chunk_at_most_are_held():
    """No tensor saved for backward spans the vocabulary for more rows than a chunk has."""
    x, t = make()
    saved: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda s: (saved.append(tuple(s.shape)), s)[1], lambda s: s):
        flagged_scores(x["p"], x["q"], x["w"], t, hidden_r_nh=x["r"], chunk=4)
    assert not [s for s in saved if s and s[-1] == V and len(s) == 2]


def test_wrong_shapes_are_named():
    x, t = make()
    with pytest.raises(ValueError, match=r"expected \(N, H\) and \(V, H\)"):
        score_tokens(x["p"], x["w"].T, t)
    with pytest.raises(ValueError, match="targets_n has shape"):
        score_tokens(x["p"], x["w"], t[:3])
    with pytest.raises(ValueError, match="temperature is 0"):
        score_tokens(x["p"], x["w"], t, temperature=0)
    with pytest.raises(ValueError, match="chunk is 0"):
        score_tokens(x["p"], x["w"], t, chunk=0)
    with pytest.raises(ValueError, match="hidden_q_nh has shape"):
        two_context_kl(x["p"], x["q"][:2], x["w"])
    with pytest.raises(ValueError, match="expected one vocabulary"):
        flagged_scores(x["p"], x["q"], x["w"], t, hidden_r_nh=x["r"], weight_r_vh=torch.zeros(3, H))
