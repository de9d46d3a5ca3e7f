"""Which tasks come: those whose groups differ are preferred, and none is lost."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from stapo.config.training import TasksConfig
from stapo.training.tasks import InformativeStream

TASKS = [f"t{i}" for i in range(8)]


def informative(**settings):
    return InformativeStream(TASKS, 0, TasksConfig(sampler="informative", **settings))


def test_tasks_whose_groups_differ_come_more_often_and_none_is_lost():
    stream, taken = informative(), Counter()
    for _ in range(300):
        found = stream.take(4)
        assert len(set(found)) == 4, "no task twice in an iteration"
        taken.update(found)
        # t0 always differs; t1 always fails, t2 always succeeds: both are equal groups; the others differ now and then.
        stream.learn((task, task == "t0" or (task not in ("t1", "t2") and taken[task] % 2 == 0)) for task in found)
    assert taken["t0"] == max(taken.values())
    assert all(50 < taken[task] < 0.7 * taken["t0"] for task in ("t1", "t2"))
    chances = stream.chances()
    assert chances.sum() == pytest.approx(1)
    assert chances.min() >= 0.2 / 8


def test_a_task_that_always_fails_does_not_stay_as_good_as_new():
    """Otherwise tasks beyond the policy would take every slot."""
    stream = informative()
    stream.learn([("t0", False)] * 3)
    assert stream.chances()[0] < stream.chances()[1]


def test_rounds_of_one_iteration_repeat_no_task_before_all_have_come():
    stream = informative()
    first, second, third = stream.take(5), stream.take(3), stream.take(2)
    assert sorted(first + second) == TASKS
    assert len(set(third)) == 2
    assert len(stream.take(20)) == 20


def test_counts_travel_with_the_position():
    one, two = informative(decay=0.5), informative(decay=0.5)
    for stream in (one, two):
        for task in stream.take(3):
            stream.learn([(task, task < "t4")])
    two = informative(decay=0.5)
    two.restore(json.loads(json.dumps(one.state())))
    assert [one.take(3) for _ in range(4)] == [two.take(3) for _ in range(4)]
