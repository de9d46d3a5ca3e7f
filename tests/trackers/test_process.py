"""Whatever a tracker does in its process, the process that started it learns of it in words, and in time."""

from __future__ import annotations

import json
import os
import random
import signal
import time

import pytest
import torch
from tracked import install, rows, send

from slow import slow_except
from stapo.cli.main import main
from stapo.errors import UnknownNameError
from stapo.trackers import TRACKERS
from stapo.trackers.process import TrackerProcesses, check_names

FINE = """
    import json
    class Tracker:
        rewinds = False
        def open(self, run, resume):
            self.file = open(run.path / "lines.txt", "a")
            return resume or "fine-1"
        def log(self, step, scalars, histograms):
            print(json.dumps([step, len(scalars), sorted(histograms)]), file=self.file, flush=True)
        def close(self, status):
            print(json.dumps(status), file=self.file, flush=True)
"""
BAD = """
    import os, sys, time
    from {package}_fine import Tracker as Fine
    def now():
        {does}
    class Tracker(Fine):
        def {method}(self, *args):
            now()
            return Fine.{method}(self, *args)
"""
RAISES = {
    "exception": ("raise RuntimeError('no license for key-of-mine-123')", "RuntimeError"),
    "exit": ("sys.exit('bye')", "SystemExit: bye"),
    "interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "end": ("os._exit(0)", "ended early"),
    "killed": ("os.kill(os.getpid(), 9)", "ended early"),
    "lines": ("raise ValueError('a\\nb\\x1b[2J' + 'c' * 9999)", "a b\\u{1b}[2Jccc"),
}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages; call it to install one with a tracker."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(TRACKERS, "_objects", {})
    install(folder, "p_fine", FINE, fine="Tracker")

    def add(name, method, does):
        install(folder, f"p_{name}", BAD.format(package="p", method=method, does=does), **{name: "Tracker"})

    return add


def test_a_tracker_of_another_package_is_sent_all_once(site, run):
    said, failed = send(run, "fine")
    assert not failed, said
    assert said == ["tracker 'fine': run fine-1", f"tracker 'fine': {len(rows(run, 'evals')) + 4} rows sent"]
    lines = [json.loads(line) for line in (run / "lines.txt").read_text().splitlines()]
    assert [line[0] for line in lines[:-1]] == [0, 0, 1, 2, 2, 2, 3, 4, 4, 4]
    assert lines[-1] == "done"
    assert lines[2][2] == ["rollout/entropy_histogram", "rollout/normalized_entropy_histogram"]
    assert send(run, "fine") == (["tracker 'fine': 0 rows sent"], False)
    assert len((run / "lines.txt").read_text().splitlines()) == len(lines)


@pytest.mark.parametrize("name", slow_except(RAISES, "exception", "end", "lines"))
def test_a_tracker_that_ends_is_told_once(site, run, name, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "key-of-mine-123")
    does, words = RAISES[name]
    method = {"exit": "open", "interrupt": "close"}.get(name, "log")
    site("bad", method, does)
    said, failed = send(run, "bad", "fine")
    assert failed
    told = [text for text in said if "'bad'" in text and "run fine-1" not in text]
    assert len(told) == 1
    assert words in told[0]
    assert "\n" not in told[0]
    assert len(told[0]) < 700
    assert "key-of-mine" not in told[0]
    assert "tracker 'fine': 10 rows sent" in said


@pytest.mark.parametrize("method", slow_except(["__init__", "open", "log", "close"], "log", "close"))
def test_a_tracker_that_hangs_is_given_up(site, run, method):
    # In one of them the interpreter itself is held, in one SIGTERM does nothing.
    does = {
        "log": "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')",
        "close": "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(10**6)",
    }
    site("stuck", method, does.get(method, "time.sleep(10**6)"))
    trackers = TrackerProcesses(run, ["stuck"])
    trackers.start()
    (pid,) = [child.process.pid for child in trackers._children]
    said = list(trackers.finish(seconds=1.0))
    assert trackers.failed
    assert any("was given up" in text and "stapo track RUN --to stuck" in text for text in said), said
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_was_not_sent_is_sent_later(site, run, monkeypatch):
    site("bad", "log", "if os.environ.get('BAD'): raise OSError('offline')")
    monkeypatch.setenv("BAD", "1")
    assert send(run, "bad")[1]
    monkeypatch.delenv("BAD")
    said, failed = send(run, "bad")
    assert not failed
    assert "10 rows sent" in said[-1]


def test_a_process_follows_a_run_and_ends_with_it(site, run):
    whole = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(whole[:2]))
    trackers = TrackerProcesses(run, ["fine"])
    trackers.start()
    wait_for(lambda: (run / "lines.txt").is_file() and "\n[2," in (run / "lines.txt").read_text())
    said = []
    wait_for(lambda: said.extend(trackers.news()) or said)
    assert said == ["tracker 'fine': run fine-1"]
    with (run / "metrics.jsonl").open("a") as file:
        file.write(whole[2][:50])
        file.flush()
        file.write(whole[2][50:] + whole[3])
    assert list(trackers.finish(seconds=120)) == []
    assert not trackers.failed
    steps = [json.loads(line) for line in (run / "lines.txt").read_text().splitlines()]
    assert [step[0] for step in steps[:-1]] == [0, 0, 1, 2, 2, 2, 3, 4, 4, 4]


def test_only_one_process_sends_a_run_to_a_tracker(site, run):
    trackers = TrackerProcesses(run, ["fine"])
    trackers.start()
    wait_for(lambda: (run / "trackers/fine.json").is_file())
    said, failed = send(run, "fine")
    assert failed
    assert "another process is sending this run" in said[0]
    list(trackers.finish(seconds=120))
    assert not trackers.failed


def test_a_tracker_changes_nothing_here(site, run, capfd):
    """Signals, generators, the default type, what is printed, the working directory."""
    site(
        "rude",
        "open",
        "import random, signal; print('hello'); os.write(1, b'raw'); os.write(2, b'raw'); random.seed(1); "
        "signal.signal(signal.SIGINT, signal.SIG_IGN); os.chdir('/')",
    )
    state, numbers, handler = random.getstate(), torch.get_rng_state().tolist(), signal.getsignal(signal.SIGINT)
    dtype, folder = torch.get_default_dtype(), os.getcwd()
    said, failed = send(run, "rude")
    assert not failed, said
    assert said == ["tracker 'rude': run fine-1", "tracker 'rude': 10 rows sent"]
    assert random.getstate() == state
    assert torch.get_rng_state().tolist() == numbers
    assert (signal.getsignal(signal.SIGINT), torch.get_default_dtype(), os.getcwd()) == (handler, dtype, folder)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "state",
    [
        '{"id": "../../etc", "sent": {}}',
        '{"id": "a b", "sent": {}}',
        '{"id": "x", "sent": {"metrics": [1e999, ""]}}',
        '{"id": "x", "sent": {"\\u001b[2J": [1, ""]}}',
        '{"id": 7, "sent": {}}',
        "[1]",
        "{",
        "\x00",
    ],
)
def test_a_state_of_a_stranger_is_refused_in_one_line(run, state, monkeypatch):
    from stapo.errors import RunDirectoryError
    from stapo.trackers.sender import Sent

    (run / "trackers").mkdir()
    (run / "trackers/fine.json").write_text(state)
    with pytest.raises(RunDirectoryError, match="Remove it"):
        Sent.read(run / "trackers/fine.json")


@pytest.mark.parametrize("row", ['{"iteration": -1}', '{"iteration": "1"}', '{"iteration": true}', "{}", "[]", "{"])
def test_rows_of_a_stranger_are_refused_in_one_line(site, run, row):
    (run / "metrics.jsonl").write_text(row + "\n")
    said, failed = send(run, "fine")
    assert failed
    assert len(said) == 1
    assert "failed: RunDirectoryError" in said[0]


def test_a_strangers_name_of_a_tracker_is_no_path(run, tmp_path):
    before = sorted(tmp_path.iterdir())
    trackers = TrackerProcesses(run, ["../../made", "/../../made"])
    trackers.start()
    said = list(trackers.finish(seconds=120))
    assert len(said) == 2
    assert all("unknown tracker" in text for text in said)
    assert sorted(tmp_path.iterdir()) == before
    assert not (run / "trackers").exists()


def test_links_in_the_folder_are_not_followed(site, run, tmp_path):
    (run / "trackers").mkdir()
    (run / "trackers/fine.json").symlink_to(tmp_path / "secret")
    (tmp_path / "secret").write_text("{}")
    said, failed = send(run, "fine")
    assert failed
    assert "symbolic link" in said[0]
    assert (tmp_path / "secret").read_text() == "{}"


def test_unknown_and_unusable_names(site, run, capsys):
    with pytest.raises(UnknownNameError, match="Did you mean 'tensorboard'"):
        check_names(["tensorbord"])
    assert main(["track", str(run), "--to", "wandbb"]) == 2
    assert "Did you mean 'wandb'" in capsys.readouterr().err
    site("broken", "open", "pass")
    (run.parent / "site" / "p_broken.py").write_text("import no_such_module_at_all")
    check_names(["broken"])
    assert main(["track", str(run), "--to", "broken", "fine"]) == 1
    out = capsys.readouterr().out
    assert "no_such_module_at_all" in out
    assert "tracker 'fine': 10 rows sent" in out
    assert main(["track", str(run)]) == 2
    assert main(["track", "--to", "fine"]) == 2


def test_a_class_of_this_process_alone_is_told(run, monkeypatch):
    monkeypatch.setattr(TRACKERS, "_objects", {})

    class Local:
        rewinds, open, log, close = False, None, None, None

    TRACKERS.register("local", Local)
    said, failed = send(run, "local")
    assert failed
    assert "importable module" in said[0]


def wait_for(what):
    end = time.monotonic() + 120
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)
