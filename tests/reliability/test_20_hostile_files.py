"""20. Hostile files of every kind that users are given end in one line each: every tenth of those that
scripts/try_hostile_files.py makes, each opened in a process of its own. All of them:
`python scripts/try_hostile_files.py`.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "try_hostile_files.py"
spec = importlib.util.spec_from_file_location("try_hostile_files", SCRIPT)
script = importlib.util.module_from_spec(spec)
sys.modules["try_hostile_files"] = script
spec.loader.exec_module(script)


@pytest.mark.slow
def test_every_tenth_is_refused_in_one_line_or_read():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--fast"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "!!" not in done.stdout
    total = done.stdout.splitlines()[-1].split("|")
    assert total[1].strip() == "all"
    assert int(total[2]) >= 40
    assert [int(count) for count in total[5:10]] == [0, 0, 0, 0, 0]


def test_there_are_hundreds_of_every_kind_and_no_name_twice():
    cases = [case for kind in script.KINDS.values() for case in kind()]
    assert len(cases) >= 500
    for kind in {case.kind for case in cases}:
        names = [case.name for case in cases if case.kind == kind]
        assert len(names) == len(set(names)), kind


def test_a_reader_that_hangs_dies_or_leaves_a_stack_trace_is_found_out(tmp_path, monkeypatch):
    ends = {
        "hang": lambda: time.sleep(300),
        "traceback": lambda: {}[3],
        "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "read": lambda: 0,
        "many lines": lambda: print("error: a\nerror: b") or 2,
        "refused": lambda: print("error: a") or 2,
    }
    for verdict, end in ends.items():
        monkeypatch.setattr(script, "SECONDS", 0.5 if verdict == "hang" else 60.0)
        monkeypatch.setattr(script, "_run", lambda args, end=end: end())
        folder = tmp_path / verdict
        folder.mkdir()
        case = script.Case(kind="config", name=verdict, write=lambda f: None, command=lambda f: [])
        assert script.try_case(case, folder)[0] == verdict
        assert script.wrong(case, verdict) == (verdict != "refused")
