"""However a run ends, its folder says so, and the next command finds it in order.

1. Whatever an environment in this process raises, a run that has ended is not `running`.
2. A start that trained nothing gives its folder to the same command with other settings; one that trained does not.
3. Ctrl-C in SFT stops within it, says how to go on, and that ends as if nobody had stopped it.
4. Without a terminal, every long stage says in lines how far it is and how long it takes yet.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from reliable import assert_same, contents, run, settings, train, write_settings

import diseased_world
from stapo.cli.progress import ProgressDisplay
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data
from stapo.run import RunDirectory
from stapo.training.callbacks import Callbacks
from stapo.training.checkpoint import read_state
from stapo.training.pipeline import train_run
from toy_world import toy_settings

TEACHING = {"steps": 2, "episodes": 2, "batch_size": 2}


def diseased(model, folder, strikes, **changes):
    (folder / "marks").mkdir(exist_ok=True)
    given = {
        "env__name": diseased_world.DiseasedEnv.name,
        "env__options": {"strikes": strikes, "marks": str(folder / "marks"), "once": False},
        "rollout__retries": 0,
        "rollout__max_failures": 2,
        "rollout__group_size": 2,
        "optim__iterations": 1,
        "eval__at_start": False,
        "eval__episodes": 2,
        "eval__greedy": False,
        "sft": TEACHING,
    }
    return toy_settings(model, **{**given, **changes})


@pytest.mark.parametrize("stage", ["demonstrations", "reset", "rollout"])
@pytest.mark.parametrize("disease", ["cancelled", "system_exit"])
def test_what_is_no_exception_leaves_no_run_that_seems_to_go_on(tmp_path, toy_model, stage, disease):
    made = train(tmp_path, diseased(toy_model, tmp_path, {stage: disease}), expect=1)
    assert made.info()["status"] == "failed"
    assert "2 episodes in a row failed" in made.info()["reason"]
    rows = made.rows("failures")
    name = {"cancelled": "CancelledError", "system_exit": "SystemExit"}[disease]
    assert [(row["outcome"], f"raised {name}" in row["error"]) for row in rows] == [("left out", True)] * 2
    assert {row["phase"] for row in rows} == {"training" if stage == "rollout" else "demonstrations"}
    # The environment's own trace is part of the error; there is no other.
    assert "Traceback" not in (tmp_path / "run.log").read_text().partition("error:")[0]


@pytest.mark.parametrize("stage", ["demonstrations", "rollout"])
def test_ctrl_c_inside_an_environment_stops_the_run(tmp_path, toy_model, stage):
    made = train(tmp_path, diseased(toy_model, tmp_path, {stage: "interrupt"}), expect=130)
    assert made.info()["status"] == "stopped"
    assert f"stapo resume {shlex.quote(str(made.path))}" in (tmp_path / "run.log").read_text()


def test_a_start_that_trained_nothing_gives_its_folder_away(tmp_path, toy_model):
    made = train(tmp_path, diseased(toy_model, tmp_path, {"demonstrations": "garbage"}), expect=1)
    assert made.info()["status"] == "failed"
    assert len(made.rows("failures")) == 2
    train(tmp_path, diseased(toy_model, tmp_path, {}, seed=5))
    assert made.info()["status"] == "done"
    assert made.config()["seed"] == 5
    assert made.rows("failures") == []


def test_a_run_that_trained_keeps_its_folder(tmp_path, toy_model):
    made = train(tmp_path, diseased(toy_model, tmp_path, {"rollout": "garbage"}), expect=1)
    assert made.saves.complete()
    rows = made.rows("failures")
    train(tmp_path, diseased(toy_model, tmp_path, {}, seed=5), expect=2)
    assert "seed: 0 in the run, 5 now" in (tmp_path / "run.log").read_text()
    assert (made.info()["status"], made.config()["seed"], made.rows("failures")) == ("failed", 0, rows)


@pytest.mark.slow
def test_ctrl_c_in_sft_of_a_real_command(tmp_path):
    data = settings(
        sft__steps=200,
        # So that what is saved is saved by the stop.
        log__save_seconds=1000.0,
        optim__iterations=1,
        eval={"episodes": 2, "greedy": False},
    )
    undisturbed = contents(train(tmp_path / "whole", data))
    source, folder, log = write_settings(tmp_path, data), tmp_path / "a run", tmp_path / "log"
    argv = [sys.executable, "-m", "stapo.cli.main", "train", str(source), "--out", str(folder)]
    with log.open("w") as file:
        process = subprocess.Popen(argv, stdout=file, stderr=file, start_new_session=True)
    try:
        end = time.monotonic() + 600
        while not (folder / "sft.jsonl").exists():
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(600) == 130, log.read_text()
    finally:
        process.kill()
    said = log.read_text()
    assert "Traceback" not in said
    assert "stopped within SFT, with everything saved" in said
    made = RunDirectory(folder)
    assert made.info()["status"] == "stopped"
    state = read_state(made.saves.complete()[0])
    assert (state.stage, state.iteration) == ("sft", 0)
    assert 10 <= state.sft_step < 200
    (line,) = [line for line in said.splitlines() if "stapo resume" in line]
    assert run(shlex.split(line.partition("stapo ")[2]), log) == 0, log.read_text()
    assert_same(undisturbed, contents(made))


class Clock:
    """Goes on by a second whenever it is read."""

    now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def test_without_a_terminal_every_long_stage_says_how_far_it_is(tmp_path, toy_model, capsys):
    """A run in which every look at the clock takes a second."""
    data = diseased(
        toy_model, tmp_path, {}, sft={"steps": 90, "episodes": 90, "batch_size": 2}, eval__episodes=90,
        eval__batch=2, eval__split="train",
    )  # fmt: skip
    with ProgressDisplay(quiet=True, iterations=1, clock=Clock()) as display:
        config = from_data(RunConfig, data)
        train_run(config, tmp_path / "run", [], Callbacks([display]))
    said = capsys.readouterr().err
    for stage in ("demonstrations", "reading demonstrations", "SFT", "evaluation"):
        lines = [line for line in said.splitlines() if line.startswith(stage) and "left" in line]
        assert lines, said
