"""Which tasks verl trains on: those of the embedded engine, in its order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stapo.config.presets import load_config
from stapo.errors import ConfigError
from stapo.training.factories import env_factory
from stapo.verl_plugin.dataset import training_tasks


def run_of(tasks, groups=4, iterations=6):
    config = load_config("tiny")
    return replace(
        config,
        rollout=replace(config.rollout, tasks=tasks, groups=groups),
        optim=replace(config.optim, iterations=iterations),
    )


def test_a_few_tasks_come_in_every_pass():
    found = training_tasks(run_of(tasks=8))
    assert len(found) == 24
    assert len(set(found)) == 8
    assert all(set(found[i : i + 8]) == set(found) for i in (0, 8, 16))
    assert set(found) < set(env_factory(run_of(0))().tasks_of("train"))
    assert len(set(training_tasks(run_of(tasks=0)))) == 24


def test_more_tasks_than_the_split_holds():
    with pytest.raises(ConfigError, match=r"rollout\.tasks is 1000000"):
        training_tasks(run_of(tasks=1_000_000))
