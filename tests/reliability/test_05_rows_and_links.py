"""5. Corruption is detected, in rows too, and nothing is written, cut, locked or deleted through a link."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import pytest
import yaml
from reliable import COMMON, ENVIRONMENTS

from slow import slow_except
from stapo.atomic_io import append_whole, cut_off, write_durably
from stapo.cli.main import main
from stapo.errors import RunDirectoryError
from stapo.html.pages import page_environment
from stapo.run import RunDirectory
from stapo.run.rows import RowHashes, damages, read_record

TINY = {
    **ENVIRONMENTS["alfworld"],
    "seed": 3,
    "model": {**COMMON["model"], "hidden_size": 8, "intermediate_size": 8, "vocab_size": 300},
    "sft": {"steps": 2, "episodes": 6, "batch_size": 2},
    "rollout": {"groups": 1, "group_size": 2},
    "optim": {"iterations": 2, "mini_batch": 8},
    "eval": {"episodes": 2, "every": 1, "quick_episodes": 1, "greedy": False},
    "log": {"transcript_every": 1, "save_seconds": 1000.0},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    (folder / "settings.yaml").write_text(yaml.safe_dump(TINY))
    assert main(["train", str(folder / "settings.yaml"), "--quiet", "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "in" / "run")
    (tmp_path / "outside").mkdir()
    return tmp_path / "in" / "run"


def digit(data, line):
    lines = data.splitlines(keepends=True)
    i = next(i for i, c in enumerate(lines[line]) if chr(c).isdigit())
    lines[line] = lines[line][:i] + bytes([lines[line][i] ^ 1]) + lines[line][i + 1 :]
    return b"".join(lines)


DAMAGES = {
    "a digit": (lambda data: digit(data, 1), 2),
    "not UTF-8": (lambda data: data[:40] + b"\xff" + data[41:], 1),
    "NUL": (lambda data: data[:-9] + b"\0" + data[-8:], 2),
    "torn": (lambda data: data[:-9], 2),
    "doubled": (lambda data: data.splitlines(keepends=True)[0] + data, 2),
    "removed": (lambda data: b"".join(data.splitlines(keepends=True)[1:]), 1),
    "added": (lambda data: b'{"iteration": 0}\n' + data, 1),
    "empty": (lambda data: b"", 1),
}


@pytest.mark.parametrize(
    "name, kind",
    slow_except(
        [
            ("evals.jsonl", "a digit"),
            ("eval_episodes.jsonl", "a digit"),
            *(("metrics.jsonl", kind) for kind in DAMAGES),
        ],
        ("evals.jsonl", "a digit"),
        ("metrics.jsonl", "torn"),
    ),
)
def test_a_damaged_row_is_named(run, capsys, name, kind):
    change, line = DAMAGES[kind]
    path = run / name
    path.write_bytes(change(path.read_bytes()))
    before = path.read_bytes()
    assert main(["resume", str(run), "--iterations", "3", "--quiet"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    # A file that became shorter is found by its length alone.
    assert f"{name}' line {line}" in said or f"{name}' holds less than was written" in said
    assert "Put the files back" in said
    assert path.read_bytes() == before
    assert main(["report", str(run)]) == 0
    assert f"{name}&#39; " in (run / "report.html").read_text()
    remarks = RunDirectory.open(run).remarks()
    assert len(remarks) == 1
    assert f"line {line}" in remarks[0]


def test_what_was_added_after_the_end_is_told(run, capsys):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 3, "success": 1.0}\n')
    assert main(["resume", str(run), "--quiet"]) == 0
    assert "metrics.jsonl' line 3 was added" in capsys.readouterr().err
    assert "metrics.jsonl&#39; line 3 was added" in (run / "report.html").read_text()


def test_evaluations_may_be_added_and_are_checked_before_others_are_played(run, capsys):
    assert main(["eval", str(run), "--episodes", "1", "--seeds", "0", "--save"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert RunDirectory.open(run).remarks() == []
    (run / "evals.jsonl").write_bytes(digit((run / "evals.jsonl").read_bytes(), 0))
    assert main(["eval", str(run), "--episodes", "1", "--seeds", "0"]) == 0
    assert "warning: " in capsys.readouterr().err


def test_a_damaged_transcript_costs_no_run(run, capsys):
    path = run / "transcripts" / "iteration-00001.jsonl"
    path.write_bytes(digit(path.read_bytes(), 1))
    info = json.loads((run / "run.json").read_text())
    assert main(["resume", str(run), "--iterations", "3", "--quiet"]) == 0
    assert "iteration-00001.jsonl' line 2 is not what was written" in capsys.readouterr().err
    # A checkpoint of a resumed run says nothing of where its tokenizer came from.
    for name in ("start", "final"):
        text = (run / "checkpoints" / name / "tokenizer_config.json").read_text()
        assert "is_local" not in text
        assert "local_files_only" not in text
    assert RunDirectory.open(run).info()["iterations"] == info["iterations"] + 1


def test_other_versions_are_told_once_and_noted(run, capsys, monkeypatch):
    monkeypatch.setattr("stapo.training.resume.versions", lambda: {"torch": "0.1", "numpy": "0.2"})
    assert main(["resume", str(run), "--iterations", "3", "--quiet"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "versions have changed" in line]
    assert len(said) == 1
    assert "torch" in said[0]
    assert "0.1 now" in said[0]
    assert "torch" in RunDirectory.open(run).info()["resumed"][-1]["versions"]


def test_hashes_grow_with_the_files_and_are_those_of_all_bytes(tmp_path):
    hashes = RowHashes(tmp_path)
    path = tmp_path / "metrics.jsonl"
    for n in range(5):
        append_whole(path, f'{{"n": {n}}}\n'.encode())
        assert hashes.catch_up(["metrics.jsonl"]) == {"metrics.jsonl": path.stat().st_size}
    facts = json.loads(hashes.record())["files"]["metrics.jsonl"]
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert damages(tmp_path, {"metrics.jsonl": facts}) == []
    # What was hashed is not read again: damage done while a run goes on is still damage later.
    path.write_bytes(digit(path.read_bytes(), 1))
    hashes.catch_up(["metrics.jsonl"])
    facts = json.loads(hashes.record())["files"]["metrics.jsonl"]
    assert "line 2" in damages(tmp_path, {"metrics.jsonl": facts})[0]


def test_the_record_is_sealed_with_its_save(run):
    save = RunDirectory(run).saves.complete()[0]
    assert {"metrics.jsonl", "evals.jsonl", "eval_episodes.jsonl", "sft.jsonl"} <= read_record(save).keys()
    (save / "rows.json").write_text('{"files": {}}')
    assert "rows.json" in RunDirectory(run).remarks()[0]


def everything(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder"
        for p in sorted(folder.rglob("*"))
    }


def commands(run, names):
    given = {
        "report": ["report", str(run)],
        "resume": ["resume", str(run), "--iterations", "3", "--quiet"],
        "train": ["train", str(run.parents[1] / "settings.yaml"), "--out", str(run), "--quiet"],
        "eval": ["eval", str(run), "--episodes", "1", "--save"],
        "diagnose": ["diagnose", str(run), "--tasks", "1"],
        "runs": ["compare", "--out", str(run.parent), "--quiet"],
    }
    return [given[name] for name in names]


def linked(path, outside):
    shutil.move(path, outside / path.name)
    path.symlink_to(outside / path.name)


def test_every_file_and_folder_as_a_link(finished, tmp_path, capsys):
    """Each entry of a run in turn leads outside; nothing there may change, and the link is named."""
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(TINY))
    entries = sorted(p.relative_to(finished) for p in finished.rglob("*"))
    assert len(entries) > 50
    for n, entry in enumerate(entries):
        run, outside = tmp_path / "in" / "run", tmp_path / "outside"
        shutil.copytree(finished, run)
        outside.mkdir()
        linked(run / entry, outside)
        before, inside = everything(outside), everything(run)
        chosen = ("report", ("resume", "train", "eval", "diagnose")[n % 4])
        for argv in commands(run, chosen):
            assert main(argv) == 2, (entry, argv)
            said = capsys.readouterr().err
            assert "is a symbolic link" in said, (entry, argv)
            assert f"{entry}'" in said, (entry, argv)
        assert everything(outside) == before, entry
        assert everything(run) == inside, entry
        shutil.rmtree(tmp_path / "in")
        shutil.rmtree(outside)


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", ".lock", "checkpoints/final/config.json"])
def test_a_pipe_is_refused_and_never_waited_for(run, capsys, name):
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    for argv in commands(run, ("report", "resume", "eval", "diagnose")):
        assert main(argv) == 2
        assert f"{name}' is a pipe" in capsys.readouterr().err


def test_the_run_itself_may_be_named_by_a_link(run, tmp_path):
    (tmp_path / "latest").symlink_to(run)
    assert main(["report", str(tmp_path / "latest")]) == 0
    assert (run / "report.html").is_file()


def test_the_name_of_the_folder_does_not_act_on_the_terminal(run, capsys):
    odd = run.with_name("a\x1b]0;b\x07\u202e")
    run.rename(odd)
    assert main(["resume", str(odd), "--quiet"]) == 0
    shown = "".join(capsys.readouterr())
    assert r"run directory: " in shown
    assert r"a\u{1b}]0;b\u{7}\u{202e}" in shown
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)


def test_old_temporary_names_are_no_way_out(run, tmp_path):
    target = tmp_path / "outside" / "mine"
    target.write_text("mine")
    for name in ("report.html.tmp", "run.json.tmp", "config.yaml.tmp"):
        (run / name).symlink_to(target)
    assert main(["report", str(run)]) == 0
    assert main(["resume", str(run), "--iterations", "3", "--quiet"]) == 0
    assert target.read_text() == "mine"


def test_other_names_of_a_file_keep_their_contents(run, tmp_path):
    outside = tmp_path / "outside"
    for name in ("metrics.jsonl", "evals.jsonl", "run.json", "config.yaml", "report.html"):
        os.link(run / name, outside / name)
    before = everything(outside)
    assert main(["resume", str(run), "--iterations", "3", "--quiet"]) == 0
    assert everything(outside) == before
    assert len(RunDirectory.open(run).rows("metrics")) == 3


def test_writers_keep_to_their_file(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("mine")
    link.symlink_to(target)
    for write in (lambda: append_whole(link, b"x"), lambda: cut_off(link, 0)):
        with pytest.raises(OSError, match="symbolic link"):
            write()
    write_durably(link, b"new")
    assert (target.read_text(), link.is_symlink(), link.read_text()) == ("mine", False, "new")
    other = tmp_path / "other"
    os.link(target, other)
    append_whole(other, b"!")
    cut_off(other, 2)
    assert (target.read_text(), other.read_text()) == ("mine", "mi")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "other", "target"]


ODD = {
    "done without evaluations": '{"format": 1, "status": "done", "iterations": 2}',
    "evaluations of another type": '{"format": 1, "status": "done", "iterations": 2, "evaluations": [7]}',
    "nested deep": "[" * 100_000 + "]" * 100_000,
    "a list": "[]",
    "null": "null",
    "a number": "7",
    "random": "\x00\x01\x02",
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_run_file_is_one_error(run, capsys, kind):
    (run / "run.json").write_text(ODD[kind])
    assert main(["resume", str(run), "--quiet"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert "run.json" in said


@pytest.mark.parametrize("text", ["seed: 2024-13-45", "a: &a [*a]", "!!int abc", "7", "x: [" * 2000, "\x00"])
def test_an_odd_configuration_is_one_error(run, capsys, text):
    (run / "config.yaml").write_text(text)
    for argv in commands(run, ("resume", "eval", "diagnose")):
        assert main(argv) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("error: ")
        assert "config.yaml" in said


@pytest.mark.parametrize(
    "text", ["[]", "null", "7", '{"files": []}', '{"files": {"/etc/hostname": {}}}', "[" * 100_000]
)
def test_an_odd_manifest_is_one_error(run, capsys, text):
    folder = run / "checkpoints" / "final"
    (folder / "manifest.json").write_text(text)
    (folder / "COMPLETE").write_text(hashlib.sha256(text.encode()).hexdigest())
    with pytest.raises(RunDirectoryError, match=r"manifest\.json"):
        RunDirectory.open(run).check_checkpoint("final")


def test_every_text_of_a_page_goes_through_one_filter():
    template = page_environment().from_string("{{ a }} {{ b | upper }} {{ c }}")
    page = template.render(a="x\u202ey", b="\x1b[31m", c="<b>")
    assert page == r"x\u{202e}y \u{1b}[31M &lt;b&gt;"
