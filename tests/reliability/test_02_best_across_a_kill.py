"""2. SIGKILL after the best policy was chosen (`eval.keep_best`): the resumed run chooses the same, and `best` has it.

Each run kills itself at one moment: behind the rows of the evaluation and before their save, behind the save and while
`best` is written, or an iteration later.
"""

from __future__ import annotations

import os
import signal

import pytest
from reliable import assert_same, contents, start, train, wait, write_settings

from stapo.run import RunDirectory
from toy_world import toy_settings

SETS = {"unseen": {"split": "heldout", "episodes": 12}, "seen": {"split": "train", "tasks": 4, "episodes": 8}}


@pytest.fixture(scope="module")
def data(toy_model):
    given = {"optim__iterations": 3, "eval__every": 1, "eval__sets": SETS, "eval__keep_best": "seen.success"}
    return toy_settings(toy_model, log__keep_saves=1, **given)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    run = train(tmp_path_factory.mktemp("undisturbed"), data)
    assert 0 < run.info()["best"]["iteration"] < 3, "nothing can be shown with this seed"
    return run


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def after_the_row(name, iteration, count=1):
    """Kill this process behind so many rows of an iteration."""
    append, seen = RunDirectory.append_rows, []

    def append_then_die(self, file, rows):
        append(self, file, rows)
        seen.extend(row for row in rows if file == name and row["iteration"] == iteration)
        if len(seen) >= count:
            die()

    RunDirectory.append_rows = append_then_die


def within_the_checkpoint(iteration):
    """Kill this process while it writes the best policy, of that iteration."""
    write = RunDirectory.write_checkpoint

    def write_and_die(self, name, fill):
        def fill_and_die(folder):
            fill(folder)
            if name == "best" and self.rows("evals")[-1]["iteration"] == iteration:
                die()

        write(self, name, fill_and_die)

    RunDirectory.write_checkpoint = write_and_die


MOMENTS = {
    "behind its evaluation": lambda best: after_the_row("evals", best, 2),
    "while it is written": within_the_checkpoint,
    "an iteration later": lambda best: after_the_row("evals", best + 1, 2),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_same_policy_is_the_best_one_after_a_kill(data, undisturbed, tmp_path, moment):
    best = undisturbed.info()["best"]
    source, log, folder = write_settings(tmp_path, data), tmp_path / "log", tmp_path / "run"
    argv = ["train", str(source), "--quiet", "--out", str(folder)]
    assert wait(start(argv, log, lambda: MOMENTS[moment](best["iteration"]))) == -signal.SIGKILL, log.read_text()
    assert wait(start(argv, log)) == 0, log.read_text()[-2000:]
    run = RunDirectory(folder)
    assert run.info()["best"] == best
    assert sorted(run.checkpoints()) == sorted(undisturbed.checkpoints())
    assert_same(contents(undisturbed), contents(run))
