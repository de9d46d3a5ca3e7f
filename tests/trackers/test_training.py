"""Trackers beside a training: its numbers are the same, and a resumed run goes on with the same tracker runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from importlib.util import find_spec

import pytest
import yaml
from reliable import assert_same, contents, start, wait
from test_process import RAISES, site
from tracked import LIBRARIES, rows, settings_of, stored, train, twice

from stapo.cli.main import main
from stapo.run import RunDirectory
from stapo.trackers import process
from stapo.trackers.names import eval_scalars, metric_histograms, metric_scalars

__all__ = ["site"]
SAVED, KILLED = 3, 5


def test_bad_trackers_change_no_number(site, finished, tmp_path, toy_model, monkeypatch, capfd):
    monkeypatch.setattr(process, "FINISH_SECONDS", 1.0)
    site("stuck", "log", "time.sleep(10**6)")
    site("raising", "open", RAISES["exception"][0])
    site("rude", "log", "import random; random.seed(1); os.write(1, b'raw'); sys.setrecursionlimit(99); os.setpgrp()")
    folder = train(tmp_path / "run", toy_model, log__trackers=["stuck", "raising", "rude"])
    assert_same(contents(RunDirectory(finished)), contents(RunDirectory(folder)))
    said = capfd.readouterr()
    assert "raw" not in said.out + said.err


@pytest.mark.slow
def test_a_killed_and_resumed_run_is_stored_once(offline, tmp_path, toy_model, monkeypatch):
    names = [name for name in LIBRARIES if find_spec(name)]
    if not names:
        pytest.skip("none of tensorboard, wandb, trackio and mlflow is installed")
    monkeypatch.setattr(process, "FINISH_SECONDS", 600.0)
    folder, source = tmp_path / "run", tmp_path / "run.yaml"
    source.write_text(
        yaml.safe_dump(settings_of(toy_model, log__trackers=names, log__save_every=SAVED, optim__iterations=6))
    )

    def sent(name):
        path = folder / "trackers" / f"{name}.json"
        return json.loads(path.read_text())["sent"].get("metrics", [0])[0] if path.is_file() else 0

    def killed_behind_a_save():
        append = RunDirectory.append

        def append_then_die(self, name, row):
            append(self, name, row)
            if name == "metrics" and row["iteration"] == KILLED:
                while any(sent(name) < KILLED for name in names):
                    time.sleep(0.05)
                os.kill(os.getpid(), signal.SIGKILL)

        RunDirectory.append = append_then_die

    log = tmp_path / "log"
    assert wait(start(["train", str(source), "--quiet", "--out", str(folder)], log, killed_behind_a_save), 600) == -9
    assert [row["iteration"] for row in rows(folder, "metrics")] == [1, 2, 3, 4, 5]
    ids = {name: json.loads((folder / f"trackers/{name}.json").read_text())["id"] for name in names}
    lost = rows(folder, "metrics")[SAVED:]
    assert main(["resume", str(folder), "--quiet"]) == 0
    assert ids == {name: json.loads((folder / f"trackers/{name}.json").read_text())["id"] for name in names}
    metrics = rows(folder, "metrics")
    assert [row["update"] for row in lost] == [row["update"] for row in metrics[SAVED:KILLED]]
    for name in names:
        found = stored(name, offline, folder)
        assert twice(found) == [], name
        wanted = {key for row in metrics for key in (metric_scalars(row) | metric_histograms(row))}
        wanted |= {key for row in rows(folder, "evals") for key in eval_scalars(row, "heldout")}
        assert found.keys() == wanted, name
        success = {row["iteration"]: [pytest.approx(row["success"], rel=1e-6)] for row in metrics}
        assert found["episode/success_rate"] == success, name
        assert found["val/heldout/greedy/success_rate"].keys() == {0, 2, 4, 6}, name


def test_a_run_is_resumed_without_a_tracker_that_is_gone(finished, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["log"]["trackers"] = ["no-such-tracker"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["resume", str(folder), "--quiet", "--iterations", "5"]) == 0
    assert len(rows(folder, "metrics")) == 5
    assert main(["train", str(folder / "config.yaml"), "--quiet", "--out", str(tmp_path / "new")]) == 2
    assert "unknown tracker 'no-such-tracker'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert main(["train", str(folder / "config.yaml"), "--dry-run"]) == 2
