"""The parts together on a small model: STAPO with zero weights is GiGPO, micro-batches do not show.

Numbers in brackets are the promises:
[1] alpha = gamma = 0 gives GiGPO's loss, gradient and weights after updates, bit for bit.
[2] Cutting a mini-batch alters neither the loss nor the gradient.
[3] R_TA, P_TI, the reference term and the mask each change the gradient.
[4] Padding rows change nothing.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from slow import slow_except
from stapo.algo import (
    AlgorithmConfig,
    LossDenominators,
    OutlierConfig,
    SelectiveConfig,
    base_loss,
    compute_advantages,
    flagged_scores,
    get_algorithm,
    score_tokens,
    select_outliers,
    selective_divisor,
    selective_loss,
    selective_terms,
    step_entropy,
    unflatten_tokens,
)

V, H, L = 23, 8, 5


class Policy(nn.Module):
    """Maps a prompt id and the tokens so far to hidden states; stands for a language model."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.prompt = nn.Parameter(torch.randn(40, H, generator=g))
        self.token = nn.Parameter(torch.randn(V, H, generator=g))
        self.head = nn.Parameter(torch.randn(V, H, generator=g))

    def forward(self, prompt_b: torch.Tensor, response_bl: torch.Tensor) -> torch.Tensor:
        shifted = torch.nn.functional.pad(response_bl[:, :-1], (1, 0))
        before = torch.cumsum(self.token[shifted], dim=1) / L
        return torch.tanh(self.prompt[prompt_b][:, None] + before)


class Rows:
    """A rollout batch with everything an update reads, scored by `old`."""

    def __init__(self, batch, old: Policy, config: AlgorithmConfig) -> None:
        g = torch.Generator().manual_seed(1)
        n = batch.n
        self.prompt = torch.randint(20, (n,), generator=g)
        self.blind = self.prompt + 20
        self.response = torch.randint(V, (n, L), generator=g)
        length = torch.randint(1, L + 1, (n, 1), generator=g)
        self.mask = (torch.arange(L) < length).long() * torch.tensor(batch.weight > 0)[:, None]
        self.traj = torch.tensor(batch.traj)
        with torch.no_grad():
            states = old(self.prompt, self.response)
            logp, entropy = score_tokens(states.reshape(-1, H), old.head, self.response.reshape(-1))
        self.old_logp = logp.reshape(n, L)
        mean, count = step_entropy(entropy.reshape(n, L).numpy(), self.mask.numpy())
        self.outliers = select_outliers(mean, batch.anchor, count, config.outlier)
        adv = compute_advantages(
            batch.reward,
            batch.valid,
            batch.group,
            batch.traj,
            batch.step,
            batch.anchor,
            batch.weight,
            config.advantage,
        )
        self.advantage = torch.tensor(adv.total_b)
        self.flag = torch.tensor(self.outliers.mask_b)


def loss_of(policy, reference, rows: Rows, config: AlgorithmConfig, index, whole):
    """This micro-batch's share of L = L_base + L_sel."""
    response, mask = rows.response[index], rows.mask[index]
    states = policy(rows.prompt[index], response)
    logp, _ = score_tokens(states.reshape(-1, H), policy.head, response.reshape(-1))
    with torch.no_grad():
        ref_states = reference(rows.prompt[index], response)
        ref, _ = score_tokens(ref_states.reshape(-1, H), reference.head, response.reshape(-1))
    base = base_loss(
        logp.reshape(mask.shape),
        rows.old_logp[index],
        rows.advantage[index],
        mask,
        config.loss,
        whole.take(index),
        ref_logp_bl=ref.reshape(mask.shape),
    )
    # Zero weights take the whole path here, although a trainer would skip it (`selective_on`).
    if config.outlier.select == "none":
        return base.loss
    k = torch.nonzero(rows.flag[index])[:, 0]
    m = mask[k].bool()
    blind = policy(rows.blind[index][k], response[k])
    with torch.no_grad():
        blind_ref = reference(rows.blind[index][k], response[k])
    s = flagged_scores(
        states[k][m],
        blind[m],
        policy.head,
        response[k][m],
        hidden_r_nh=blind_ref[m],
        weight_r_vh=reference.head,
        ta_grad=config.selective.ta_grad,
    )
    terms = selective_terms(
        m,
        config.selective,
        logp_kl=unflatten_tokens(s.logp_n, m),
        logq_kl=unflatten_tokens(s.logq_n, m),
        logr_kl=unflatten_tokens(s.logr_n, m),
        kl_pq_kl=unflatten_tokens(s.kl_pq_n, m),
        kl_qr_kl=unflatten_tokens(s.kl_qr_n, m),
    )
    z = selective_divisor(config.selective, flagged=float(rows.flag.sum()), rows=whole.rows)
    return base.loss + selective_loss(terms.r_ta_k, terms.p_ti_k, config.selective, z)


def train(batch, config, *, cuts=1, updates=1, lr=0.0):
    """Run some updates and return losses, the last gradient, and the weights."""
    policy, reference = Policy(0), Policy(9)
    rows = Rows(batch, policy, config)
    whole = LossDenominators.of(rows.mask, rows.traj)
    optimizer = torch.optim.SGD(policy.parameters(), lr=lr)
    losses = []
    for _ in range(updates):
        optimizer.zero_grad()
        shares = []
        for index in torch.arange(batch.n).chunk(cuts):
            share = loss_of(policy, reference, rows, config, index, whole)
            share.backward()
            shares.append(share.item())
        optimizer.step()
        losses.append(sum(shares))
    grad = torch.cat([p.grad.flatten() for p in policy.parameters()])
    weights = torch.cat([p.detach().flatten() for p in policy.parameters()])
    return losses, grad, weights, rows


def stapo(**selective) -> AlgorithmConfig:
    return dataclasses.replace(
        get_algorithm("stapo"),
        outlier=OutlierConfig(lam=0.2),
        selective=SelectiveConfig(**{"alpha": 0.1, "gamma": 0.1, **selective}),
    )


def test_1_zero_weights_are_gigpo_bit_for_bit(batch):
    zero = stapo(alpha=0.0, gamma=0.0)
    assert not zero.selective_on
    losses, grad, weights, rows = train(batch, zero, updates=4, lr=0.5)
    assert rows.flag.any()
    g_losses, g_grad, g_weights, _ = train(batch, get_algorithm("gigpo"), updates=4, lr=0.5)
    assert losses == g_losses
    assert torch.equal(grad, g_grad)
    assert torch.equal(weights, g_weights)


def test_1_no_flagged_row_is_gigpo_bit_for_bit(batch):
    config = dataclasses.replace(stapo(), outlier=OutlierConfig(lam=1e6))
    assert config.selective_on
    losses, grad, _, rows = train(batch, config, updates=2, lr=0.5)
    assert not rows.flag.any()
    g_losses, g_grad, _, _ = train(batch, get_algorithm("gigpo"), updates=2, lr=0.5)
    assert losses == g_losses
    assert torch.equal(grad, g_grad)


@pytest.mark.parametrize("name", ["token", "step", "trajectory", "sequence-sum-norm"])
@pytest.mark.parametrize("estimator", ["full", "k3", "k2k1"])
@pytest.mark.parametrize("norm", slow_except(["flagged", "all"], "flagged"))
def test_2_cutting_the_mini_batch_changes_nothing(batch, name, estimator, norm):
    config = stapo(kl_estimator=estimator, norm=norm)
    loss = dataclasses.replace(config.loss, aggregation=name, constant_length=L)
    config = dataclasses.replace(config, loss=loss)
    (whole,), grad, _, rows = train(batch, config)
    assert rows.flag.any()
    for cuts in (2, 7):
        (total,), cut_grad, _, _ = train(batch, config, cuts=cuts)
        assert total == pytest.approx(whole, abs=2e-6)
        torch.testing.assert_close(cut_grad, grad, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "changed",
    [
        stapo(alpha=0.0),
        stapo(gamma=0.0),
        stapo(norm="all"),
        stapo(ta_grad="full_only"),
        stapo(ta_grad="blind_only"),
        stapo(kl_estimator="k3"),
        stapo(token_aggregation="sum"),
        dataclasses.replace(stapo(), outlier=OutlierConfig(select="all")),
        dataclasses.replace(stapo(), loss=dataclasses.replace(stapo().loss, beta=0.0)),
    ],
)
def test_3_each_term_changes_the_gradient(batch, changed):
    base, other = train(batch, stapo())[1], train(batch, changed)[1]
    assert (base - other).abs().max() > 1e-5


def test_4_padding_rows_change_nothing(batch):
    config = stapo()
    (loss,), _, _, rows = train(batch, config)
    keep = torch.cat([torch.arange(batch.n), torch.arange(3)])
    for key in ("prompt", "blind", "response", "traj", "old_logp", "mask", "advantage", "flag"):
        setattr(rows, key, getattr(rows, key)[keep])
    rows.mask[-3:] = 0
    rows.advantage[-3:] = 0
    rows.flag[-3:] = False
    whole = LossDenominators.of(rows.mask, rows.traj)
    total = loss_of(Policy(0), Policy(9), rows, config, torch.arange(batch.n + 3), whole)
    assert total.item() == pytest.approx(loss, abs=1e-6)
