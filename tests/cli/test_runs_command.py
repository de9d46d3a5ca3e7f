"""`stapo runs`: what is in a folder of runs, however damaged some of them are."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from stapo.cli.main import main
from stapo.cli.runs_command import age, size
from stapo.run import RunDirectory

CONFIG = {"env": {"name": "alfworld"}, "algorithm": {"name": "gigpo"}, "optim": {"iterations": 40}}


def make_run(folder: Path, status: str = "done", *, iterations: int = 3, **facts: object) -> RunDirectory:
    run = RunDirectory.create(folder, CONFIG, ["stapo", "train", "webshop-tiny"])
    for n in range(1, iterations + 1):
        run.append("metrics", {"iteration": n, "success": n / 10})
    if status != "running":
        run.finish(status, **facts)
    return run


def listed(capsys, *argv: object) -> dict[str, dict]:
    assert main(["runs", *map(str, argv), "--json"]) == 0
    return {Path(row["folder"]).name: row for row in json.loads(capsys.readouterr().out)}


def test_runs_are_listed_with_how_far_they_are(tmp_path, capsys):
    make_run(tmp_path / "a").append("evals", {"iteration": 3, "mode": "sampled", "success": 0.75})
    make_run(tmp_path / "deep" / "er" / "b", "failed", reason="NonFiniteError: the loss is nan")
    make_run(tmp_path / "c", "running")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "config.txt").write_text("x")
    found = listed(capsys, tmp_path)
    assert set(found) == {"a", "b", "c"}
    a = found["a"]
    assert (a["status"], a["preset"], a["algorithm"], a["environment"]) == ("done", "webshop-tiny", "gigpo", "alfworld")
    assert (a["done"], a["planned"], a["success"]) == (3, 40, 0.75)
    assert a["bytes"] == sum(p.stat().st_size for p in (tmp_path / "a").iterdir())
    assert found["b"]["success"] == 0.3
    assert "the loss is nan" in found["b"]["reason"]
    assert found["c"]["status"] == "killed"


def test_a_run_from_python_names_no_preset(tmp_path, capsys):
    RunDirectory.create(tmp_path / "a", CONFIG, ["stapo.train()"]).finish("done")
    RunDirectory.create(tmp_path / "b", CONFIG, ["stapo", "train", "--seed", "1"]).finish("done")
    found = listed(capsys, tmp_path)
    assert (found["a"]["preset"], found["b"]["preset"]) == ("", "tiny")


def test_a_run_that_is_being_written_is_running_and_is_left_alone(tmp_path, capsys):
    make_run(tmp_path / "a", "running")
    descriptor = os.open(tmp_path / "a" / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").iterdir()}
    assert listed(capsys, tmp_path)["a"]["status"] == "running"
    os.close(descriptor)
    assert listed(capsys, tmp_path)["a"]["status"] == "killed"
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "a").iterdir()} == before


DAMAGE = {
    "no json": ("run.json", b"{"),
    "a list": ("run.json", b"[]"),
    "not UTF-8": ("run.json", b'{"status": "\xff"}'),
    "nested": ("run.json", b"[" * 100_000),
    "empty": ("run.json", b""),
    "a status of another kind": ("run.json", b'{"status": ["done"]}'),
    "no yaml": ("config.yaml", b"a: [\n"),
    "a number": ("config.yaml", b"3"),
    "a bomb": ("config.yaml", b"a: &a [x, x, x]\n" + b"".join(
        b"b%d: &%s [*%s, *%s, *%s, *%s, *%s]\n" % (n, b"z" * (n + 1), p, p, p, p, p)
        for n, p in enumerate([b"a", *(b"z" * k for k in range(1, 30))]))),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_costs_its_own_row(tmp_path, capsys, damage):
    make_run(tmp_path / "whole")
    make_run(tmp_path / "broken")
    name, content = DAMAGE[damage]
    (tmp_path / "broken" / name).write_bytes(content)
    found = listed(capsys, tmp_path)
    assert found["whole"]["status"] == "done"
    assert found["broken"]["status"] == "damaged"
    assert found["broken"]["reason"]
    assert main(["runs", str(tmp_path)]) == 0
    assert "damaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    "rows", [b"{", b"\xff\n", b"[1]\n", b'{"iteration": "x", "success": "much"}\n', b'{"iteration": null}\n' * 5]
)
def test_damaged_rows_are_no_numbers(tmp_path, capsys, rows):
    make_run(tmp_path / "a")
    (tmp_path / "a" / "metrics.jsonl").write_bytes(rows)
    row = listed(capsys, tmp_path)["a"]
    assert (row["status"], row["success"]) == ("done", None)


def test_links_are_not_followed(tmp_path, capsys):
    make_run(tmp_path / "outside" / "a")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "runs" / "loop").symlink_to(tmp_path / "runs")
    make_run(tmp_path / "runs" / "b")
    (tmp_path / "runs" / "b" / "run.json").unlink()
    (tmp_path / "runs" / "b" / "run.json").symlink_to(tmp_path / "outside" / "a" / "run.json")
    found = listed(capsys, tmp_path / "runs")
    assert set(found) == {"b"}
    assert found["b"]["status"] == "damaged"


def test_a_comparison_and_its_runs(tmp_path, capsys):
    top = tmp_path / "compare"
    make_run(top / "runs" / "grpo" / "seed-0")
    make_run(top / "runs" / "stapo" / "seed-0", "stopped", reason="SIGTERM")
    make_run(top / "starts" / "00")
    (top / "compare.json").write_text(json.dumps({"format": 1, "cells": [{}, {}]}))
    assert main(["runs", str(top), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["kind"] for row in rows] == ["comparison", "run", "run", "run"]
    assert (rows[0]["status"], rows[0]["preset"]) == ("open", "comparison: 1 of 2 runs done")
    (top / "compare.json").write_text("[]")
    assert main(["runs", str(top), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["status"] == "damaged"


def test_text_of_a_run_is_shown_and_not_obeyed(tmp_path, capsys):
    make_run(tmp_path / "a", "failed", reason="\x1b[31m\u202e[bold]boom")
    assert main(["runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "[bold]boom" in out


def test_no_runs_and_no_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 0
    assert "no runs in 'runs' yet" in capsys.readouterr().out
    assert main(["runs", "nowhere"]) == 2
    assert "'nowhere' is not a folder" in capsys.readouterr().err
    assert main(["runs", "a", "b"]) == 2
    assert main(["runs", "--jsn"]) == 2
    assert "Did you mean '--json'?" in capsys.readouterr().err


def test_durations_and_sizes():
    assert [age(s) for s in (-3, 59, 60, 7300, 200_000)] == ["0 s", "59 s", "1 min", "2 h", "2 d"]
    assert [size(n) for n in (0, 999, 1500, 25_000_000, 3.2e12)] == ["0 B", "999 B", "1.5 kB", "25 MB", "3.2 TB"]
