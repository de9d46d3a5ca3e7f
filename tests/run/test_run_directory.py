"""The run directory: what is written can be read back, and what is there is never touched."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stapo.errors import RunDirectoryError
from stapo.run import FORMAT_VERSION, RunDirectory
from stapo.run.directory import jsonable
from stapo.run.rows import read_jsonl


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "runs" / "one", {"seed": 3, "env": {"name": "toy"}}, ["stapo", "train"])


def test_a_new_run_describes_itself(run):
    info = run.info()
    assert info["format"] == FORMAT_VERSION
    assert (info["status"], info["command"]) == ("running", ["stapo", "train"])
    assert {"started", "platform", "python"} <= set(info)
    assert {"stapo", "torch", "transformers", "numpy"} <= set(info["versions"])
    assert run.config() == {"seed": 3, "env": {"name": "toy"}}
    assert RunDirectory.open(run.path).info() == info


def test_the_end_is_noted_and_nothing_else_changes(run):
    before = run.info()
    run.finish("failed", reason="x", score=float("nan"), means=np.float32(0.5))
    info = run.info()
    assert (info["status"], info["reason"], info["score"], info["means"]) == ("failed", "x", None, 0.5)
    assert {k: info[k] for k in before if k != "status"} == {k: v for k, v in before.items() if k != "status"}
    assert "ended" in info
    assert [p.name for p in run.path.iterdir()].count("run.json.tmp") == 0


@pytest.mark.parametrize("kind", ["folder", "file", "own run"])
def test_what_exists_is_refused_and_untouched(tmp_path, run, kind):
    path = {"folder": tmp_path / "runs", "file": tmp_path / "file", "own run": run.path}[kind]
    if kind == "file":
        path.write_text("precious")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(RunDirectoryError, match="Nothing was touched"):
        RunDirectory.create(path, {}, [])
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_an_empty_folder_may_be_used(tmp_path):
    assert RunDirectory.create(tmp_path, {"seed": 1}, []).config() == {"seed": 1}


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="cannot be written: Not a directory"):
        RunDirectory.create(tmp_path / "file" / "run", {}, [])


def test_rows_come_back_in_order(run):
    rows = [{"iteration": i, "text": "ü\n\ud800", "nested": {"x": [1.5, None, True]}} for i in range(3)]
    for row in rows:
        run.append("metrics", row)
    assert run.rows("metrics") == rows
    assert run.rows("evals") == []


def test_what_json_cannot_hold_becomes_null_or_plain(run):
    run.append(
        "metrics",
        {"nan": float("nan"), "inf": [float("inf"), -1.0], "np": np.float64("nan"), "array": np.array([1.0, np.inf]),
         "flag": np.bool_(True), "count": np.int64(3), 7: (1, 2)},
    )  # fmt: skip
    text = (run.path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert run.rows("metrics") == [
        {"nan": None, "inf": [None, -1.0], "np": None, "array": [1.0, None], "flag": True, "count": 3, "7": [1, 2]}
    ]
    assert jsonable({"a": {"b": np.zeros((1, 2))}}) == {"a": {"b": [[0.0, 0.0]]}}


def test_an_unfinished_last_line_is_left_out(run):
    run.append("metrics", {"iteration": 1})
    run.append("metrics", {"iteration": 2})
    path = run.path / "metrics.jsonl"
    whole = path.read_text()
    for cut in range(1, len(whole.splitlines()[1]) + 1):
        path.write_text(whole[:-cut])
        assert run.rows("metrics") == [{"iteration": 1}]


def test_a_broken_line_is_named(run):
    run.append("metrics", {"iteration": 1})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": \n{"iteration": 3}\n')
    with pytest.raises(RunDirectoryError, match="line 2 is not JSON"):
        list(read_jsonl(run.path / "metrics.jsonl"))


def test_a_row_without_an_end_is_refused_before_it_fills_the_memory(run, monkeypatch):
    monkeypatch.setattr("stapo.run.rows.MOST_LINE", 1_000)
    run.append("metrics", {"iteration": 1})
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.truncate(1 << 40)
    rows = read_jsonl(run.path / "metrics.jsonl")
    assert next(rows) == {"iteration": 1}
    with pytest.raises(RunDirectoryError, match="line 2 is longer than 1,000 bytes"):
        next(rows)


def test_checkpoints_start_first_final_last(run):
    assert run.checkpoints() == []
    for name in ("final", "iteration-00010", "start", "iteration-00002"):
        run.checkpoint(name).mkdir(parents=True)
        (run.checkpoint(name) / "config.json").write_text("{}")
    run.checkpoint("half").mkdir()
    assert run.checkpoints() == ["start", "iteration-00002", "iteration-00010", "final"]


def test_transcripts_in_order(run):
    assert run.transcripts() == []
    (run.path / "transcripts").mkdir()
    for number in (10, 2):
        run.append(f"transcripts/iteration-{number:05d}", {"iteration": number})
    assert [p.name for p in run.transcripts()] == ["iteration-00002.jsonl", "iteration-00010.jsonl"]


# -- opening -----------------------------------------------------------------------------------------------------------


def test_a_run_that_does_not_exist(tmp_path):
    with pytest.raises(RunDirectoryError, match="does not exist"):
        RunDirectory.open(tmp_path / "nope")


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(RunDirectoryError, match="is not a run directory"):
        RunDirectory.open(tmp_path)


def test_a_run_of_a_later_format(run):
    run.write_info({**run.info(), "format": FORMAT_VERSION + 1})
    with pytest.raises(RunDirectoryError, match=f"has run format {FORMAT_VERSION + 1}"):
        RunDirectory.open(run.path)


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_a_damaged_run_json(run, text):
    (run.path / "run.json").write_text(text)
    with pytest.raises(RunDirectoryError, match=r"run\.json"):
        RunDirectory.open(run.path)


@pytest.mark.parametrize("data", [b"seed: [", b"- 1\n", b"\xff\xfe", b""])
def test_a_damaged_configuration(run, data):
    (run.path / "config.yaml").write_bytes(data)
    with pytest.raises(RunDirectoryError, match=r"config\.yaml"):
        run.config()


def test_the_configuration_is_plain_yaml(run):
    assert (run.path / "config.yaml").read_text() == "seed: 3\nenv:\n  name: toy\n"
    assert json.loads((run.path / "run.json").read_text())["format"] == FORMAT_VERSION
