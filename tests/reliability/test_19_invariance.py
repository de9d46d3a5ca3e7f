"""19. What must not change a run does not, through the command line.

1. Two runs of one seed are identical: weights, optimizer, rows and text, byte for byte.
2. Workers, their number, and the order in which their answers come: identical.
3. Where a run was stopped: identical (tests 1 and 2 have every place).
4. How rows are cut into batches: what is said is identical; sums are added up in another order, so numbers may differ
   in their last digits, by less than 1e-4 here.

1, 2 and 4 hold for a critic and for dynamic sampling, too, whose rounds are smaller than the pool of environments.
"""

from __future__ import annotations

import math
import os
import signal
import time

import pytest
from reliable import ENVIRONMENTS, assert_same, contents, run, settings, start, train, wait, write_settings
from safetensors.torch import load_file

from slow import slow_except
from stapo.run import RunDirectory
from toy_world import toy_settings


@pytest.fixture(scope="module", params=slow_except(ENVIRONMENTS, "alfworld"))
def usual(request, tmp_path_factory):
    """The settings for one environment, and what a run of them leaves."""
    data = settings(request.param)
    return data, contents(train(tmp_path_factory.mktemp("usual"), data))


def test_one_seed_one_run(usual, tmp_path):
    assert_same(usual[1], contents(train(tmp_path, usual[0])))


@pytest.mark.parametrize("workers", slow_except([1, 2], 2))
def test_workers_change_nothing(usual, tmp_path, workers):
    assert_same(usual[1], contents(train(tmp_path, usual[0], "--rollout.workers", str(workers))))


@pytest.mark.slow  # The pool has a fast one of its own, in test 13.
def test_the_order_of_answers_changes_nothing(toy_model, tmp_path):
    found = []
    for name, workers in (("here", 0), ("two", 2), ("three", 3)):
        data = toy_settings(toy_model, env__name="tardy", rollout__workers=workers)
        found.append(contents(train(tmp_path, data, name=name)))
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])


@pytest.mark.slow  # In the first environment, test 9 stops a run as well.
def test_the_place_of_a_stop_changes_nothing(usual, tmp_path):
    source, folder, log = write_settings(tmp_path, usual[0]), tmp_path / "run", tmp_path / "log"
    argv = ["train", str(source), "--quiet", "--out", str(folder)]
    pid = start(argv, log)
    end = time.monotonic() + 600
    while not (folder / "metrics.jsonl").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    assert wait(pid, 600) == 143
    assert run(argv, log) == 0
    assert_same(usual[1], contents(RunDirectory(folder)))


@pytest.mark.parametrize(
    "change", slow_except(["optim__micro_tokens", "rollout__batch_tokens", "eval__batch"], "optim__micro_tokens")
)
def test_the_cut_of_batches_changes_last_digits_only(tmp_path, change):
    steady = {"optim__learning_rate": 1e-3, "optim__iterations": 2}
    one = train(tmp_path, settings(**steady), name="one")
    two = train(tmp_path, settings(**steady, **{change: 2 if change == "eval__batch" else 300}), name="two")
    for first, second in zip(one.transcripts(), two.transcripts(), strict=True):
        assert said(one, first.name) == said(two, second.name)
    for first, second in zip(one.rows("metrics"), two.rows("metrics"), strict=True):
        assert close({k: v for k, v in first.items() if k != "seconds"}, {**second, "seconds": None})
    weights = [load_file(made.checkpoint("final") / "model.safetensors") for made in (one, two)]
    assert all(float((weights[0][name] - weights[1][name]).abs().max()) < 1e-4 for name in weights[0])


# Two workers that share a busy core with everything else may take long to start and to answer.
PATIENT = {"rollout__env_deadline": 600.0}

SPECIAL = {
    "ppo": {"name": "ppo", "critic": {"learning_rate": 1e-3}},
    "stapo-dynamic": {"name": "stapo-dynamic", "outlier": {"select": "all"}},
}


@pytest.mark.parametrize("name", slow_except(SPECIAL, "stapo-dynamic"))
def test_seed_and_workers_with_a_critic_and_with_rounds(toy_model, tmp_path, name):
    made = [
        train(
            tmp_path,
            toy_settings(
                toy_model, algorithm=SPECIAL[name], rollout__group_size=2, rollout__workers=workers, **PATIENT
            ),
            name=str(i),
        )
        for i, workers in enumerate((0, 0, 2))
    ]
    found = [contents(run) for run in made]
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])
    if name == "stapo-dynamic":
        assert max(row["sampling"]["rounds"] for row in made[0].rows("metrics")) > 1


@pytest.mark.parametrize("name", slow_except(SPECIAL, "ppo"))
def test_the_cut_of_batches_with_a_critic_and_with_rounds(toy_model, tmp_path, name):
    data = toy_settings(toy_model, algorithm=SPECIAL[name], optim__learning_rate=1e-3)
    one = train(tmp_path, data, name="one")
    two = train(tmp_path, data, "--optim.micro_tokens", "60", "--rollout.batch_tokens", "60", name="two")
    for first, second in zip(one.rows("metrics"), two.rows("metrics"), strict=True):
        assert close({k: v for k, v in first.items() if k != "seconds"}, {**second, "seconds": None})
    kinds = ["policy/model", "critic/weights"] if name == "ppo" else ["policy/model"]
    for kind in kinds:
        weights = [load_file(made.saves.complete()[0] / f"{kind}.safetensors") for made in (one, two)]
        assert all(float((weights[0][key] - weights[1][key]).abs().max()) < 1e-4 for key in weights[0])


def said(made, name):
    return [
        [(step["prompt"], step["response"], step["reward"]) for step in record["steps"]]
        for record in made.rows(f"transcripts/{name.removesuffix('.jsonl')}")
    ]


def close(one, two):
    """Equal but for rounding; what is compared with a difference of two numbers near each other gets more room."""
    if isinstance(one, dict):
        return all(close(value, two[key]) or key == "logprob_gap" for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(two) and all(map(close, one, two))
    if isinstance(one, float) and isinstance(two, int | float):
        return math.isclose(one, two, rel_tol=1e-3, abs_tol=1e-4)
    return one == two
