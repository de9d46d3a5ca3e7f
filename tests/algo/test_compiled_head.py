"""The head compiled by torch.compile: values and gradients are those of the eager one; no compiler is a clear error."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

import stapo.algo.head as head
from stapo.algo import flagged_scores, score_tokens
from stapo.errors import ConfigError

N, H, V = 11, 6, 37


def outputs(kernel):
    """Values and gradients of everything at once, with a last chunk that is shorter than the others."""
    g = torch.Generator().manual_seed(0)
    p, q, r, w = (torch.randn(n, H, generator=g).requires_grad_() for n in (N, N, N, V))
    targets = torch.randint(V, (N,), generator=g)
    mix = torch.linspace(-1, 2, N)
    logp, entropy = score_tokens(p, w, targets, temperature=0.7, chunk=4, entropy_grad=True, kernel=kernel)
    flagged = flagged_scores(p, q, w, targets, hidden_r_nh=r, temperature=0.7, chunk=4, kernel=kernel)
    values = [logp, entropy, flagged.logp_n, flagged.logq_n, flagged.kl_pq_n, flagged.kl_qr_n]
    loss = sum((k + 1) * (mix * value).sum() for k, value in enumerate(values))
    return [v.detach() for v in (*values, flagged.logr_n)] + list(torch.autograd.grad(loss, [p, q, w]))


@pytest.mark.slow
def test_the_same_values_and_gradients(monkeypatch):
    monkeypatch.setattr(head, "_NO_RECOMPUTE_BYTES", 0)
    for got, want in zip(outputs("compiled"), outputs("eager"), strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_no_compiler_is_one_clear_error(monkeypatch):
    def broken(run):
        def call(*args):
            raise TorchDynamoException("no working C++ compiler found\nmore")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(
        ConfigError, match=r"no working C\+\+ compiler found\. It needs .* Set model.head_kernel to 'eager'"
    ):
        outputs("compiled")
