"""All recorded steps of a run as columns.

1. The table has every step of every transcript with its numbers, whether a summary was written or not.
2. A run that is being written: what is new is added, what was cut back is taken out.
3. Damage and foreign files are remarks, and the rest is there.
4. The full record of a step, and the steps that hold a text, are found.
5. From the saved numbers of an iteration the same steps are flagged as the run has flagged.
6. A resumed run goes on with what its save knows, and needs no summary.
7. The packed form holds the same numbers.
"""

from __future__ import annotations

import json
import os
import shutil
import struct

import numpy as np
import pytest

from stapo.algo import OutlierConfig, select_outliers
from stapo.errors import RunDirectoryError
from stapo.run import RunDirectory
from stapo.run.step_columns import STEP, TRAJECTORY, Span, check_summary, spans_of, summary_row
from stapo.run.step_table import StepTable
from stapo.viewer.tables import packed

FLAGS = {True: 1, False: 0, None: -1}


@pytest.fixture
def run(toy_run, tmp_path):
    """A copy of a finished run."""
    shutil.copytree(toy_run, tmp_path / "run")
    return tmp_path / "run"


def read(path, **limits):
    table = StepTable(path)
    table.refresh(**limits)
    return table


def recorded(path):
    """(record, step) of all transcripts, read without the code under test."""
    for file in sorted((path / "transcripts").glob("*.jsonl")):
        for line in file.read_text().splitlines():
            record = json.loads(line)
            yield from ((record, step) for step in record["steps"])


def check_against_transcripts(table, path):
    found = list(recorded(path))
    columns = table.columns
    assert table.rows == len(found) > 0
    for row, (record, step) in enumerate(found):
        at = {name: column[row] for name, column in columns.items()}
        assert at["iteration"] == record["iteration"]
        assert at["step"] == step["step"]
        for kinds, source in ((TRAJECTORY, {**record, **record["fences"]}), (STEP, step)):
            for name, kind in kinds.items():
                value = source.get(name)
                if name == "outlier":
                    assert at[name] == {"high": 1, "low": -1, None: 0}[value]
                elif kind == "text":
                    assert table.texts[name][at[name]] == (value or "")[:200]
                elif kind == "flag":
                    assert at[name] == FLAGS[value]
                elif kind == "key":
                    assert at[name] == int(value, 16)
                elif value is None:
                    assert np.isnan(at[name])
                else:
                    assert at[name] == pytest.approx(value, rel=1e-6)
    trajectories = [(r["iteration"], r["group"], r["member"]) for r, _ in found]
    assert columns["trajectory"].tolist() == [list(dict.fromkeys(trajectories)).index(t) for t in trajectories]


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_every_number_of_every_step_is_in_the_table(run):
    table = read(run)
    assert table.remarks == []
    check_against_transcripts(table, run)
    assert not table.refresh()


def test_without_summaries_the_same_numbers_come_from_the_transcripts(run):
    (run / "steps.jsonl").unlink()
    table = read(run)
    check_against_transcripts(table, run)
    assert "2 transcripts without a row in steps.jsonl" in table.remarks[0]
    assert table.batch(1) == {}


def test_slow_reading_can_be_done_in_parts(run):
    (run / "steps.jsonl").unlink()
    table = read(run, most_transcripts=1)
    assert table.pending == 1
    assert set(table.columns["iteration"].tolist()) == {1}
    assert table.refresh()
    assert table.pending == 0
    check_against_transcripts(table, run)


def test_nothing_is_written(run):
    def everything():
        return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(run.rglob("*"))}

    before = everything()
    table = read(run)
    table.trajectory(0)
    table.search("judge")
    assert everything() == before


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_new_rows_are_added_and_half_a_row_waits(run):
    path = run / "steps.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    transcript = run / "transcripts" / "iteration-00002.jsonl"
    shutil.move(transcript, run / "later")
    path.write_bytes(lines[0] + lines[1][:50])
    table = read(run)
    first = table.rows
    assert set(table.columns["iteration"].tolist()) == {1}
    assert not table.refresh()
    shutil.move(run / "later", transcript)
    with path.open("ab") as file:
        file.write(lines[1][50:])
    assert table.refresh()
    assert table.rows > first
    assert table.generation == 0
    check_against_transcripts(table, run)


def test_rows_that_were_cut_back_are_taken_out(run):
    table = read(run)
    lines = (run / "steps.jsonl").read_bytes().splitlines(keepends=True)
    (run / "steps.jsonl").write_bytes(lines[0])
    (run / "transcripts" / "iteration-00002.jsonl").unlink()
    assert table.refresh()
    assert table.generation == 1
    check_against_transcripts(table, run)


def test_a_transcript_that_is_written_anew_is_read_anew(run):
    (run / "steps.jsonl").unlink()
    table = read(run)
    path = run / "transcripts" / "iteration-00002.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert table.refresh()
    assert table.generation == 1
    check_against_transcripts(table, run)


# -- 3 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: b"{" + line,
        lambda line: b"[1]\n",
        lambda line: line.replace(b'"reward": [', b'"reward": ["x", ', 1),
        lambda line: line.replace(b'"steps": [3', b'"steps": [4', 1),
        lambda line: line.replace(b'"offset": [0', b'"offset": [-1', 1),
        lambda line: line.replace(b'"iteration": 1', b'"iteration": 99999999999', 1),
        lambda line: line.replace(b'"won"', b'"one"', 1),
        lambda line: b"\xff" + line,
    ],
)
def test_a_damaged_summary_is_passed_over_for_its_transcript(run, damage):
    lines = (run / "steps.jsonl").read_bytes().splitlines(keepends=True)
    changed = damage(lines[0])
    assert changed != lines[0]
    (run / "steps.jsonl").write_bytes(changed + lines[1])
    table = read(run)
    assert "steps.jsonl, row 1, is damaged" in table.remarks[0]
    order = np.argsort(table.columns["iteration"], kind="stable")
    assert table.columns["iteration"][order[0]] == 1
    assert table.rows == len(list(recorded(run)))


def test_a_summary_that_is_too_long_is_read_over_once(run, monkeypatch):
    lines = (run / "steps.jsonl").read_bytes().splitlines(keepends=True)
    longest = max(map(len, [*lines, *(line for p in run.glob("transcripts/*") for line in p.open("rb"))]))
    monkeypatch.setattr("stapo.run.step_table.MOST_LINE", longest)
    (run / "steps.jsonl").write_bytes(lines[0] + b" " * longest + lines[1])
    table = read(run)
    assert table.rows == len(list(recorded(run)))
    assert not table.refresh()
    assert table.generation == 0


def test_a_transcript_that_ends_within_a_line_is_shown_up_to_there(run):
    (run / "steps.jsonl").unlink()
    path = run / "transcripts" / "iteration-00001.jsonl"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 40])
    table = read(run)
    assert any("iteration-00001.jsonl ends within a line" in said for said in table.remarks)
    kept = sum(len(json.loads(line)["steps"]) for line in data.splitlines()[:-1])
    assert (table.columns["iteration"] == 1).sum() == kept


def test_lines_that_are_no_trajectories_are_named(run):
    (run / "steps.jsonl").unlink()
    path = run / "transcripts" / "iteration-00001.jsonl"
    odd = ['{"steps": 1}', '{"iteration": 1, "steps": [1]}', '{"iteration": 7, "steps": []}', "no JSON", "[" * 100_000]
    before = path.read_text()
    path.write_text("\n".join(odd) + "\n" + before)
    table = read(run)
    assert any("iteration-00001.jsonl, line at byte 0" in said for said in table.remarks)
    assert (table.columns["iteration"] == 1).sum() == sum(len(json.loads(x)["steps"]) for x in before.splitlines())


def test_odd_values_of_a_transcript_are_no_numbers(run):
    (run / "steps.jsonl").unlink()
    path = run / "transcripts" / "iteration-00001.jsonl"
    record = json.loads(path.read_text().splitlines()[0])
    record |= {"group": -3, "member": "a", "won": "yes", "fences": [1], "task_id": {"a": 1}, "score": 10**400}
    record["steps"][0] |= {
        "reward": "1",
        "tokens": 2**70,
        "valid": 1,
        "outlier": "<b>",
        "anchor_key": "zz",
        "action": 5,
    }
    path.write_text(json.dumps(record) + "\n")
    table = read(run)
    at = {name: column[0] for name, column in table.columns.items()}
    assert (at["group"], at["member"], at["won"], at["tokens"], at["valid"], at["outlier"]) == (0, 0, -1, 0, -1, 0)
    assert all(np.isnan(at[name]) for name in ("reward", "score", "q1", "anchor_key"))
    assert table.texts["task_id"][at["task_id"]] == table.texts["action"][at["action"]] == ""


def test_links_are_refused_and_never_followed(run, tmp_path):
    (tmp_path / "secret.jsonl").write_text('{"iteration": 3, "steps": []}\n')
    table = read(run)
    link = run / "transcripts" / "iteration-00003.jsonl"
    link.symlink_to(tmp_path / "secret.jsonl")
    table.refresh()
    assert any("iteration-00003.jsonl' cannot be read: a symbolic link" in said for said in table.remarks)
    with pytest.raises(RunDirectoryError, match="is a symbolic link"):
        StepTable(run)
    link.unlink()
    os.mkfifo(run / "steps.fifo")
    (run / "steps.jsonl").unlink()
    os.rename(run / "steps.fifo", run / "steps.jsonl")
    with pytest.raises(RunDirectoryError, match="is a pipe"):
        StepTable(run)


def test_a_link_in_the_place_of_the_folder_is_not_followed(run, tmp_path):
    table = StepTable(run)
    shutil.move(run / "transcripts", tmp_path / "elsewhere")
    (run / "steps.jsonl").unlink()
    (run / "transcripts").symlink_to(tmp_path / "elsewhere")
    assert not table.refresh()
    assert table.rows == 0


# -- 4 -----------------------------------------------------------------------------------------------------------------


def test_the_record_of_each_step_is_found(run):
    table = read(run)
    for row, (record, _) in enumerate(recorded(run)):
        assert table.trajectory(row) == record
    with pytest.raises(RunDirectoryError, match="there is no step"):
        table.trajectory(table.rows)


def test_a_record_that_has_moved_is_not_taken_for_another(run):
    table = read(run)
    path = run / "transcripts" / "iteration-00001.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(reversed(lines)))
    with pytest.raises(RunDirectoryError, match="another record at byte"):
        table.trajectory(0)
    path.write_text(" " * 10 + "".join(lines))
    with pytest.raises(RunDirectoryError, match="another record at byte"):
        table.trajectory(table.rows // 2 - 1)


@pytest.mark.parametrize("text", ["Heard something ODD", "\n", 'say "x"', "İ", "é"])
def test_a_search_finds_the_steps_that_hold_a_text(run, text):
    path = run / "transcripts" / "iteration-00001.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["steps"][1]["observation"] = 'It is é.\nİ say "X"'
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "steps.jsonl").unlink()
    table = read(run)
    expected = [
        row
        for row, (_, step) in enumerate(recorded(run))
        if any(text.casefold() in step[name].casefold() for name in ("observation", "action", "response"))
    ]
    assert expected
    assert table.search(text) == (expected, False)
    assert table.search(text, most=len(expected)) == (expected, False)
    assert table.search(text, most=0) == ([], True)
    assert table.search(text, seconds=-1) == ([], True)
    assert table.search("") == ([], False)


# -- 5 -----------------------------------------------------------------------------------------------------------------


def test_the_saved_numbers_of_an_iteration_give_its_flags(run):
    table = read(run)
    for iteration in (1, 2):
        (arrays,) = table.batch(iteration).values()
        here = table.columns["iteration"] == iteration
        assert len(arrays.entropy_b) > here.sum(), "there are groups without a transcript"
        found = select_outliers(arrays.entropy_b, arrays.anchor_b, np.isfinite(arrays.entropy_b), OutlierConfig())
        sides = found.high_b.astype(int) - found.low_b.astype(int)
        # The recorded groups are the first ones of the batch.
        assert sides[: here.sum()].tolist() == table.columns["outlier"][here].tolist()
        np.testing.assert_allclose(found.normalized_b[found.included_b], arrays.score_b[found.included_b], atol=1e-4)
        assert found.upper == pytest.approx(table.columns["upper"][here][0], abs=1e-4)


# -- 6 -----------------------------------------------------------------------------------------------------------------


def test_a_cut_takes_back_summaries_behind_the_save(toy_run, tmp_path):
    run = RunDirectory.create(tmp_path / "run", {}, ["test"])
    rows = RunDirectory(toy_run).rows("steps")
    run.append("steps", rows[0])
    positions = run.row_positions()
    run.append("steps", rows[1])
    run.cut_back(positions, 1)
    assert run.rows("steps") == rows[:1]


def test_a_lost_or_shortened_summary_stops_no_resume(toy_run, tmp_path):
    run = RunDirectory.create(tmp_path / "run", {}, ["test"])
    for row in RunDirectory(toy_run).rows("steps"):
        run.append("steps", row)
    positions = run.row_positions()
    with (run.path / "steps.jsonl").open("r+b") as file:
        file.truncate(100)
    assert run.holds(positions) is None
    run.cut_back(positions, 2)
    assert not (run.path / "steps.jsonl").exists(), "filled up with zeros it would be damaged for good"
    assert run.holds(positions) is None


# -- 7 -----------------------------------------------------------------------------------------------------------------


def unpacked(data):
    """As the browser reads it."""
    (length,) = struct.unpack("<I", data[:4])
    header = json.loads(data[4 : 4 + length])
    kinds = {"f32": "<f4", "f64": "<f8", "i8": "<i1", "u32": "<u4"}
    columns = {
        c["name"]: np.frombuffer(data, kinds[c["type"]], header["rows"], 4 + length + c["offset"])
        for c in header["columns"]
    }
    assert all((4 + length + c["offset"]) % 8 == 0 for c in header["columns"])
    return header, columns


@pytest.mark.parametrize("first", [0, 5, 10**6])
def test_the_packed_form_holds_the_same_numbers(run, first):
    table = read(run)
    header, columns = unpacked(packed(table, first))
    assert header["texts"] == table.texts
    cleaned, _ = unpacked(packed(table, first, str.upper))
    assert cleaned["texts"]["action"] == [text.upper() for text in table.texts["action"]]
    assert (header["generation"], header["first_row"]) == (0, first)
    assert columns.keys() == table.columns.keys()
    for name, column in table.columns.items():
        np.testing.assert_array_equal(columns[name], column[first:])


def test_a_summary_passes_its_own_check(run):
    path = run / "transcripts" / "iteration-00002.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    check_summary(summary_row(2, records, spans_of(path)))
    check_summary(summary_row(3, [], []))
    with pytest.raises(ValueError, match="'task_id' is missing"):
        check_summary({**summary_row(2, records[:1], [Span(0, 1)]), "trajectories": {"steps": [1]}})
