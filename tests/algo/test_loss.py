"""Base loss: each aggregation by hand, clips by hand, gradients, micro-batches."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from stapo.algo import LossDenominators, PolicyLossConfig, aggregate, base_loss, k3, policy_loss
from stapo.algo.loss import mean_stats

AGGREGATIONS = ["token", "step", "trajectory", "sequence-sum-norm"]


def config(**more) -> PolicyLossConfig:
    return PolicyLossConfig(**{"beta": 0.0, "constant_length": 4, **more})


class TestAggregate:
    """Rows with token sums 3 (2 tokens), 10 (4), 5 (1); rows 0 and 1 are one trajectory."""

    values = torch.tensor([[1.0, 2, 99, 99], [1, 2, 3, 4], [5, 99, 99, math.nan]])
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    traj = torch.tensor([7, 7, 9])

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("token", 18 / 7),
            ("step", (1.5 + 2.5 + 5) / 3),
            ("trajectory", ((1.5 + 2.5) / 2 + 5) / 2),
            ("sequence-sum-norm", 18 / 4 / 3),
        ],
    )
    def test_by_hand(self, name, expected):
        d = LossDenominators.of(self.mask, self.traj)
        assert (d.tokens, d.rows, d.trajectories) == (7, 3, 2)
        assert d.traj_steps_b is not None
        assert d.traj_steps_b.tolist() == [2, 2, 1]
        got = aggregate(self.values, self.mask, name, d, constant_length=4)
        assert got.item() == pytest.approx(expected)

    @pytest.mark.parametrize("name", AGGREGATIONS)
    def test_padding_rows_change_nothing(self, name):
        values = torch.cat([self.values, torch.full((2, 4), math.nan)])
        mask = torch.cat([self.mask, torch.zeros(2, 4, dtype=torch.long)])
        traj = torch.cat([self.traj, torch.tensor([7, 11])])
        padded, plain = (
            aggregate(v, m, name, LossDenominators.of(m, t), constant_length=4)
            for v, m, t in ((values, mask, traj), (self.values, self.mask, self.traj))
        )
        assert padded.item() == pytest.approx(plain.item())

    @pytest.mark.parametrize("name", AGGREGATIONS)
    def test_shares_of_micro_batches_add_up(self, name):
        d = LossDenominators.of(self.mask, self.traj)
        whole = aggregate(self.values, self.mask, name, d, constant_length=4)
        parts = [
            aggregate(self.values[i], self.mask[i], name, d.take(i), constant_length=4)
            for i in (torch.tensor([2, 0]), slice(1, 2))
        ]
        assert sum(p.item() for p in parts) == pytest.approx(whole.item())

    @pytest.mark.parametrize("name", AGGREGATIONS)
    def test_shares_of_ranks_add_up_with_global_totals(self, name):
        whole = LossDenominators.of(self.mask, self.traj)
        ranks = [slice(0, 2), slice(2, 3)]
        total = 0.0
        for r in ranks:
            mine = dataclasses.replace(
                LossDenominators.of(self.mask[r], self.traj[r]),
                tokens=whole.tokens,
                rows=whole.rows,
                trajectories=whole.trajectories,
            )
            total += aggregate(self.values[r], self.mask[r], name, mine, constant_length=4).item()
        expected = aggregate(self.values, self.mask, name, whole, constant_length=4)
        assert total == pytest.approx(expected.item())

    @pytest.mark.parametrize("name", AGGREGATIONS)
    def test_all_padding_is_zero_with_finite_gradients(self, name):
        values = torch.full((2, 3), math.nan, requires_grad=True)
        mask = torch.zeros(2, 3)
        d = LossDenominators.of(mask, torch.tensor([0, 1]))
        out = aggregate(values, mask, name, d, constant_length=4)
        out.backward()
        assert out.item() == 0
        assert values.grad is not None
        assert not values.grad.any()

    def test_no_rows(self):
        empty = torch.zeros(0, 3)
        d = LossDenominators.of(empty, torch.zeros(0, dtype=torch.long))
        assert aggregate(empty, empty, "trajectory", d).item() == 0

    def test_missing_divisors_are_named(self):
        d = LossDenominators.of(self.mask)
        with pytest.raises(ValueError, match=r"traj_steps_b is None for 3 rows"):
            aggregate(self.values, self.mask, "trajectory", d)
        with_traj = LossDenominators.of(self.mask, self.traj)
        with pytest.raises(ValueError, match=r"take\(\)"):
            aggregate(self.values[:1], self.mask[:1], "trajectory", with_traj)
        with pytest.raises(ValueError, match="constant_length is None"):
            aggregate(self.values, self.mask, "sequence-sum-norm", d)
        with pytest.raises(ValueError, match="expected token, step"):
            aggregate(self.values, self.mask, "mean", d)
        with pytest.raises(ValueError, match="values_bl has shape"):
            aggregate(self.values, self.mask[:1], "token", d)


class TestPolicyLoss:
    @pytest.mark.parametrize(
        ("ratio", "advantage", "loss", "slope", "counted"),
        [
            (1.0, 2.0, -2.0, -2.0, None),
            (1.1, 2.0, -2.2, -2.2, None),
            (1.5, 2.0, -2.4, 0.0, "clip_high"),  # clipped at 1.2
            (0.5, 2.0, -1.0, -1.0, None),  # a good action made rarer is not clipped
            (0.5, -2.0, 1.6, 0.0, "clip_low"),  # clipped at 0.8
            (1.5, -2.0, 3.0, 3.0, None),
            (4.0, -2.0, 6.0, 0.0, "dual_clip"),  # bounded at 3 * 2
            (1.0, 0.0, 0.0, 0.0, None),
        ],
    )
    def test_by_hand(self, ratio, advantage, loss, slope, counted):
        logp = torch.tensor([[math.log(ratio)]], requires_grad=True)
        out = policy_loss(logp, torch.zeros(1, 1), torch.tensor([advantage]), torch.ones(1, 1), config())
        out.loss_bl.sum().backward()
        assert out.loss_bl.item() == pytest.approx(loss, rel=1e-5)
        assert logp.grad is not None
        assert logp.grad.item() == pytest.approx(slope, rel=1e-5)
        for key in ("clip_high", "clip_low", "dual_clip"):
            assert out.stats[key].item() == (key == counted)
        assert out.stats["ratio"].item() == pytest.approx(ratio, rel=1e-5)

    def test_asymmetric_clip_and_no_dual_clip(self):
        settings = config(clip_low=0.1, clip_high=0.4, dual_clip=None)
        logp = torch.tensor([[1.5], [0.5], [9.0]]).log()
        out = policy_loss(logp, torch.zeros(3, 1), torch.tensor([1.0, -1.0, -1.0]), torch.ones(3, 1), settings)
        torch.testing.assert_close(out.loss_bl[:, 0], torch.tensor([-1.4, 0.9, 9.0]))

    def test_masked_positions_may_hold_anything(self):
        logp = torch.tensor([[-1.0, math.nan], [-2.0, -math.inf]], requires_grad=True)
        mask = torch.tensor([[1, 0], [1, 0]])
        out = policy_loss(logp, logp.detach(), torch.tensor([1.0, -1.0]), mask, config())
        out.loss_bl.sum().backward()
        torch.testing.assert_close(out.loss_bl, torch.tensor([[-1.0, 0], [1.0, 0]]))
        torch.testing.assert_close(logp.grad, torch.tensor([[-1.0, 0], [1.0, 0]]))
        assert out.stats["tokens"].item() == 2

    def test_log_ratios_are_clamped(self):
        logp = torch.tensor([[200.0, -200.0]], requires_grad=True)
        out = policy_loss(logp, torch.zeros(1, 2), torch.tensor([-1.0]), torch.ones(1, 2), config(dual_clip=None))
        assert out.loss_bl[0, 0].item() == pytest.approx(math.exp(20), rel=1e-5)
        assert out.stats["log_ratio_clamped"].item() == 2

    def test_one_advantage_per_token(self):
        logp = torch.zeros(1, 2)
        out = policy_loss(logp, logp, torch.tensor([[1.0, -3.0]]), torch.ones(1, 2), config())
        torch.testing.assert_close(out.loss_bl, torch.tensor([[-1.0, 3.0]]))

    def test_at_the_old_policy_the_gradient_is_minus_advantage(self):
        torch.manual_seed(0)
        logp = torch.randn(3, 4, requires_grad=True)
        advantage = torch.tensor([1.0, -2.0, 0.5])
        out = policy_loss(logp, logp.detach(), advantage, torch.ones(3, 4), config())
        out.loss_bl.sum().backward()
        torch.testing.assert_close(logp.grad, -advantage[:, None].expand(3, 4))

    def test_half_precision_inputs_are_computed_in_fp32(self):
        logp = torch.randn(2, 3).bfloat16()
        out = policy_loss(logp, logp, torch.ones(2), torch.ones(2, 3), config())
        assert out.loss_bl.dtype == torch.float32


class TestK3:
    def test_by_hand(self):
        got = k3(torch.tensor([0.0, -1.0]), torch.tensor([0.0, -2.0]))
        torch.testing.assert_close(got, torch.tensor([0.0, math.exp(-1)]))

    def test_clamp_and_cap(self):
        p, r = torch.tensor([-50.0], requires_grad=True), torch.tensor([0.0])
        assert k3(p, r).item() == pytest.approx(math.exp(20) - 21, rel=1e-5)
        capped = k3(p, r, cap=10.0)
        capped.sum().backward()
        assert capped.item() == 10
        assert p.grad is not None
        assert p.grad.item() == 0

    def test_small_differences_keep_their_digits(self):
        got = k3(torch.tensor([-1.0]), torch.tensor([-1.001]))
        assert got.item() == pytest.approx(5e-7, rel=0.05)


def arrays(rows=6, length=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    mask = (torch.rand(rows, length, generator=g) < 0.8).long()
    mask[:, 0] = 1
    logp = -torch.rand(rows, length, generator=g) * 3
    return {
        "logp_bl": logp,
        "old_logp_bl": logp + 0.3 * torch.randn(rows, length, generator=g),
        "advantage_b": torch.randn(rows, generator=g),
        "mask_bl": mask,
        "ref_logp_bl": logp + 0.5 * torch.randn(rows, length, generator=g),
        "entropy_bl": torch.rand(rows, length, generator=g),
    }


def run_base(a, settings, denominators, rows=slice(None)):
    a = {k: v[rows] for k, v in a.items()}
    return base_loss(config=settings, denominators=denominators, **a)


class TestBaseLoss:
    traj = torch.tensor([0, 0, 0, 1, 1, 2])

    @pytest.mark.parametrize("name", AGGREGATIONS)
    @pytest.mark.parametrize("cut", [[6], [1, 5], [2, 2, 2], [1] * 6])
    def test_micro_batches_give_the_same_loss_and_gradient(self, name, cut):
        settings = config(aggregation=name, beta=0.1, entropy_coef=0.05)
        results = []
        for sizes in ([6], cut):
            a = arrays()
            a["logp_bl"].requires_grad_()
            a["entropy_bl"].requires_grad_()
            d = LossDenominators.of(a["mask_bl"], self.traj)
            total, start, stats = 0.0, 0, []
            for size in sizes:
                rows = slice(start, start + size)
                out = run_base(a, settings, d.take(rows), rows)
                out.loss.backward()
                total += out.loss.item()
                stats.append(out.stats)
                start += size
            results.append((total, a["logp_bl"].grad, a["entropy_bl"].grad, mean_stats(stats)))
        (l0, g0, e0, s0), (l1, g1, e1, s1) = results
        assert l1 == pytest.approx(l0, abs=1e-6)
        torch.testing.assert_close(g1, g0, atol=1e-7, rtol=1e-5)
        torch.testing.assert_close(e1, e0, atol=1e-7, rtol=1e-5)
        assert s1 == pytest.approx(s0, abs=1e-6)

    def test_parts_add_up(self):
        a = arrays()
        settings = config(beta=0.1, entropy_coef=0.05)
        out = run_base(a, settings, LossDenominators.of(a["mask_bl"]))
        expected = out.policy + 0.1 * out.kl - 0.05 * out.entropy
        assert out.loss.item() == pytest.approx(expected.item(), rel=1e-6)
        assert out.kl.item() > 0
        assert set(out.stats) >= {"ref_kl", "entropy", "old_kl", "tokens"}

    @pytest.mark.parametrize("change", ["beta", "entropy_coef"])
    def test_each_auxiliary_term_changes_the_gradient(self, change):
        grads = []
        for settings in (config(), config(**{change: 0.1})):
            a = arrays()
            a["logp_bl"].requires_grad_()
            # Stands for an entropy that depends on the same weights.
            a["entropy_bl"] = -a["logp_bl"] * a["logp_bl"].exp()
            run_base(a, settings, LossDenominators.of(a["mask_bl"])).loss.backward()
            grads.append(a["logp_bl"].grad)
        assert (grads[0] - grads[1]).abs().max() > 1e-3

    def test_weight_zero_only_logs(self):
        a = arrays()
        out = run_base(a, config(), LossDenominators.of(a["mask_bl"]))
        assert out.loss.item() == out.policy.item()
        assert out.kl.item() > 0

    def test_masked_reference_may_hold_anything(self):
        a = arrays()
        off = a["mask_bl"] == 0
        a["logp_bl"][off] = math.nan
        a["logp_bl"].requires_grad_()
        a["ref_logp_bl"][off] = math.nan
        a["entropy_bl"][off] = math.nan
        settings = config(beta=0.1, entropy_coef=0.1)
        out = run_base(a, settings, LossDenominators.of(a["mask_bl"]))
        out.loss.backward()
        assert math.isfinite(out.loss.item())
        assert all(math.isfinite(v) for v in mean_stats([out.stats]).values())
        assert a["logp_bl"].grad.isfinite().all()

    def test_old_policy_and_reference_are_constants(self):
        a = arrays()
        for name in ("logp_bl", "old_logp_bl", "ref_logp_bl"):
            a[name].requires_grad_()
        run_base(a, config(beta=0.1), LossDenominators.of(a["mask_bl"])).loss.backward()
        assert a["logp_bl"].grad is not None
        assert a["old_logp_bl"].grad is None
        assert a["ref_logp_bl"].grad is None

    def test_the_reference_term_is_capped_per_token(self):
        a = {
            "logp_bl": torch.tensor([[-9.0, -1.0]]),
            "old_logp_bl": torch.tensor([[-9.0, -1.0]]),
            "advantage_b": torch.zeros(1),
            "mask_bl": torch.ones(1, 2),
            "ref_logp_bl": torch.tensor([[-1.0, -1.0]]),
        }
        out = run_base(a, config(beta=0.5), LossDenominators.of(a["mask_bl"]))
        assert out.loss.item() == pytest.approx(0.5 * 10 / 2)

    def test_missing_inputs_are_named(self):
        a = arrays()
        d = LossDenominators.of(a["mask_bl"])
        with pytest.raises(ValueError, match=r"ref_logp_bl is None with loss\.beta 0\.1"):
            run_base({**{k: v for k, v in a.items() if k != "ref_logp_bl"}}, config(beta=0.1), d)
        del a["entropy_bl"]
        with pytest.raises(ValueError, match="entropy_bl is None"):
            run_base(a, config(entropy_coef=0.1), d)

    def test_zero_advantages_give_a_zero_gradient(self):
        a = arrays()
        a["logp_bl"].requires_grad_()
        a["advantage_b"].zero_()
        run_base(a, config(), LossDenominators.of(a["mask_bl"])).loss.backward()
        assert not a["logp_bl"].grad.any()


def test_trajectory_weight_does_not_depend_on_its_length():
    """Under ``trajectory`` a trajectory of three steps pulls as hard as one of a single step."""
    logp = torch.zeros(4, 2, requires_grad=True)
    mask, traj = torch.ones(4, 2), torch.tensor([0, 0, 0, 1])
    settings = dataclasses.replace(config(), aggregation="trajectory")
    out = base_loss(logp, logp.detach(), torch.ones(4), mask, settings, LossDenominators.of(mask, traj))
    out.loss.backward()
    assert logp.grad is not None
    assert logp.grad[:3].sum().item() == pytest.approx(logp.grad[3].sum().item())
