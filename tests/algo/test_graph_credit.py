"""PGPO, GraphGPO, G2PO and trajectory mass, on three attempts at one task, with numbers worked by hand.

win:    a -> b -> solved, reward 8
near:   a -> b -> c, failed
far:    a -> d, failed
"""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from stapo.algo import (
    ALGORITHM_FAMILIES,
    AdvantageConfig,
    LossDenominators,
    PolicyLossConfig,
    aggregate,
    compute_advantages,
    distances_behind,
    policy_loss,
    trajectory_mass,
)
from stapo.algo.credit import CreditRows
from stapo.errors import ConfigError

A, B, C, D = range(4)
ROWS = {
    "reward_b": [0.0, 8, 0, 0, 0, 0, 0],
    "group_b": [0] * 7,
    "traj_b": [0, 0, 1, 1, 1, 2, 2],
    "step_b": [0, 1, 0, 1, 2, 0, 1],
    "anchor_b": [A, B, A, B, C, A, D],
}
METHODS = ("pgpo", "graphgpo", "g2po")
HALF = {"episode": "none", "discount": 0.5, "distance_discount": 0.5}


def advantages(config, valid_b=None, weight_b=None, success_b=None, **rows):
    rows = {**ROWS, **rows}
    valid_b = np.ones(len(rows["reward_b"]), bool) if valid_b is None else valid_b
    return compute_advantages(valid_b=valid_b, weight_b=weight_b, config=config, success_b=success_b, **rows)


def of(batch, name, **changes):
    rows = {f"{k}_b": getattr(batch, k) for k in ("reward", "valid", "group", "traj", "step", "anchor", "weight")}
    return compute_advantages(**{**rows, **changes}, config=AdvantageConfig(episode="none", step_credit=name))


# z-scores of (x, x, y) with x > y, and of two: the only ones that the groups a and b can have.
LED = np.array([1, 0, 1, 0, 0, -2, 0]) / math.sqrt(3) + np.array([0, 1, 0, -1, 0, 0, 0]) / math.sqrt(2)


def test_pgpo_by_hand():
    """Mean returns are a 4/3, b 4, c and d 0, so that "near" gains 8/3 in a where "far" loses 4/3; weight (2/3)^2."""
    won = np.array([2, 0, -1, 0, 0, -1, 0]) / math.sqrt(3) + np.array([0, 1, 0, -1, 0, 0, 0]) / math.sqrt(2)
    found = advantages(AdvantageConfig(step_credit="pgpo", **HALF)).total_b
    assert found == pytest.approx(won + 4 / 9 * LED, abs=1e-5)
    assert found[[0, 2, 5]] == pytest.approx([1.41130, -0.32075, -1.09055], abs=1e-5)
    gigpo = advantages(AdvantageConfig(**HALF)).total_b
    assert gigpo[2] == gigpo[5]


def test_pgpo_weighs_by_failures():
    for settings, weight in (
        ({"potential_weight": 3.0}, 3 * 4 / 9),
        ({"potential_power": 1.0}, 2 / 3),
        ({"potential_power": 0.0}, 1.0),
    ):
        found = advantages(AdvantageConfig(step_credit="pgpo", **HALF, **settings)).total_b
        assert found[3] == pytest.approx(-(1 + weight) / math.sqrt(2), abs=1e-5)
    solved = advantages(AdvantageConfig(step_credit="pgpo", **HALF), success_b=[True] * 7).total_b
    assert solved == pytest.approx(advantages(AdvantageConfig(**HALF)).total_b)


def test_pgpo_discounts_the_next_potential():
    """With half of it a -> b is 2 - 4/3 and a -> d -4/3: the same order, other distances."""
    centered = AdvantageConfig(step_credit="pgpo", advantage_norm="none", potential_power=0.0, **HALF)
    own = np.array([4, 8, 0, 0, 0, 0, 0]) - np.array([4 / 3, 4, 4 / 3, 4, 0, 4 / 3, 0])
    whole = np.array([4 / 3, 4, 4 / 3, -4, 0, -8 / 3, 0])
    assert advantages(centered).total_b == pytest.approx(own + whole, abs=1e-5)
    half = dataclasses.replace(centered, potential_discount=0.5)
    # In a 2/3, 2/3, -4/3 around 0; in b 4 - 4 and 0 - 4 around -2.
    assert advantages(half).total_b == pytest.approx(own + np.array([2 / 3, 2, 2 / 3, -2, 0, -4 / 3, 0]), abs=1e-5)


def test_graphgpo_by_hand():
    """From b success is 1 step away, from a 2, from c and d unknown: 3. Rewards 8 / 2^(d + 1)."""
    found = advantages(AdvantageConfig(step_credit="graphgpo", **HALF)).total_b
    assert found == pytest.approx(LED, abs=1e-5)
    centered = advantages(AdvantageConfig(step_credit="graphgpo", advantage_norm="none", **HALF)).total_b
    assert centered == pytest.approx([0.5, 1.75, 0.5, -1.75, 0, -1, 0])


def test_graphgpo_where_steps_cost_more_than_success_pays():
    """Success pays 1 and costs 9: the shorter way is the better one all the same."""
    config, success = AdvantageConfig(step_credit="graphgpo", **HALF), [True] * 2 + [False] * 5
    found = advantages(config, reward_b=[-1.0, -7, -3, -3, -3, -4, -4], success_b=success)
    assert found.total_b == pytest.approx(LED, abs=1e-5)


def test_graphgpo_knows_ways_that_nobody_took():
    """a b c d solved, a c e failed: a -> c -> d -> solved is shorter than what the winner did."""
    a, b, c, d, e = range(5)
    found = advantages(
        AdvantageConfig(step_credit="graphgpo", advantage_norm="none", **HALF),
        reward_b=[0.0, 0, 0, 8, 0, 0, 0], group_b=[0] * 7, traj_b=[0] * 4 + [1] * 3, step_b=[0, 1, 2, 3, 0, 1, 2],
        anchor_b=[a, b, c, d, a, c, e],
    ).total_b  # fmt: skip
    # The winner leaves a for b (3 away, 8 / 16), the other one for c (2 away, 8 / 8).
    assert found[[0, 4]] == pytest.approx([-0.25, 0.25])
    # From c to d (1 away, 8 / 4), and to e, which is one step behind a, the furthest (4 away, 8 / 32).
    assert found[[2, 5]] == pytest.approx([0.875, -0.875])


def test_g2po_by_hand():
    """States are worth a 2/3, b 2, c and d 0. Gains 4/3 6 4/3 -2 0 -2/3 0: mean 6/7, standard deviation 2.54484."""
    found = advantages(AdvantageConfig(step_credit="g2po", **HALF)).total_b
    gains = np.array([4 / 3, 6, 4 / 3, -2, 0, -2 / 3, 0])
    assert found == pytest.approx(LED + (gains - 6 / 7) / 2.544836, abs=1e-5)
    assert found[[1, 3, 5]] == pytest.approx([2.72801, -1.82983, -1.75348], abs=1e-5)


def test_trajectory_mass_by_hand():
    mass = trajectory_mass(ROWS["traj_b"])
    assert mass == pytest.approx([7 / 6] * 2 + [7 / 9] * 3 + [7 / 6] * 2)
    assert trajectory_mass([5, 5, 9, 9], weight_b=[1, 1, 1, 0]) == pytest.approx([0.75, 0.75, 1.5, 0])
    plain = AdvantageConfig()
    weighted = advantages(dataclasses.replace(plain, equal_mass="trajectory"))
    assert weighted.total_b == pytest.approx(advantages(plain).total_b * mass, rel=1e-6)
    assert (weighted.episode_b == advantages(plain).episode_b).all()
    assert trajectory_mass([]).shape == (0,)


def test_a_trajectory_weighs_the_same_although_mini_batches_cut_it():
    """A mean over steps with masses is the mean over trajectories; ``loss.aggregation: trajectory`` counts the pieces.

    Six rows of one failed episode and two of a solved one, in two mini-batches of four.
    """
    rng = np.random.default_rng(0)
    traj = np.array([0] * 6 + [1] * 2)
    logp, old = (torch.tensor(rng.normal(-2, 0.1, (8, 3)), dtype=torch.float32) for _ in range(2))
    mask, config = torch.ones(8, 3), PolicyLossConfig()
    advantage = torch.tensor(rng.normal(size=8), dtype=torch.float32)
    mass = torch.tensor(trajectory_mass(traj), dtype=torch.float32)

    def mean(advantage_b, name):
        loss = policy_loss(logp, old, advantage_b, mask, config).loss_bl
        total = 0.0
        for rows in (slice(0, 4), slice(4, 8)):
            divisors = LossDenominators.of(mask[rows], torch.tensor(traj[rows]))
            total += float(aggregate(loss[rows], mask[rows], name, divisors)) / 2
        return total, loss.mean(1)

    weighted, _ = mean(advantage * mass, "step")
    cut, row_loss = mean(advantage, "trajectory")
    expected = float(torch.stack([row_loss[:6].mean(), row_loss[6:].mean()]).mean())
    assert weighted == pytest.approx(expected, abs=1e-6)
    assert abs(cut - expected) > 1e-3
    with pytest.raises(ConfigError, match="twice"):
        dataclasses.replace(
            ALGORITHM_FAMILIES["credit assignment"][-1], loss=PolicyLossConfig(aggregation="trajectory")
        )


def test_the_penalty_of_an_invalid_action():
    """It takes from the row that it hits, and from no state's value."""
    valid = [True] * 5 + [False, True]
    for name in METHODS:
        config = AdvantageConfig(step_credit=name, advantage_norm="none", invalid_penalty=0.3, **HALF)
        found = advantages(config, valid_b=valid).total_b - advantages(config).total_b
        assert found == pytest.approx([0.1, 0, 0.1, 0, 0, -0.2, 0], abs=1e-6), name
    flat = dataclasses.replace(config, invalid_penalty_on="advantage")
    assert advantages(flat, valid_b=valid).total_b[5] == pytest.approx(advantages(flat).total_b[5] - 0.3, abs=1e-6)


@pytest.mark.parametrize("name", METHODS)
class TestInvariances:
    KEYS = ("reward", "valid", "group", "traj", "step", "anchor", "weight")

    def test_order_of_rows(self, batch, name):
        p = np.random.default_rng(1).permutation(batch.n)
        rows = {
            f"{k}_b": getattr(batch, k)[p] for k in ("reward", "valid", "group", "traj", "step", "anchor", "weight")
        }
        np.testing.assert_allclose(of(batch, name, **rows).total_b, of(batch, name).total_b[p], atol=3e-6)

    def test_names_of_ids(self, batch, name):
        group = np.array([f"task {g}" for g in batch.group])
        renamed = of(batch, name, group_b=group, traj_b=batch.traj * 1_000_003 - 7, anchor_b=-batch.anchor)
        np.testing.assert_allclose(renamed.total_b, of(batch, name).total_b, atol=3e-6)

    def test_padding(self, batch, name):
        rows = {f"{k}_b": np.append(getattr(batch, k), getattr(batch, k)[:5]) for k in self.KEYS}
        rows["reward_b"][-5:], rows["group_b"][-5:], rows["weight_b"][-5:] = np.nan, 99, 0
        success = np.ones(batch.n + 5, bool)
        success[: batch.n] = of(batch, name).episode_return_b > 0
        padded = of(batch, name, **rows, success_b=success)
        plain = of(batch, name, success_b=success[: batch.n])
        np.testing.assert_allclose(padded.total_b[: batch.n], plain.total_b, atol=1e-6)
        assert not padded.total_b[batch.n :].any()

    def test_tasks_do_not_touch_each_other(self, batch, name):
        first = np.flatnonzero(batch.group == 0)
        rows = {f"{k}_b": getattr(batch, k)[first] for k in self.KEYS}
        np.testing.assert_allclose(of(batch, name, **rows).total_b, of(batch, name).total_b[first], atol=1e-6)

    def test_nothing_to_compare(self, batch, name):
        config = AdvantageConfig(episode="none", step_credit=name)
        alone = advantages(config, **{k: v[:1] for k, v in ROWS.items()})
        assert alone.total_b.tolist() == [0]
        failed = advantages(config, reward_b=[0.0] * 7)
        assert not failed.total_b.any()
        assert advantages(config, **{k: [] for k in ROWS}).total_b.shape == (0,)


@pytest.mark.parametrize("seed", range(5))
def test_distances_are_those_of_a_search_from_every_state(make_batch, seed):
    b = make_batch(seed)
    success = np.array([(b.reward[b.traj == j] > 0).any() for j in b.traj])
    real = np.ones(b.n, bool)
    real[::7] = False
    rows = CreditRows(b.reward, b.reward, b.reward * 0, b.group, b.traj, b.step, b.anchor, real, success & real, None)
    last = {j: max(i for i in range(b.n) if b.traj[i] == j and real[i]) for j in set(b.traj[real].tolist())}
    edges = []
    for j, end in last.items():
        mine = [i for i in range(end + 1) if b.traj[i] == j and real[i]]
        edges += [(b.anchor[i], b.anchor[k]) for i, k in pairwise(mine)]
        if success[end]:
            edges.append((b.anchor[end], "solved"))
    distance = {"solved": 0}
    for _ in range(b.n):
        for tail, head in edges:
            if head in distance:
                distance[tail] = min(distance.get(tail, b.n), distance[head] + 1)
    found = distances_behind(rows)
    for j, end in last.items():
        mine = [i for i in range(end + 1) if b.traj[i] == j and real[i]]
        task = {b.anchor[i] for i in range(b.n) if b.group[i] == b.group[end] and real[i]}
        away = 1 + max((distance[s] for s in task if s in distance), default=0)
        for i, k in zip(mine, [*mine[1:], None], strict=True):
            expected = distance.get(b.anchor[k], away) if k is not None else (0 if success[end] else away)
            assert found[i] == expected
