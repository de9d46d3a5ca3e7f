"""The pool of processes: order, limit, failures, locks, signals. The processes here are trivial ones."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from stapo.comparison.jobs import Ended, Job, Jobs, reason_in
from stapo.run.lock import RunLock
from stapo.training.interrupt import RunInterrupted


def job(folder, name, code, needs=None):
    return Job(name, (sys.executable, "-c", code), folder / "logs" / f"{name}.log", folder / name, needs)


def test_all_are_run_and_output_is_kept(tmp_path):
    done = Jobs(2).run([job(tmp_path, n, f"print('I am {n}')") for n in ("a", "b", "c")], {})
    assert done == {n: Ended("done") for n in ("a", "b", "c")}
    assert (tmp_path / "logs" / "b.log").read_text() == "I am b\n"


def test_limit_and_order(tmp_path):
    seen = []
    pool = Jobs(2, on_change=lambda job, state: seen.append((job.name, state == "started")))
    running = []
    pool.on_tick = lambda names: running.append(len(names))
    pool.run([job(tmp_path, n, "import time; time.sleep(0.3)") for n in "abcd"], {})
    assert max(running) == 2
    assert [name for name, started in seen if started] == list("abcd")


def test_what_is_needed_comes_first(tmp_path):
    write = f"open({str(tmp_path / 'made')!r}, 'w').write('x')"
    read = f"print(open({str(tmp_path / 'made')!r}).read())"
    done = Jobs(3).run(
        [job(tmp_path, "late", read, needs="early"), job(tmp_path, "early", f"import time; time.sleep(0.3); {write}")],
        {},
    )
    assert {ended.status for ended in done.values()} == {"done"}


def test_a_failure_costs_only_what_needs_it(tmp_path):
    fail = "import sys; print('error: no bread', file=sys.stderr); print('bye'); sys.exit(2)"
    done = Jobs(1).run(
        [
            job(tmp_path, "bad", fail),
            job(tmp_path, "after bad", "print(1)", needs="bad"),
            job(tmp_path, "after that", "print(1)", needs="after bad"),
            job(tmp_path, "good", "print(1)"),
        ],
        {},
    )
    assert done["bad"] == Ended("failed", 2, "no bread")
    assert done["after bad"].status == done["after that"].status == "blocked"
    assert done["after bad"].error == "bad is missing: no bread"
    assert done["good"].status == "done"


def test_reasons(tmp_path):
    log = tmp_path / "log"
    log.write_text("iteration 1\nerror: first\nerror: last\nmore\n")
    assert reason_in(log, 1) == "last"
    log.write_text("Traceback\nValueError: x\n\n")
    assert reason_in(log, 1) == "exit code 1: ValueError: x"
    assert reason_in(log, -9) == "killed by SIGKILL"
    assert reason_in(tmp_path / "none", 3) == "exit code 3: it printed nothing"


def test_waits_for_the_process_of_an_earlier_call(tmp_path):
    (tmp_path / "a").mkdir()
    lock = RunLock(tmp_path / "a")
    lock.__enter__()
    let_go = threading.Timer(0.8, lambda: lock.__exit__(None, None, None))
    let_go.start()
    began = time.monotonic()
    assert Jobs(1).run([job(tmp_path, "a", "print(1)")], {})["a"].status == "done"
    assert time.monotonic() - began > 0.7


@pytest.mark.parametrize("signum, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_reach_all_and_nobody_is_left(tmp_path, signum, code):
    child = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *a: sys.exit('got int'))\n"
        "signal.signal(signal.SIGTERM, lambda *a: sys.exit('got term'))\n"
        "print(os.getpid(), flush=True)\n"
        "while True: time.sleep(0.05)\n"  # a signal just before a sleep waits for the end of it
    )
    logs = [tmp_path / "logs" / f"{n}.log" for n in "ab"]
    sent = []

    def tick(names):
        if not sent and all(log.is_file() and log.read_text().endswith("\n") for log in logs):
            sent.append(time.monotonic())
            os.kill(os.getpid(), signum)

    before = signal.getsignal(signum)
    with pytest.raises(RunInterrupted) as stop:
        Jobs(2, on_tick=tick).run([job(tmp_path, n, child) for n in "abc"], {})
    assert stop.value.exit_code == code
    assert time.monotonic() - sent[0] < 300
    assert signal.getsignal(signum) is before
    for log in logs:
        number, said = log.read_text().split("\n", 1)
        assert said.strip() == ("got int" if signum == signal.SIGINT else "got term")
        with pytest.raises(ProcessLookupError):
            os.kill(int(number), 0)
    assert not (tmp_path / "logs" / "c.log").exists()


def test_what_does_not_stop_is_killed(tmp_path):
    child = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)\n"
    )
    log, sent = tmp_path / "logs" / "a.log", []

    def tick(names):
        if not sent and log.is_file() and log.read_text():
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(RunInterrupted):
        Jobs(1, grace=0.5, on_tick=tick).run([job(tmp_path, "a", child)], {})
    assert time.monotonic() - sent[0] < 300


def test_an_error_of_this_process_ends_the_others(tmp_path):
    def tick(names):
        if (tmp_path / "logs" / "a.log").read_text():
            raise RuntimeError("here")

    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with pytest.raises(RuntimeError, match="here"):
        Jobs(1, on_tick=tick).run([job(tmp_path, "a", code)], {})
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "logs" / "a.log").read_text()), 0)
