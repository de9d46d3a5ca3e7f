"""2. SIGKILL at random moments: the same command is given again until it is done, and nothing shows.

Half of the moments are random, the other half fall into a save: the child is killed as soon as an unfinished save can
be seen, or a little later. `make soak` kills 50 times for every algorithm and every environment; the suite, less often.
"""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from reliable import SOAK, assert_same, cases, contents, kill, settings, start, train, wait, write_settings

from slow import slow_except
from stapo.run import RunDirectory

KILLS = 50 if SOAK else 8


def unfinished_save(folder):
    """Whether a save is being written right now."""
    saves = folder / "saves"
    return saves.is_dir() and any(p.name.startswith(".partial-") for p in saves.iterdir())


def kill_inside_a_save(pid, folder, delay):
    """Kill the child once it saves; returns its exit code if it ended before."""
    end = time.monotonic() + 600
    while time.monotonic() < end:
        if unfinished_save(folder):
            time.sleep(delay)
            return kill(pid)
        code = wait(pid, 0.0)
        if code is not None:
            return code
    raise AssertionError("no save was begun within 60 s")


def dies_behind_a_row(rows, iteration):
    """Kill this process once a row of an iteration is written, before it is saved."""
    append = RunDirectory.append

    def append_then_die(self, name, row):
        append(self, name, row)
        if name == rows and row["iteration"] == iteration:
            os.kill(os.getpid(), signal.SIGKILL)

    RunDirectory.append = append_then_die


@pytest.mark.parametrize("rows", slow_except(["metrics", "steps"], "steps"))
def test_killed_between_a_row_and_its_save(tmp_path, rows):
    data = settings(optim__iterations=3, sft__steps=8)
    expected = contents(train(tmp_path, data, name="undisturbed"))
    source, log, folder = write_settings(tmp_path, data), tmp_path / "log", tmp_path / "run"
    argv = ["train", str(source), "--quiet", "--out", str(folder)]
    assert wait(start(argv, log, lambda: dies_behind_a_row(rows, 2))) == -signal.SIGKILL
    assert [row["iteration"] for row in RunDirectory(folder).rows(rows)] == [1, 2]
    assert wait(start(argv, log)) == 0, log.read_text()[-2000:]
    assert_same(expected, contents(RunDirectory(folder)))


@pytest.mark.slow
@pytest.mark.parametrize("environment, algorithm", cases(("stapo", "ppo", "stapo-dynamic")))
def test_killed_at_random_moments(tmp_path, environment, algorithm):
    data = settings(environment, algorithm)
    started = time.monotonic()
    expected = contents(train(tmp_path, data, name="undisturbed"))
    whole = time.monotonic() - started
    source, log, folder = write_settings(tmp_path, data), tmp_path / "log", tmp_path / "run"
    argv = ["train", str(source), "--quiet", "--out", str(folder)]
    rng = random.Random(f"{environment} {algorithm}")
    kills = inside = attempts = 0
    while True:
        assert attempts < 10 * KILLS, log.read_text()[-2000:]
        attempts += 1
        pid = start(argv, log)
        if kills >= KILLS:
            code = wait(pid)
        elif kills % 2:
            # Between the first byte of a save and its rename lie a few milliseconds.
            code = kill_inside_a_save(pid, folder, rng.choice((0.0, rng.uniform(0, 0.01))))
            inside += code == -signal.SIGKILL
        else:
            # Short enough that the run is not done before it was killed often enough.
            time.sleep(rng.uniform(0.0, 0.15 * whole))
            code = kill(pid)
        if code == 0:
            break
        assert code == -signal.SIGKILL, log.read_text()[-2000:]
        kills += 1
    assert_same(expected, contents(RunDirectory(folder)))
    print(f"\n{environment}, {algorithm}: killed {kills} times, {inside} of them inside a save; identical")
    assert kills >= min(KILLS, 4)
