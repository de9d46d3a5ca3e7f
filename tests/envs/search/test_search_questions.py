"""Reading questions from files: what is taken, and what is said about what cannot be."""

from __future__ import annotations

import json
import sys

import pytest

from stapo.envs.search.loading import EVALUATION_SETS, read_questions, source_name
from stapo.envs.search.questions import Question, QuestionSet
from stapo.errors import ConfigError, GameFileError, UnknownNameError


def write(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def only(questions):
    (found,) = [questions.question(i) for i in questions.ids]
    return found


def test_flashrag_and_plain_lines(tmp_path):
    write(
        tmp_path / "nq_test.jsonl",
        {"id": "test_0", "question": " who? ", "golden_answers": ["A", "b"], "metadata": {}},
        "",
        {"question": "how many?", "golden_answers": 7},
    )
    write(tmp_path / "mine.jsonl", {"question": "where?", "golden_answers": "here", "split": "validation"})
    questions = read_questions([tmp_path])
    assert questions.splits == ["valid", "test"]
    assert {questions.question(i).source for i in questions.of_split("test")} == {"nq"}
    by_text = {q.text: q for q in map(questions.question, questions.ids)}
    assert by_text["who?"].golds == ("A", "b")
    assert by_text["how many?"].golds == ("7",)
    assert (by_text["where?"].source, by_text["where?"].golds) == ("mine", ("here",))
    assert questions.ids == sorted(questions.ids)


def test_rows_of_search_r1_and_verl_agent(tmp_path):
    r1 = {
        "data_source": "hotpotqa",
        "prompt": [{"role": "user", "content": "Answer ... who?"}],
        "question": "who?",
        "reward_model": {"style": "rule", "ground_truth": {"target": ["A"]}},
        "extra_info": {"split": "test", "index": 3},
    }
    assert only(read_questions([write(tmp_path / "a.jsonl", r1)])) == Question(
        only(read_questions([tmp_path / "a.jsonl"])).task_id, "who?", ("A",), "hotpotqa", "test"
    )
    verl = {
        "data_source": "searchR1_2wikimultihopqa",
        "env_kwargs": {"question": "where?", "ground_truth": {"target": ["B"]}, "data_source": "x"},
    }
    found = only(read_questions([write(tmp_path / "train.jsonl", verl)]))
    assert (found.text, found.golds, found.source, found.split) == ("where?", ("B",), "2wiki", "train")


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="the extra 'parquet' is not installed")
    from pyarrow import parquet

    rows = [
        {
            "data_source": "nq",
            "question": f"q{i}?",
            "golden_answers": ["a", "b"][: i + 1],
            "reward_model": {"style": "rule", "ground_truth": {"target": ["no"]}},
            "extra_info": {"split": "train", "index": i},
        }
        for i in range(2)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    questions = read_questions([tmp_path / "x.parquet"])
    assert sorted(questions.question(i).golds for i in questions.of_split("train")) == [("a",), ("a", "b")]

    parquet.write_table(pyarrow.Table.from_pylist([{"q": 1}]), tmp_path / "y.parquet")
    with pytest.raises(GameFileError, match=r"y.parquet', row 0, column 'question': found nothing.*columns here: q\."):
        read_questions([tmp_path / "y.parquet"])
    (tmp_path / "z.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(GameFileError, match=r"z.parquet' is no Parquet file that can be read"):
        read_questions([tmp_path / "z.parquet"])


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"needs pyarrow: pip install 'stapo\[parquet\]'"):
        read_questions([tmp_path / "x.parquet"])


GOOD = {"question": "q", "golden_answers": ["a"]}


@pytest.mark.parametrize(
    "rows, said",
    [
        ([GOOD, '{"question": "q"'], "line 2: no JSON"),
        ([GOOD, "[1]"], "line 2: found list, expected a JSON object"),
        ([GOOD, {"golden_answers": ["a"]}], "line 2, column 'question': found nothing, expected a text"),
        ([{"question": " ", "golden_answers": ["a"]}], "line 1, column 'question': found ' '"),
        ([{"question": 3, "golden_answers": ["a"]}], "line 1, column 'question': found 3"),
        ([{"question": "q"}], "line 1, column 'golden_answers': found nothing, expected at least one right answer"),
        ([{"question": "q", "golden_answers": []}], r"column 'golden_answers': found \[\]"),
        ([{"question": "q", "golden_answers": ["a", None]}], "column 'golden_answers': found .*None"),
        ([{"question": "q", "golden_answers": [""]}], "column 'golden_answers'"),
        ([{"question": "q", "golden_answers": [True]}], "column 'golden_answers'"),
        ([{"question": "q", "golden_answers": {"a": 1}}], "column 'golden_answers'"),
        (
            [{"question": "q", "reward_model": {"ground_truth": {"target": []}}}],
            r"column 'reward_model.ground_truth.target': found \[\].*columns here: question, reward_model",
        ),
        ([], "holds no question"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, rows, said):
    path = write(tmp_path / "bad.jsonl", *rows)
    with pytest.raises(GameFileError, match=rf"bad.jsonl'.*{said}"):
        read_questions([path])


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "bad.jsonl").write_bytes(b'{"question": "\xff"}')
    with pytest.raises(GameFileError, match="line 1: no JSON"):
        read_questions([tmp_path / "bad.jsonl"])
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert only(read_questions([tmp_path / "bom.jsonl"])).text == "q"


def test_missing_places(tmp_path):
    for place, said in ((tmp_path / "no.jsonl", "do not exist"), (tmp_path, "no questions in folder")):
        with pytest.raises(GameFileError, match=said):
            read_questions([place])
    (tmp_path / "x.csv").touch()
    with pytest.raises(GameFileError, match=r"no \.jsonl and no \.parquet"):
        read_questions([tmp_path / "x.csv"])


def test_ids_depend_on_the_content_alone(tmp_path):
    one = {"question": "q1", "golden_answers": ["a", "b"], "data_source": "nq"}
    two = {"question": "q2", "golden_answers": ["a"], "data_source": "nq"}
    first = read_questions([write(tmp_path / "a.jsonl", one, two)]).ids
    again = {**one, "golden_answers": ["b", "a"], "id": "other", "metadata": {"x": 1}}
    assert read_questions([write(tmp_path / "b.jsonl", two, again)]).ids == first
    assert len(first) == 2
    twice = read_questions([write(tmp_path / "d.jsonl", two, again, two)]).ids
    assert sorted(set(twice) - set(first)) == [f"{i}-2" for i in twice if f"{i}-2" in twice]
    assert len(twice) == 3
    changed = {**one, "golden_answers": ["a"]}
    assert len(set(read_questions([write(tmp_path / "c.jsonl", changed, two)]).ids) & set(first)) == 1


def test_splits_by_file_name(tmp_path):
    write(tmp_path / "a_test.jsonl", GOOD)
    write(tmp_path / "b-train-1.jsonl", GOOD)
    write(tmp_path / "contest.jsonl", {**GOOD, "question": "r"})
    questions = read_questions([tmp_path])
    assert questions.splits == ["train", "test"]
    assert [len(questions.of_split(s)) for s in questions.splits] == [2, 1]


def test_names_of_the_seven_sets():
    said = "nq_test_1k triviaqa_test_1k popqa hotpotqa-dev 2wikimultihopqa musique_dev bamboogle_test"
    assert tuple(map(source_name, said.split())) == EVALUATION_SETS
    assert source_name("nquad") == "nquad"
    assert source_name("searchR1_nq") == "nq"


def test_unknown_names():
    questions = QuestionSet([Question("a/1", "q", ("g",), "a", "train")])
    with pytest.raises(UnknownNameError, match=r"'a/2'.*Did you mean 'a/1'"):
        questions.question("a/2")
    with pytest.raises(UnknownNameError, match="unknown split 'tran'"):
        questions.of_split("tran")


def test_recorded_questions(shared):
    folder = shared / "data" / "searchqa"
    if not folder.is_dir():
        pytest.skip(f"no questions in {folder}")
    covered = read_questions([folder / "covered_questions.jsonl"])
    counts = {}
    for i in covered.ids:
        counts[covered.question(i).source] = counts.get(covered.question(i).source, 0) + 1
    assert counts == {"triviaqa": 736, "nq": 652, "popqa": 467, "2wiki": 800, "hotpotqa": 73, "bamboogle": 35}
    everything = read_questions([folder / "questions"])
    assert {"train", "dev", "test"} <= set(everything.splits)
    assert {everything.question(i).source for i in everything.ids} == set(EVALUATION_SETS)
