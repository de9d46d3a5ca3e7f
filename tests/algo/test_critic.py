"""Advantages from values, and the loss of the values themselves.

1. Generalized advantage estimation by hand, for several discounts; its two limits.
2. Trajectories do not see each other, order and padding do not matter.
3. What an invalid action costs, and what whitening does.
4. The clipped value loss by hand; cut into parts it is the same.
5. How much of the returns is explained.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stapo.algo import (
    AdvantageConfig,
    CriticConfig,
    compute_advantages,
    explained_variance,
    gae_advantages,
    step_returns,
    value_loss,
)
from stapo.errors import ConfigError, NonFiniteError

REWARD, VALUE = np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.4, 0.2])
ONE, STEPS = np.zeros(3, int), np.arange(3)
CRITIC = CriticConfig()
PLAIN = AdvantageConfig(episode="gae", step_advantage=False, invalid_penalty=0.0)


def gae(discount=1.0, lam=1.0, reward=REWARD, value=VALUE, traj=ONE, step=STEPS, weight=None):
    return gae_advantages(reward, value, traj, step, discount, lam, weight_b=weight)


def advantages(config=PLAIN, critic=CRITIC, valid=(True,) * 3, reward=REWARD, value=VALUE, traj=ONE, step=STEPS):
    n = len(reward)
    return compute_advantages(
        reward,
        np.asarray(valid),
        np.zeros(n, int),
        traj,
        step,
        np.arange(n),
        None,
        config,
        critic=critic,
        value_b=value,
    )


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_by_hand():
    # deltas: 0 + .4 - .5, 0 + .2 - .4, 1 - .2
    assert gae(lam=0.0) == pytest.approx([-0.1, -0.2, 0.8])
    # .8; -.2 + .8; -.1 + .6: the return of 1, minus the value
    assert gae() == pytest.approx([0.5, 0.6, 0.8])
    # deltas at discount .9: 0 + .36 - .5, 0 + .18 - .4, .8; each carried back by .9 * .5 = .45
    # -.22 + .45 * .8 = .14; -.14 + .45 * .14 = -.077
    assert gae(0.9, 0.5) == pytest.approx([-0.077, 0.14, 0.8])


def test_without_a_discount_and_with_lambda_1_it_is_return_minus_value():
    rng = np.random.default_rng(0)
    traj = np.repeat(np.arange(5), [1, 4, 7, 2, 6])
    step = np.concatenate([np.arange(n) for n in (1, 4, 7, 2, 6)])
    reward, value = rng.normal(size=20), rng.normal(size=20)
    found = gae(reward=reward, value=value, traj=traj, step=step)
    assert found == pytest.approx(step_returns(reward, traj, step, 1.0) - value)


def test_against_the_recursion():
    rng = np.random.default_rng(1)
    reward, value = rng.normal(size=9), rng.normal(size=9)
    expected, ahead, after = np.zeros(9), 0.0, 0.0
    for t in reversed(range(9)):
        ahead = reward[t] + 0.97 * after - value[t] + 0.97 * 0.8 * ahead
        expected[t], after = ahead, value[t]
    found = gae(0.97, 0.8, reward, value, np.zeros(9, int), np.arange(9))
    assert found == pytest.approx(expected)


def test_a_value_that_is_right_leaves_nothing():
    """Values that are the returns: no step is a surprise, whatever lambda is."""
    value = step_returns(REWARD, ONE, STEPS, 0.9)
    for lam in (0.0, 0.3, 1.0):
        assert gae(0.9, lam, value=value) == pytest.approx([0, 0, 0])


def test_one_step():
    assert gae(0.5, 0.5, [2.0], [0.5], [0], [0]) == pytest.approx([1.5])


def test_no_rows():
    assert gae(reward=[], value=[], traj=[], step=[]).shape == (0,)


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_trajectories_are_apart_and_order_does_not_matter():
    reward, value = np.tile(REWARD, 2) * [1, 1, 1, 3, 3, 3], np.tile(VALUE, 2)
    traj, step = np.repeat([0, 1], 3), np.tile(STEPS, 2)
    expected = np.concatenate([gae(0.9, 0.5), gae(0.9, 0.5, REWARD * 3)])
    assert gae(0.9, 0.5, reward, value, traj, step) == pytest.approx(expected)
    order = np.array([5, 0, 3, 1, 4, 2])
    shuffled = gae(0.9, 0.5, reward[order], value[order], traj[order], step[order])
    assert shuffled == pytest.approx(expected[order])


def test_padding_does_not_count_whatever_it_holds():
    found = gae(0.9, 0.5, [*REWARD, np.nan], [*VALUE, np.inf], [0, 0, 0, 0], [0, 1, 2, 3], np.array([1, 1, 1, 0]))
    assert found == pytest.approx([-0.077, 0.14, 0.8, 0.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named(bad):
    with pytest.raises(NonFiniteError, match=r"value_b holds .* at row 1"):
        gae(value=[0.0, bad, 0.0])


def test_a_step_twice_and_unequal_lengths_are_mistakes():
    with pytest.raises(ValueError, match="repeats step 1"):
        gae(step=[0, 1, 1])
    with pytest.raises(ValueError, match="value_b has shape"):
        gae(value=[0.0])


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_targets_and_whitened_advantages_by_hand():
    found = advantages()
    assert found.value_target_b == pytest.approx([1, 1, 1])
    # [.5, .6, .8]: mean .6333, sample spread .15275
    assert found.total_b == pytest.approx([-0.8729, -0.2182, 1.0911], abs=1e-4)
    assert found.total_b.sum() == pytest.approx(0, abs=1e-6)
    raw = advantages(critic=CriticConfig(whiten=False))
    assert raw.total_b == pytest.approx([0.5, 0.6, 0.8])
    assert raw.episode_b == pytest.approx(raw.total_b)
    assert not raw.step_b.any()
    discounted = advantages(critic=CriticConfig(whiten=False, discount=0.9, lam=0.5))
    assert discounted.value_target_b == pytest.approx([0.423, 0.54, 1.0])


def test_an_invalid_action_pays_in_its_own_row():
    raw = CriticConfig(whiten=False)
    in_return = AdvantageConfig(episode="gae", step_advantage=False, invalid_penalty=0.1)
    found = advantages(in_return, raw, (True, False, True))
    assert found.total_b == pytest.approx([0.5, 0.5, 0.8])
    assert found.value_target_b == pytest.approx([1.0, 0.9, 1.0])
    flat = AdvantageConfig(episode="gae", step_advantage=False, invalid_penalty=0.1, invalid_penalty_on="advantage")
    found = advantages(flat, CriticConfig(), (True, False, True))
    assert found.total_b == pytest.approx([-0.8729, -0.3182, 1.0911], abs=1e-4)
    assert found.value_target_b == pytest.approx([1, 1, 1])


def test_the_step_advantage_can_be_added():
    config = AdvantageConfig(episode="gae", invalid_penalty=0.0, omega=2.0, discount=1.0)
    reward, value = np.array([1.0, 0.0]), np.zeros(2)
    found = compute_advantages(
        reward, np.ones(2, bool), np.zeros(2, int), [0, 1], [0, 0], np.zeros(2, int), None, config,
        critic=CriticConfig(whiten=False), value_b=value,
    )  # fmt: skip
    assert found.step_b == pytest.approx([0.7071, -0.7071], abs=1e-4)
    assert found.total_b == pytest.approx([1 + 1.4142, -1.4142], abs=1e-4)


def test_shifted_values_do_not_matter_once_they_are_whitened():
    assert advantages(value=VALUE + 3).total_b == pytest.approx(advantages().total_b, abs=1e-4)


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_that_do_not_differ_have_advantage_0(rows):
    found = advantages(reward=np.zeros(rows), value=np.full(rows, 0.3), traj=np.arange(rows), step=np.zeros(rows, int),
                       valid=(True,) * rows)  # fmt: skip
    assert not found.total_b.any()
    assert found.value_target_b == pytest.approx(np.zeros(rows))


def test_values_are_needed():
    with pytest.raises(ValueError, match=r"value_b is None with advantage.episode 'gae'"):
        advantages(value=None)


def test_without_a_critic_there_is_no_target():
    assert advantages(AdvantageConfig(), value=None).value_target_b.tolist() == [0, 0, 0]


# -- 4 -----------------------------------------------------------------------------------------------------------------


def loss_of(value, old, target, config=CRITIC, rows=None, weight=None):
    value_b = torch.tensor(value, requires_grad=True)
    out = value_loss(
        value_b, torch.tensor(old), torch.tensor(target), config, rows or len(value),
        weight_b=None if weight is None else torch.tensor(weight),
    )  # fmt: skip
    out.loss.backward()
    return float(out.loss.detach()), int(out.clipped), value_b.grad.tolist()


def test_the_value_loss_by_hand():
    """Targets 1, old values 0, clip .2.

    .1: within the clip, error .9; .5: the clip holds, error of .2 is .8, no gradient; -.5: away from the target, its
    own error 1.5 is larger than that of -.2, and pulls back.
    """
    loss, clipped, grad = loss_of([0.1, 0.5, -0.5], [0.0] * 3, [1.0] * 3)
    assert loss == pytest.approx((0.81 + 0.64 + 2.25) / 2 / 3)
    assert clipped == 1
    assert grad == pytest.approx([-0.9 / 3, 0.0, -1.5 / 3])


def test_without_a_clip_and_with_a_factor():
    loss, clipped, grad = loss_of([0.5], [0.0], [1.0], CriticConfig(value_clip=None, value_coef=3.0))
    assert (loss, clipped) == (pytest.approx(3 * 0.25 / 2), 0)
    assert grad == pytest.approx([-1.5])


def test_parts_add_up_to_the_whole():
    value, old, target = [0.1, 0.5, -0.5, 2.0], [0.0, 0.1, 0.2, 1.9], [1.0, 0.0, 1.0, 0.5]
    whole, clipped, grad = loss_of(value, old, target)
    parts = [loss_of(value[i:j], old[i:j], target[i:j], rows=4) for i, j in ((0, 1), (1, 4))]
    assert sum(p[0] for p in parts) == pytest.approx(whole)
    assert sum(p[1] for p in parts) == clipped
    assert [g for p in parts for g in p[2]] == pytest.approx(grad)


def test_padding_has_no_part():
    plain = loss_of([0.1, 0.5], [0.0, 0.0], [1.0, 1.0])
    padded = loss_of([0.1, 0.5, 7.0], [0.0, 0.0, 0.0], [1.0, 1.0, math.nan], rows=2, weight=[1.0, 1.0, 0.0])
    assert padded[0] == pytest.approx(plain[0])
    assert padded[1] == plain[1]
    assert padded[2] == pytest.approx([*plain[2], 0.0])
    doubled = loss_of([0.1, 0.5], [0.0, 0.0], [1.0, 1.0], rows=3, weight=[2.0, 1.0])
    assert doubled[0] == pytest.approx((2 * 0.81 + 0.64) / 2 / 3)


def test_shapes_that_do_not_fit_are_mistakes():
    with pytest.raises(ValueError, match=r"shapes .* expected \(B,\)"):
        value_loss(torch.zeros(2), torch.zeros(1), torch.zeros(2), CriticConfig(), 2)
    with pytest.raises(ValueError, match="rows is 0"):
        value_loss(torch.zeros(2), torch.zeros(2), torch.zeros(2), CriticConfig(), 0)


# -- 5 -----------------------------------------------------------------------------------------------------------------


def test_explained_variance_by_hand():
    target = [0.0, 1.0, 2.0]
    assert explained_variance(target, target) == 1
    assert explained_variance([5.0, 5.0, 5.0], target) == pytest.approx(0)
    assert explained_variance([2.0, 1.0, 0.0], target) == pytest.approx(-3)  # errors [-2, 0, 2]: 4 times the variance
    assert explained_variance([1.0, 2.0, 3.0], target) == pytest.approx(1)  # a constant error explains as much
    assert explained_variance([9.0, *target], [7.0, *target], weight_b=[0, 1, 1, 1]) == 1


def test_nothing_to_explain():
    assert explained_variance([], []) is None
    assert explained_variance([0.0, 1.0], [2.0, 2.0]) is None


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("discount", 1.1), ("lam", -0.1), ("learning_rate", 0.0), ("value_clip", 0.0), ("value_coef", 0.0),
        ("warmup_iterations", -1), ("whiten", 1),
    ],
)  # fmt: skip
def test_a_bad_value_is_named(field, value):
    with pytest.raises(ConfigError, match=rf"critic\.{field} is"):
        CriticConfig(**{field: value})
