"""9. SIGTERM and SIGINT: a save at the next safe point within the deadline, exit code 143 or 130, nobody left behind.

A second signal stops at once, and the handlers that were there come back. Resumed, the run ends as if undisturbed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import product

import pytest
from reliable import assert_same, contents, kill, run, settings, start, train, wait, write_settings

from slow import slow_except
from stapo.run import RunDirectory
from stapo.training.interrupt import Interrupts, RunInterrupted

SIGNALS = {signal.SIGTERM: 143, signal.SIGINT: 130}


def wait_for(condition, seconds=600.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the run did not get so far"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return contents(train(tmp_path_factory.mktemp("whole"), settings()))


@pytest.mark.parametrize(
    "where, signum",
    slow_except(product(["SFT", "iteration"], SIGNALS), ("SFT", signal.SIGINT), ("iteration", signal.SIGTERM)),
)
def test_stops_at_a_safe_point_and_goes_on(tmp_path, undisturbed, where, signum):
    source, folder, log = write_settings(tmp_path, settings()), tmp_path / "run", tmp_path / "log"
    argv = ["train", str(source), "--quiet", "--out", str(folder)]
    pid = start(argv, log)
    file = folder / ("sft.jsonl" if where == "SFT" else "metrics.jsonl")
    wait_for(file.exists)
    os.kill(pid, signum)
    assert wait(pid) == SIGNALS[signum], log.read_text()
    text = log.read_text()
    # A step of SFT is dropped, and done again; an iteration is brought to its end.
    at_once, at_its_end = "stopped within SFT", f"{signum.name}: stopping after what is in progress, in 30 s"
    assert at_its_end in text or (where == "SFT" and at_once in text)
    assert "Traceback" not in text
    made = RunDirectory(folder)
    assert made.info()["status"] == "stopped"
    # Nothing that was done is lost: the save is as far as the rows are.
    assert all(made.row_positions()[k] == v for k, v in state(made)["rows"].items())
    assert run(argv, log) == 0
    assert_same(undisturbed, contents(made))


def update_without_end(folder):
    """What makes the first update of a child last for ever; it leaves a file when it has begun."""

    def endless(*args, **kwargs):
        (folder / "begun").touch()
        time.sleep(3600)

    def patch():
        from stapo.training.update import Updater

        Updater.update = endless

    return patch


def state(made):
    from stapo.training.checkpoint import read_state

    return vars(read_state(made.saves.complete()[0]))


def test_what_takes_too_long_is_given_up(tmp_path, undisturbed):
    """An iteration that does not end within the deadline: the save before it stands, and the run goes on from there."""
    data = settings(log__grace=0.5)
    source, folder, log = write_settings(tmp_path, data), tmp_path / "run", tmp_path / "log"
    argv = ["train", str(source), "--quiet", "--out", str(folder)]
    pid = start(argv, log, update_without_end(tmp_path))
    wait_for((tmp_path / "begun").exists)
    os.kill(pid, signal.SIGTERM)
    assert wait(pid) == 143, log.read_text()
    assert "did not end within 0.5 s" in log.read_text()
    assert run(argv, log) == 0
    assert_same(undisturbed, contents(RunDirectory(folder)))


def test_a_second_signal_stops_at_once(tmp_path):
    source, folder, log = write_settings(tmp_path, settings(log__grace=3000.0)), tmp_path / "run", tmp_path / "log"
    pid = start(["train", str(source), "--quiet", "--out", str(folder)], log, update_without_end(tmp_path))
    wait_for((tmp_path / "begun").exists)
    os.kill(pid, signal.SIGINT)
    wait_for(lambda: "SIGINT: stopping after what is in progress" in log.read_text())
    os.kill(pid, signal.SIGTERM)
    assert wait(pid) == 143, log.read_text()
    assert "stopped at once by a second signal" in log.read_text()


def test_handlers_come_back():
    def mine(signum, frame):
        raise AssertionError("not now")

    before = {s: signal.signal(s, mine) for s in SIGNALS}
    try:
        with Interrupts(5.0) as interrupts:
            assert not interrupts.requested
            os.kill(os.getpid(), signal.SIGTERM)
            assert interrupts.requested
            interrupts.check()
            with pytest.raises(RunInterrupted) as stop:
                interrupts.leave()
        assert stop.value.exit_code == 143
        assert all(signal.getsignal(s) is mine for s in SIGNALS)
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def test_nothing_that_isolates_failures_swallows_it():
    assert issubclass(RunInterrupted, KeyboardInterrupt)
    assert not issubclass(RunInterrupted, Exception)


def test_one_writer_at_a_time(tmp_path):
    """The same command beside a run that goes on: refused, nothing touched; after it was killed: not refused."""
    source, folder, log = write_settings(tmp_path, settings()), tmp_path / "run", tmp_path / "log"
    argv = ["train", str(source), "--quiet", "--out", str(folder)]
    pid = start(argv, log)
    wait_for((folder / "sft.jsonl").exists)
    assert run(argv, tmp_path / "second") == 2
    assert f"is going on in another process ({pid})" in (tmp_path / "second").read_text()
    assert kill(pid) == -signal.SIGKILL
    assert run(argv, log) == 0


@pytest.mark.slow
def test_as_a_process_of_its_own_with_workers(tmp_path):
    """As a scheduler does it: SIGTERM to the command, whose environments are processes of their own."""
    source = write_settings(tmp_path, settings(optim__iterations=500, rollout__workers=2))
    argv = [sys.executable, "-m", "stapo.cli.main", "train", str(source), "--quiet", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    wait_for((tmp_path / "run" / "metrics.jsonl").exists)
    children = workers_of(process.pid)
    assert len(children) == 2
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 143, said
    wait_for(lambda: not any(os.path.exists(f"/proc/{child}") for child in children))


def workers_of(pid):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                found.append(int(entry))
    return found
