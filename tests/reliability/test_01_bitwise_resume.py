"""1. Bitwise resume: a run that is cut off after any of its saves and gone on with equals one that was not.

Equal are parameters, optimizer, random states, metrics, evaluations and the text of every rollout; for each way through
the trainer and each environment, and in a soak for each algorithm in each environment; and for each kind of weights,
all or adapters, float32 or half. The cut is made by putting the folder back to what it was right after a save.
"""

from __future__ import annotations

import shutil

import pytest
from reliable import WEIGHTS, assert_same, cases, contents, copying, run, settings, train, weight_cases, write_settings

from stapo.run import RunDirectory


@pytest.mark.parametrize("environment, algorithm", cases())
def test_every_save_leads_to_the_same_end(tmp_path, environment, algorithm):
    cut_off_and_gone_on_with(tmp_path, settings(environment, algorithm), every=1 if algorithm == "stapo" else 5)


@pytest.mark.parametrize("algorithm, kind", weight_cases())
def test_whatever_weights_are_trained(tmp_path, algorithm, kind):
    cut_off_and_gone_on_with(tmp_path, settings("alfworld", algorithm, **WEIGHTS[kind]), every=5)


def cut_off_and_gone_on_with(tmp_path, data, every):
    """Of the saves every one, or from the third on each `every`th."""
    source = write_settings(tmp_path, data)
    (tmp_path / "copies").mkdir()
    log = tmp_path / "log"
    argv = ["train", str(source), "--quiet", "--out", str(tmp_path / "whole")]
    assert run(argv, log, lambda: copying(tmp_path)) == 0, log.read_text()
    expected = contents(RunDirectory(tmp_path / "whole"))
    copies = sorted((tmp_path / "copies").iterdir())
    # Warm start, start, evaluations, iterations: all of them for one algorithm, some for the others.
    assert len(copies) >= 9
    for copy in copies if every == 1 else copies[2::every]:
        assert run(["resume", str(copy), "--quiet"], log) == 0, log.read_text()
        assert_same(expected, contents(RunDirectory(copy)))
        shutil.rmtree(copy)


def test_the_comparison_sees_a_difference(tmp_path):
    one, two = (
        contents(train(tmp_path, settings(seed=seed, optim__iterations=1), name=f"seed-{seed}")) for seed in (1, 2)
    )
    assert one.keys() == two.keys()
    same = {key for key in one if one[key] == two[key]}
    assert same <= {"failures", "status"}
