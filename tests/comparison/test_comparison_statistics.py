"""Means, standard deviations and paired differences: numbers worked by hand, and coverage on simulated experiments."""

from __future__ import annotations

import numpy as np
import pytest

from stapo.comparison.statistics import Pairs, mean_std, pair, paired_difference


def pairs(sums, episodes=None):
    sums = np.array(sums, dtype=float)
    return Pairs(sums, np.ones(len(sums)) if episodes is None else np.array(episodes, dtype=float))


def test_mean_and_standard_deviation():
    found = mean_std([0.2, 0.4, 0.9])
    # mean 0.5; squares of the deviations 0.09 + 0.01 + 0.16 = 0.26, over n - 1 = 2
    assert (found.mean, found.sd, found.n) == (pytest.approx(0.5), pytest.approx(0.13**0.5), 3)
    assert mean_std([0.7]).sd is None
    with pytest.raises(ValueError):
        mean_std([])


def test_episodes_are_paired_by_task():
    found = pair(["a", "b", "a", "c"], [1, 0, 1, 1], [0, 0, 1, 0])
    # a: (1 - 0) + (1 - 1) = 1 in 2 episodes; b: 0 in 1; c: 1 in 1
    assert found.sum_k.tolist() == [1, 0, 1]
    assert found.episodes_k.tolist() == [2, 1, 1]
    assert found.mean == 0.5
    with pytest.raises(ValueError, match="found 1 tasks, 2 and 1 outcomes"):
        pair(["a"], [1, 0], [1])
    with pytest.raises(ValueError):
        pair([], [], [])


def test_mean_is_over_seeds_not_over_episodes():
    """A seed with fewer episodes counts as much as one with more."""
    found = paired_difference([pairs([1, 1]), pairs([0, 0, 0, 0])], resamples=50)
    assert (found.mean, found.by_seed, found.pairs) == (0.5, (1.0, 0.0), 6)
    assert found.sd == pytest.approx(0.5**0.5)


def test_interval_over_seeds_alone():
    """Tasks that are all alike leave the seeds: two seeds at 0 and 1 give means 0, 1/2, 1 with 1/4, 1/2, 1/4."""
    found = paired_difference([pairs([0] * 3), pairs([1] * 3)], level=0.4)
    # quantiles at 0.3 and 0.7 fall into the middle value
    assert (found.low, found.high) == (0.5, 0.5)
    wide = paired_difference([pairs([0] * 3), pairs([1] * 3)], level=0.6)
    # quantiles at 0.2 and 0.8 fall into the outer ones
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_interval_over_tasks_alone():
    """One seed, two tasks with differences -1 and 1: means -1, 0, 1 with 1/4, 1/2, 1/4."""
    found = paired_difference([pairs([-1, 1])], level=0.4)
    assert (found.low, found.high, found.mean, found.sd) == (0.0, 0.0, 0.0, None)
    wide = paired_difference([pairs([-1, 1])], level=0.6)
    assert (wide.low, wide.high) == (-1.0, 1.0)


def test_a_task_stays_whole():
    """A task with three episodes is drawn with all of them: the mean weighs it by them."""
    found = paired_difference([pairs([3, 0], [3, 1])], level=0.4)
    # draws: both tasks 3/4 (half of the time), the first twice 1, the second twice 0
    assert (found.low, found.high) == (0.75, 0.75)


def test_no_difference_has_no_width():
    found = paired_difference([pairs([0] * 5)] * 3)
    assert (found.mean, found.sd, found.low, found.high) == (0.0, 0.0, 0.0, 0.0)


def test_chunks_do_not_matter(monkeypatch):
    from stapo.comparison import statistics

    seeds = [pairs([1, 0, -1, 1]), pairs([0, 0, 1, 1])]
    whole = paired_difference(seeds, resamples=300)
    monkeypatch.setattr(statistics, "_CHUNK", 7)
    assert paired_difference(seeds, resamples=300) == whole


def test_same_arguments_same_interval_and_swapped_sides_mirror_it():
    tasks, rng = [f"t{i}" for i in range(40)], np.random.default_rng(3)
    one, two = rng.integers(0, 2, (2, 40))
    found = paired_difference([pair(tasks, one, two)])
    assert found == paired_difference([pair(tasks, one, two)])
    back = paired_difference([pair(tasks, two, one)])
    assert (back.mean, back.low, back.high) == (pytest.approx(-found.mean), -found.high, -found.low)


def test_coverage():
    """Ten seeds whose true differences scatter around 0.1, 80 tasks: about 95 of 100 intervals hold 0.1.

    The band is that of 300 experiments at 0.95 with three standard errors below, and a bootstrap of ten seeds is known
    to be a little narrow; tasks are drawn inside seeds on top, which makes it wider again.
    """
    rng = np.random.default_rng(11)
    held = 0
    for number in range(300):
        seeds = []
        for effect in rng.normal(0.1, 0.08, 10):
            hard = rng.uniform(0.2, 0.7, 80)
            one = rng.random(80) < np.clip(hard + effect, 0, 1)
            two = rng.random(80) < hard
            seeds.append(pair(list(range(80)), one, two))
        found = paired_difference(seeds, resamples=400, seed=number)
        held += found.low <= 0.1 <= found.high
    assert 0.91 <= held / 300 <= 1.0
    assert held < 300
