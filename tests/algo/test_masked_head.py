"""The head with tokens ruled out: the numbers are those of a softmax over what is left, values and gradients alike.

1. Against the plain form, with positions of both kinds mixed, at every chunk size, recomputed in backward.
2. A position with one token has log-probability and entropy 0, and moves nothing.
3. Of a large head, the rows of allowed tokens are all that is multiplied.
4. A token that was not allowed has log-probability -inf, which training stops on.
"""

from __future__ import annotations

import pytest
import torch

import stapo.algo.head as head
from stapo.algo import TokenMasks, flagged_scores, score_tokens

N, H, V = 9, 5, 23
CHUNKS = [1, 4, 64, None]


@pytest.fixture(autouse=True, params=["small head", "large head"])
def recompute_even_small_arrays(monkeypatch, request):
    monkeypatch.setattr(head, "_NO_RECOMPUTE_BYTES", 0)
    if request.param == "large head":
        monkeypatch.setattr(head, "_WHOLE_HEAD", 0)


def case(seed=0):
    """States, head, targets, masks, and the same masks as (N, V)."""
    g = torch.Generator().manual_seed(seed)
    x = {k: torch.randn(N, H, generator=g).requires_grad_() for k in "pqr"}
    x |= {"w": torch.randn(V, H, generator=g).requires_grad_(), "b": torch.randn(V, generator=g).requires_grad_()}
    free_mv = torch.rand(2, V, generator=g) < 0.5
    free_n = torch.tensor([-1, 0, -1, 1, -1, 0, -1, 1, -1])
    ids = [[3], [0, 22], [5, 7, 11], [], [22, 1], [4], [9, 0, 2, 8], [6, 7], [12]]
    ids_nk = torch.tensor([[*row, *[-1] * (4 - len(row))] for row in ids])
    plain_nv = torch.zeros(N, V, dtype=torch.bool)
    for n, row in enumerate(ids):
        plain_nv[n, row] = True
        if free_n[n] >= 0:
            plain_nv[n] |= free_mv[free_n[n]]
    targets = torch.stack([torch.multinomial(row.float(), 1, generator=g)[0] for row in plain_nv])
    return x, targets, TokenMasks(ids_nk, free_n, free_mv), plain_nv


def naive(h, w, b, plain_nv, temperature):
    logits = (h @ w.T + b) / temperature
    return torch.log_softmax(logits.masked_fill(~plain_nv, -1e30), -1)


def entropy_of(log_nv):
    return -(log_nv.exp() * log_nv.clamp(min=-1e4)).sum(-1)


def kl(a, b, plain_nv):
    return torch.where(plain_nv, a.exp() * (a - b), 0).sum(-1)


def assert_same(got, want, x, names):
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    weights = torch.linspace(-1, 2, N)
    tensors = [x[name] for name in names]
    for a, b in zip(
        torch.autograd.grad((weights * got).sum(), tensors, retain_graph=True, allow_unused=True),
        torch.autograd.grad((weights * want).sum(), tensors, retain_graph=True, allow_unused=True),
        strict=True,
    ):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_scores_are_those_of_the_softmax_over_the_allowed_tokens(chunk, temperature):
    x, targets, masks, plain = case()
    logp, entropy = score_tokens(
        x["p"], x["w"], targets, temperature=temperature, chunk=chunk, bias_v=x["b"], entropy_grad=True, masks=masks
    )
    want = naive(x["p"], x["w"], x["b"], plain, temperature)
    assert_same(logp, want.gather(1, targets[:, None])[:, 0], x, ["p", "w", "b"])
    assert_same(entropy, entropy_of(want), x, ["p", "w", "b"])


@pytest.mark.parametrize("chunk", CHUNKS)
def test_divergences_are_those_between_masked_distributions(chunk):
    x, targets, masks, plain = case(1)
    other = torch.randn(V, H)
    got = flagged_scores(
        x["p"], x["q"], x["w"], targets, hidden_r_nh=x["r"], weight_r_vh=other, bias_v=x["b"], chunk=chunk,
        temperature=0.7, masks=masks,
    )  # fmt: skip
    p, q = (naive(x[k], x["w"], x["b"], plain, 0.7) for k in "pq")
    r = naive(x["r"], other, 0.0, plain, 0.7).detach()
    at = targets[:, None]
    assert_same(got.logp_n, p.gather(1, at)[:, 0], x, ["p", "w"])
    assert_same(got.logq_n, q.gather(1, at)[:, 0], x, ["q", "w"])
    assert_same(got.kl_pq_n, kl(p, q, plain), x, ["p", "q", "w", "b"])
    assert_same(got.kl_qr_n, kl(q, r, plain), x, ["q", "w", "b"])
    torch.testing.assert_close(got.logr_n, r.gather(1, at)[:, 0])


def test_one_token_is_no_choice():
    x, targets, masks, plain = case()
    forced = plain.sum(-1) == 1
    assert forced.sum() == 2
    logp, entropy = score_tokens(x["p"], x["w"], targets, entropy_grad=True, masks=masks)
    both = flagged_scores(x["p"], x["q"], x["w"], targets, masks=masks)
    for values in (logp, entropy, both.kl_pq_n):
        assert values[forced].tolist() == [0, 0]
        assert (values[~forced] != 0).all()
        (grad,) = torch.autograd.grad(values[forced].sum(), [x["p"]], retain_graph=True)
        assert not grad.any()


def test_a_large_head_is_multiplied_by_rows(monkeypatch):
    widths, original = [], head.linear

    def counted(hidden, weight, bias):
        widths.append((len(hidden), len(weight)))
        return original(hidden, weight, bias)

    monkeypatch.setattr(head, "linear", counted)
    monkeypatch.setattr(head, "_WHOLE_HEAD", V - 1)
    x, targets, masks, _ = case()
    with torch.no_grad():
        score_tokens(x["p"], x["w"], targets, masks=masks)
    single = masks.free_n < 0
    assert sorted(widths) == [(4, V), (5, len(masks.ids_nk[single].clamp(min=0).unique()))]
    monkeypatch.setattr(head, "_WHOLE_HEAD", V)
    with torch.no_grad():
        score_tokens(x["p"], x["w"], targets, masks=masks)
    assert [width for _, width in widths[2:]] == [V, V]


def test_a_token_that_was_not_allowed_cannot_have_been_drawn():
    x, targets, masks, _ = case()
    targets[0] = 4
    logp, _ = score_tokens(x["p"], x["w"], targets, masks=masks)
    assert logp[0] == -torch.inf
    assert torch.isfinite(logp[1:]).all()


def test_a_mask_of_everything_changes_nothing():
    x, targets, masks, _ = case()
    everything = TokenMasks(masks.ids_nk, torch.zeros(N, dtype=torch.long), torch.ones(1, V, dtype=torch.bool))
    for one, two in zip(
        score_tokens(x["p"], x["w"], targets), score_tokens(x["p"], x["w"], targets, masks=everything), strict=True
    ):
        assert torch.equal(one, two)
    empty = TokenMasks(masks.ids_nk[:0], masks.free_n[:0], masks.free_mv)
    assert [len(v) for v in score_tokens(x["p"][:0], x["w"], targets[:0], masks=empty)] == [0, 0]


@pytest.mark.parametrize("wrong", ["ids_nk", "free_n", "free_mv"])
def test_masks_of_another_shape_are_an_error(wrong):
    x, targets, masks, _ = case()
    parts = {name: getattr(masks, name) for name in ("ids_nk", "free_n", "free_mv")}
    parts[wrong] = parts[wrong][..., :3] if wrong == "free_mv" else parts[wrong][:3]
    with pytest.raises(ValueError, match="expected 9 positions and 23 tokens"):
        score_tokens(x["p"], x["w"], targets, masks=TokenMasks(**parts))


@pytest.mark.slow
def test_the_compiled_head_masks_alike():
    def outputs(kernel):
        x, targets, masks, _ = case()
        logp, entropy = score_tokens(
            x["p"], x["w"], targets, chunk=4, entropy_grad=True, kernel=kernel, masks=masks
        )  # fmt: skip
        flagged = flagged_scores(x["p"], x["q"], x["w"], targets, hidden_r_nh=x["r"], kernel=kernel, masks=masks)
        values = [logp, entropy, flagged.logq_n, flagged.kl_pq_n, flagged.kl_qr_n]
        loss = sum((k + 1) * value.sum() for k, value in enumerate(values))
        return [v.detach() for v in values] + list(torch.autograd.grad(loss, [x[k] for k in "pqw"]))

    for got, want in zip(outputs("compiled"), outputs("eager"), strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
