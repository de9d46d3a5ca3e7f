"""Episode credit, ratios and aggregations of the baselines, with numbers worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from stapo.algo import (
    AdvantageConfig,
    LossDenominators,
    PolicyLossConfig,
    aggregate,
    base_loss,
    batch_advantages,
    compute_advantages,
    get_algorithm,
    leave_one_out_advantages,
    policy_loss,
)
from stapo.errors import NonFiniteError

# Four attempts of one task, two steps each; rewards at the second step.
REWARD = np.array([0, 10, 0, 0, 0, 0, 0, 4.0])
TRAJ = np.repeat(np.arange(4), 2)
STEP = np.tile([0, 1], 4)
TASK = np.zeros(8, int)


def advantages(name, *, reward=REWARD, valid=None, **changes):
    config = replace(get_algorithm(name).advantage, **changes)
    valid = np.ones(8, bool) if valid is None else valid
    return compute_advantages(reward, valid, TASK, TRAJ, STEP, np.arange(8), None, config)


def gradient(logp, advantage, **settings):
    """Gradient of the mean policy loss over one row's tokens, old log-probabilities 0."""
    logp = torch.tensor([logp], requires_grad=True)
    mask = torch.ones_like(logp)
    loss = policy_loss(logp, torch.zeros_like(logp), torch.tensor([advantage]), mask, PolicyLossConfig(**settings))
    loss.loss_bl.mean().backward()
    return loss, logp.grad[0]


class TestRloo:
    def test_by_hand(self):
        # 10 - (0 + 0 + 4) / 3, 0 - (10 + 0 + 4) / 3, 4 - (10 + 0 + 0) / 3
        expected = np.repeat([26 / 3, -14 / 3, -14 / 3, 2 / 3], 2)
        assert advantages("rloo").total_b == pytest.approx(expected, abs=1e-5)

    def test_it_is_n_over_n_minus_1_times_the_centered_return(self):
        centered = advantages("dr-grpo").total_b
        assert advantages("rloo").total_b == pytest.approx(4 / 3 * centered, abs=1e-5)

    def test_a_penalty_stays_with_its_row(self):
        valid = np.ones(8, bool)
        valid[2] = False
        change = advantages("rloo", valid=valid).total_b - advantages("rloo").total_b
        assert change == pytest.approx([0, 0, -0.1, 0, 0, 0, 0, 0], abs=1e-5)

    def test_long_episodes_count_once(self):
        found = leave_one_out_advantages([0, 0, 0, 6, 2.0], [0] * 5, [0, 0, 0, 0, 1])
        assert found == pytest.approx([4, 4, 4, 4, -4])

    def test_nothing_to_compare_is_0(self):
        assert leave_one_out_advantages([1.0, 1.0], [0, 1], [0, 1]).tolist() == [0, 0]
        assert leave_one_out_advantages([3.0, 3.0], [0, 0], [0, 1]).tolist() == [0, 0]

    def test_shift_and_padding(self):
        reward, group, traj = [1.0, 5.0, 2.0], [0, 0, 0], [0, 1, 2]
        plain = leave_one_out_advantages(reward, group, traj)
        moved = leave_one_out_advantages(np.add(reward, 100.0), group, traj)
        assert moved == pytest.approx(plain, abs=1e-5)
        padded = leave_one_out_advantages([*reward, math.nan], [*group, 0], [*traj, 3], weight_b=[1, 1, 1, 0])
        assert padded == pytest.approx([*plain, 0])
        with pytest.raises(NonFiniteError, match="reward_b"):
            leave_one_out_advantages([math.nan], [0], [0])


class TestReinforcePlusPlus:
    def test_by_hand(self):
        """Returns 1, 1, 0, 0, 0: mean 0.4, spread sqrt(1.2 / 4) = 0.5477."""
        config = get_algorithm("reinforce++").advantage
        found = compute_advantages(
            [0, 1.0, 0, 0, 0], np.ones(5, bool), [0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 0, 1, 2], range(5), None,
            config,
        )  # fmt: skip
        assert found.return_b.tolist() == [1, 1, 0, 0, 0]
        assert found.total_b == pytest.approx([1.0954, 1.0954, -0.7303, -0.7303, -0.7303], abs=1e-4)

    def test_tasks_share_one_baseline(self):
        """A task that is always solved has something to learn from here, and nothing in GRPO."""
        both = {
            name: compute_advantages(
                [1.0, 1.0, 0, 0], np.ones(4, bool), [0, 0, 1, 1], range(4), [0] * 4, range(4), None,
                get_algorithm(name).advantage,
            ).total_b
            for name in ("grpo", "reinforce++")
        }  # fmt: skip
        assert both["grpo"].tolist() == [0, 0, 0, 0]
        assert both["reinforce++"] == pytest.approx([0.8660, 0.8660, -0.8660, -0.8660], abs=1e-4)

    def test_equal_returns_and_one_row_are_0(self):
        config = AdvantageConfig()
        assert batch_advantages([2.0, 2.0, 2.0], config).tolist() == [0, 0, 0]
        assert batch_advantages([2.0], config).tolist() == [0]
        assert batch_advantages([], config).tolist() == []


class TestDrGrpo:
    def test_centered_only(self):
        assert advantages("dr-grpo").total_b == pytest.approx(np.repeat([6.5, -3.5, -3.5, 0.5], 2))

    def test_tokens_are_summed_and_divided_by_a_constant(self):
        """Two and four tokens of loss 1: 6 / (8 x 2 rows)."""
        mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
        found = aggregate(torch.ones(2, 4), mask, "sequence-sum-norm", LossDenominators.of(mask), constant_length=8)
        assert float(found) == pytest.approx(0.375)

    def test_the_length_is_that_of_the_run(self):
        algorithm = get_algorithm("dr-grpo")
        assert algorithm.loss.constant_length is None
        assert algorithm.resolved(512).loss.constant_length == 512
        own = replace(algorithm, loss=replace(algorithm.loss, constant_length=64))
        assert own.resolved(512) is own
        assert get_algorithm("grpo").resolved(512) is get_algorithm("grpo")
        with pytest.raises(ValueError, match=r"loss\.constant_length.*AlgorithmConfig\.resolved"):
            aggregate(torch.ones(1, 1), torch.ones(1, 1), "sequence-sum-norm", LossDenominators.of(torch.ones(1, 1)))


class TestGspo:
    LOGP = (0.2, -0.1, 0.2)

    def test_one_ratio_per_response(self):
        """Mean log ratio 0.1, so every token carries exp(0.1) = 1.10517, and each a third of its gradient."""
        loss, grad = gradient(self.LOGP, 2.0, ratio="sequence")
        assert loss.loss_bl[0].tolist() == pytest.approx([-2 * 1.10517] * 3, abs=1e-4)
        assert grad.tolist() == pytest.approx([-2 * 1.10517 / 3] * 3, abs=1e-4)
        assert float(loss.stats["ratio"]) == pytest.approx(3 * 1.10517, abs=1e-4)

    def test_the_whole_response_is_clipped(self):
        settings = {k: getattr(get_algorithm("gspo").loss, k) for k in ("ratio", "clip_low", "clip_high")}
        assert settings == {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4}
        loss, grad = gradient(self.LOGP, 1.0, **settings)
        assert loss.loss_bl[0].tolist() == pytest.approx([-1.0004] * 3)
        assert grad.tolist() == [0, 0, 0]
        assert int(loss.stats["clip_high"]) == 3
        # A token's own ratio is out of range, that of the response is not: nothing is clipped.
        loss, grad = gradient((0.3, -0.3), 1.0, **settings)
        assert grad.tolist() == pytest.approx([-0.5, -0.5])

    def test_tokens_outside_the_mask_do_not_count(self):
        logp = torch.tensor([[0.2, -0.1, 0.2, 9.0]])
        mask = torch.tensor([[1, 1, 1, 0]])
        config = PolicyLossConfig(ratio="sequence")
        loss = policy_loss(logp, torch.zeros_like(logp), torch.tensor([2.0]), mask, config)
        assert loss.loss_bl[0].tolist() == pytest.approx([-2 * 1.10517] * 3 + [0], abs=1e-4)

    def test_at_the_old_policy_it_is_grpo(self):
        logp, mask = torch.randn(3, 5).requires_grad_(), torch.ones(3, 5)
        mask[1, 3:] = 0
        grads = []
        for ratio in ("token", "sequence"):
            out = base_loss(
                logp, logp.detach(), torch.tensor([1.0, -2.0, 0.5]), mask,
                PolicyLossConfig(ratio=ratio, beta=0.0), LossDenominators.of(mask),
            )  # fmt: skip
            grads.append(torch.autograd.grad(out.loss, logp)[0])
        torch.testing.assert_close(grads[0], grads[1])

    def test_a_row_without_tokens_adds_nothing(self):
        logp = torch.zeros(1, 2, requires_grad=True)
        mask = torch.zeros(1, 2)
        loss = policy_loss(logp, logp.detach(), torch.tensor([1.0]), mask, PolicyLossConfig(ratio="sequence"))
        loss.loss_bl.sum().backward()
        assert logp.grad.tolist() == [[0, 0]]


@pytest.mark.parametrize("name", ["dr-grpo", "gspo"])
def test_the_cut_into_micro_batches_changes_nothing(name):
    """Shares of the loss, and their gradients, add up to those of the mini-batch."""
    config = replace(get_algorithm(name).resolved(9).loss, clip_low=0.2, clip_high=0.2)
    generator = torch.Generator().manual_seed(0)
    logp = torch.randn(6, 5, generator=generator, dtype=torch.float64).requires_grad_()
    old = logp.detach() + 0.3 * torch.randn(6, 5, generator=generator)
    mask = (torch.arange(5) < torch.tensor([5, 3, 1, 4, 2, 5])[:, None]).long()
    advantage, divisors = torch.randn(6, generator=generator), LossDenominators.of(mask)

    def share(rows):
        ref = torch.zeros_like(old[rows])
        return base_loss(
            logp[rows], old[rows], advantage[rows], mask[rows], config, divisors.take(rows), ref_logp_bl=ref
        ).loss

    whole = share(slice(0, 6))
    parts = share(slice(0, 1)) + share(slice(1, 4)) + share(slice(4, 6))
    torch.testing.assert_close(parts, whole)
    one, two = (torch.autograd.grad(loss, logp)[0] for loss in (whole, parts))
    assert one.abs().sum() > 0
    torch.testing.assert_close(one, two)
