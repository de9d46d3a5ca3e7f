"""Shares, pass@k and their intervals; the numbers were worked by hand."""

from __future__ import annotations

import random

import pytest

from stapo.rollout.shares import Share, doubled, pass_at, pass_share, wilson


@pytest.mark.parametrize(
    "share, count, low, high",
    [
        # center (.8 + .19207) / 1.38415, half sqrt(.38415 * (.16 + .09604)) / 1.38415
        (0.8, 10, 0.4902, 0.9433),
        (0.5, 4, 0.1500, 0.8500),  # .5 -+ sqrt(.96036 * (.25 + .24009)) / 1.96036
        (0.0, 10, 0.0, 0.2775),  # z^2 / (n + z^2)
        (1.0, 10, 0.7225, 1.0),
    ],
)
def test_wilson(share, count, low, high):
    found = wilson(share, count)
    assert (found.value, found.low, found.high) == (share, pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize(
    "k, attempts, won, chance",
    [
        (1, 4, 1, 1 / 4),
        (2, 4, 1, 1 - 3 / 6),
        (3, 5, 2, 1 - 1 / 10),
        (4, 4, 1, 1.0),
        (2, 4, 3, 1.0),  # fewer than two are lost
        (16, 16, 0, 0.0),
        (8, 16, 1, 0.5),
    ],
)
def test_pass_at_k(k, attempts, won, chance):
    assert pass_at(k, attempts, won) == pytest.approx(chance, abs=1e-15)


def test_the_interval_counts_what_tasks_say():
    # Won or lost as a whole: the tasks are the flips.
    assert pass_share(2, [(2, 1), (2, 0), (2, 2), (2, 0)]) == wilson(0.5, 4)
    assert pass_share(1, [(4, 4), (4, 0)]) == wilson(0.5, 2)
    # Shares 0, 1, .5, .5: variance 1/6, so 4 tasks vary like .25 / (1/6 / 4) = 6 flips.
    found, expected = pass_share(1, [(4, 0), (4, 4), (4, 2), (4, 2)]), wilson(0.5, 6)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    # All alike: 16 attempts, or 8 pairs of them, and no more.
    assert pass_share(1, [(4, 2)] * 4) == wilson(0.5, 16)
    assert pass_share(2, [(4, 2)] * 4) == wilson(5 / 6, 8)
    # All or none: the tasks, for attempts at one may be alike.
    assert pass_share(1, [(4, 0)] * 3) == wilson(0.0, 3)
    assert pass_share(1, [(1, 1)]) == wilson(1.0, 1)


def test_the_interval_holds_as_often_as_it_says():
    """Tasks that are mostly easy or hard, in a world where pass@k is known: share p of a task is uniform, squared."""
    rng, truth, held = random.Random(0), {1: 1 / 3, 4: 0.0}, {1: 0, 4: 0}
    # E[1 - (1 - u^2)^4] for u uniform: 1 - (1 - 4/3 + 6/5 - 4/7 + 1/9)
    truth[4] = 4 / 3 - 6 / 5 + 4 / 7 - 1 / 9
    for _ in range(400):
        shares = [rng.random() ** 2 for _ in range(40)]
        tasks = [(8, sum(rng.random() < p for _ in range(8))) for p in shares]
        for k, share in truth.items():
            found = pass_share(k, tasks)
            held[k] += found.low <= share <= found.high
    assert all(0.92 <= count / 400 <= 0.985 for count in held.values()), held


def test_numbers_that_double():
    assert [doubled(k) for k in (1, 2, 6, 16)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8, 16]]


@pytest.mark.parametrize(
    "wrong", [lambda: pass_at(3, 2, 1), lambda: pass_at(1, 2, 3), lambda: pass_share(1, []), lambda: wilson(1.1, 3)]
)
def test_counts_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=r"expected|needs"):
        wrong()
    assert isinstance(wilson(0.5, 1), Share)
