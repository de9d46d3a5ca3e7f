"""Reading questions from files: what is taken, and what is said about what cannot be."""

from __future__ import annotations

import gzip
import json
import lzma
import sys

import pytest

from stapo.envs.search.loading import read_questions, source_name
from stapo.envs.search.questions import Question, QuestionSet
from stapo.errors import ConfigError, GameFileError, UnknownNameError

EVALUATION_SETS = ("nq", "triviaqa", "popqa", "hotpotqa", "2wiki", "musique", "bamboogle")
"""The seven sets that the field reports."""


def write(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def only(questions):
    (found,) = [questions.question(i) for i in questions.tasks]
    return found


def test_flashrag_and_plain_lines(tmp_path):
    write(
        tmp_path / "nq_test.jsonl",
        {"id": "test_0", "question": " who? ", "golden_answers": ["Ann", "b"], "metadata": {}},
        "",
        {"question": "how many?", "golden_answers": 7},
    )
    write(tmp_path / "mine.jsonl", {"question": "where?", "golden_answers": "here", "split": "validation"})
    questions = read_questions([tmp_path])
    assert questions.splits == ("valid", "test")
    assert {questions.question(i).source for i in questions.tasks_of("test")} == {"nq"}
    by_text = {q.text: q for q in map(questions.question, questions.tasks)}
    assert by_text["who?"].golds == ("Ann", "b")
    assert by_text["how many?"].golds == ("7",)
    assert (by_text["where?"].source, by_text["where?"].golds) == ("mine", ("here",))
    assert questions.tasks == sorted(questions.tasks)


def test_rows_of_search_r1_and_verl_agent(tmp_path):
    r1 = {
        "data_source": "hotpotqa",
        "prompt": [{"role": "user", "content": "Answer ... who?"}],
        "question": "who?",
        "reward_model": {"style": "rule", "ground_truth": {"target": ["Ann"]}},
        "extra_info": {"split": "test", "index": 3},
    }
    assert only(read_questions([write(tmp_path / "a.jsonl", r1)])) == Question(
        only(read_questions([tmp_path / "a.jsonl"])).task_id, "who?", ("Ann",), "hotpotqa", "test"
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
            "golden_answers": ["ann", "b"][: i + 1],
            "reward_model": {"style": "rule", "ground_truth": {"target": ["no"]}},
            "extra_info": {"split": "train", "index": i},
        }
        for i in range(2)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    questions = read_questions([tmp_path / "x.parquet"])
    assert sorted(questions.question(i).golds for i in questions.tasks_of("train")) == [("ann",), ("ann", "b")]

    parquet.write_table(pyarrow.Table.from_pylist([{"q": 1}]), tmp_path / "y.parquet")
    with pytest.raises(GameFileError, match=r"y.parquet', row 0, column 'question': found nothing.*columns here: q\."):
        read_questions([tmp_path / "y.parquet"])
    (tmp_path / "z.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(GameFileError, match=r"z.parquet' is not a Parquet file that can be read"):
        read_questions([tmp_path / "z.parquet"])


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"needs pyarrow: pip install '\.\[parquet\]'"):
        read_questions([tmp_path / "x.parquet"])


GOOD = {"question": "q", "golden_answers": ["ann"]}


@pytest.mark.parametrize(
    "rows, said",
    [
        ([GOOD, '{"question": "q"'], "line 2: no JSON"),
        ([GOOD, "[1]"], "line 2: found list, expected a JSON object"),
        ([GOOD, {"golden_answers": ["ann"]}], "line 2, column 'question': found nothing, expected a text"),
        ([{"question": " ", "golden_answers": ["ann"]}], "line 1, column 'question': found ' '"),
        ([{"question": 3, "golden_answers": ["ann"]}], "line 1, column 'question': found 3"),
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
    one = {"question": "q1", "golden_answers": ["ann", "b"], "data_source": "nq"}
    two = {"question": "q2", "golden_answers": ["ann"], "data_source": "nq"}
    first = read_questions([write(tmp_path / "a.jsonl", one, two)]).tasks
    again = {**one, "golden_answers": ["b", "ann"], "id": "other", "metadata": {"x": 1}}
    assert read_questions([write(tmp_path / "b.jsonl", two, again)]).tasks == first
    assert len(first) == 2
    twice = read_questions([write(tmp_path / "d.jsonl", two, again, two)]).tasks
    assert sorted(set(twice) - set(first)) == [f"{i}-2" for i in twice if f"{i}-2" in twice]
    assert len(twice) == 3
    changed = {**one, "golden_answers": ["ann"]}
    assert len(set(read_questions([write(tmp_path / "c.jsonl", changed, two)]).tasks) & set(first)) == 1


def test_splits_by_file_name(tmp_path):
    write(tmp_path / "a_test.jsonl", GOOD)
    write(tmp_path / "b-train-1.jsonl", GOOD)
    write(tmp_path / "contest.jsonl", {**GOOD, "question": "r"})
    questions = read_questions([tmp_path])
    assert questions.splits == ("train", "test")
    assert [len(questions.tasks_of(s)) for s in questions.splits] == [2, 1]


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
        questions.tasks_of("tran")


def test_recorded_questions(shared):
    folder = shared / "data" / "searchqa"
    if not folder.is_dir():
        pytest.skip(f"no questions in {folder}")
    covered = read_questions([folder / "covered_questions.jsonl"])
    counts = {}
    for i in covered.tasks:
        counts[covered.question(i).source] = counts.get(covered.question(i).source, 0) + 1
    assert counts == {"triviaqa": 736, "nq": 652, "popqa": 467, "2wiki": 800, "hotpotqa": 73, "bamboogle": 35}
    everything = read_questions([folder / "questions"])
    assert {"train", "dev", "test"} <= set(everything.splits)
    assert {everything.question(i).source for i in everything.tasks} == set(EVALUATION_SETS)


VERL = {
    "data_source": "searchR1_nq",
    "prompt": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Answer the given question. … <answer> Beijing </answer>. Question: who is it?\n"},
    ],
    "ability": "fact-reasoning",
    "reward_model": {"style": "rule", "ground_truth": {"target": ["Ann", "Bea"]}},
    "extra_info": {
        "index": 0,
        "need_tools_kwargs": True,
        "question": "who is it?",
        "split": "test",
        "tools_kwargs": {
            "search": {"create_kwargs": {"data_source": "searchR1_nq", "question": "who is it?", "ground_truth": "Ann"}}
        },
    },
    "metadata": None,
}


def without(row, *path):
    """A copy of a row that lacks one key."""
    copy = json.loads(json.dumps(row))
    place = copy
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return copy


@pytest.mark.parametrize(
    "row",
    [
        VERL,
        without(VERL, "extra_info", "question"),
        without(without(VERL, "extra_info", "question"), "extra_info", "tools_kwargs"),
        without(VERL, "prompt"),
        {**VERL, "extra_info": json.dumps(VERL["extra_info"]), "reward_model": json.dumps(VERL["reward_model"])},
    ],
)
def test_verls_own_preprocessing(tmp_path, row):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "test.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    for found in (only(read_questions([path])), only(read_questions([write(tmp_path / "x.jsonl", row)]))):
        assert (found.text, found.golds, found.source, found.split) == ("who is it?", ("Ann", "Bea"), "nq", "test")


@pytest.mark.parametrize(
    "answers, golds",
    [
        ({"golden_answers": "Ann"}, ("Ann",)),
        ({"answer": "Ann"}, ("Ann",)),
        ({"Answer": "Ann"}, ("Ann",)),
        ({"answer": "Ann", "answer_aliases": ["Annie"]}, ("Ann", "Annie")),
        ({"answer": {"value": "Ann", "aliases": ["Annie"], "normalized_value": "ann"}}, ("Ann", "Annie")),
        ({"answers": ["Ann", 5]}, ("Ann", "5")),
        ({"answers": {"text": ["Ann"], "answer_start": [3]}}, ("Ann",)),
        ({"target": ["Ann"]}, ("Ann",)),
        ({"possible_answers": '["Ann", "Annie"]'}, ("Ann", "Annie")),
        ({"ground_truth": {"target": "Ann"}}, ("Ann",)),
        ({"reward_model": {"ground_truth": "Ann"}}, ("Ann",)),
        ({"extra_info": {"golden_answers": ["Ann"]}}, ("Ann",)),
        ({"golden_answers": None, "answer": "Ann"}, ("Ann",)),
        ({"answer": "[1]"}, ("[1]",)),
        ({"answer": "['Ann', 'Annie']"}, ("Ann", "Annie")),
        ({"answer": "['Ann' 'Annie'\n 'Bo']"}, ("Ann", "Annie", "Bo")),
        ({"answer": """['Ann', "Ann's"]"""}, ("Ann", "Ann's")),
        ({"answer": r"['Ann\'s',]"}, ("Ann's",)),
        ({"answer": "[Ann]"}, ("[Ann]",)),
        ({"answer": "['Ann"}, ("['Ann",)),
    ],
)
def test_forms_of_right_answers(tmp_path, answers, golds):
    assert only(read_questions([write(tmp_path / "x.jsonl", {"question": "who?", **answers})])).golds == golds


def test_folders_of_flashrag(tmp_path):
    row = {"id": "0", "question": "who?", "golden_answers": ["Ann"]}
    for place in ("nq/test.jsonl", "nq/train.jsonl", "my_set/test.jsonl", "hotpotqa/data/dev-00000-of-00001.jsonl"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / place, row)
    write(tmp_path / "nq" / "dataset_info.json", {"description": "no question"})
    write(tmp_path / "nq" / ".hidden.jsonl", "broken")
    questions = read_questions([tmp_path])
    found = {tuple(i.split("/")[:2]) for i in questions.tasks}
    assert found == {("nq", "test"), ("nq", "train"), ("my_set", "test"), ("hotpotqa", "dev")}
    one = read_questions([tmp_path / "nq" / "test.jsonl"])
    assert only(one).source == "nq"
    # Both are called test: the folders tell them apart.
    two = read_questions([tmp_path / "nq" / "test.jsonl", tmp_path / "my_set" / "test.jsonl"])
    assert {two.question(i).source for i in two.tasks} == {"nq", "my_set"}


def test_a_split_of_a_folder_below_the_one_that_was_given(tmp_path):
    (tmp_path / "test" / "validation").mkdir(parents=True)
    path = write(tmp_path / "test" / "validation" / "own.jsonl", {"question": "who?", "golden_answers": ["Ann"]})
    assert only(read_questions([tmp_path / "test"])).split == "valid"
    # Where the file was given by itself, the folders above it say nothing.
    assert only(read_questions([path])).split == "train"


def test_lists_and_compressed_lines(tmp_path):
    rows = [{"question": "who?", "answer": "Ann"}, {"question": "where?", "answer": "here"}]
    (tmp_path / "musique_dev.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(rows).encode())
    (tmp_path / "lines_dev.json").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "packed_dev.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode(), mtime=0))
    for name, source in (
        ("musique_dev.json", "musique"),
        ("lines_dev.json", "lines_dev"),
        ("packed_dev.jsonl.gz", "packed_dev"),
    ):
        questions = read_questions([tmp_path / name])
        assert sorted(questions.question(i).text for i in questions.tasks) == ["where?", "who?"]
        assert {(questions.question(i).source, questions.question(i).split) for i in questions.tasks} == {
            (source, "dev")
        }


@pytest.mark.parametrize("gold", ["A", "The", "?!", " an ", "the - a"])
def test_answers_that_an_empty_one_would_match_are_taken_out_and_counted(tmp_path, gold):
    rows = [
        {"question": "odd?", "golden_answers": [gold]},
        {"question": "half?", "golden_answers": [gold, "The Band"]},
        {"question": "fine?", "golden_answers": ["Ann"]},
    ]
    questions = read_questions([write(tmp_path / "x.jsonl", *rows)])
    assert {questions.question(i).text: questions.question(i).golds for i in questions.tasks} == {
        "half?": ("The Band",),
        "fine?": ("Ann",),
    }
    assert ["1 question left out" in text and "odd?" in text for text in questions.notes] == [True, False]
    assert "half?" in questions.notes[1]
    with pytest.raises(GameFileError, match="no question that can be scored"):
        read_questions([write(tmp_path / "y.jsonl", rows[0])])


@pytest.mark.parametrize(
    "content, said",
    [
        (b'{"question": ' + b"[" * 100_000, "line 1: no JSON"),
        (b'{"question": "q", "golden_answers": ' + b"9" * 10_000 + b"}", "line 1: no JSON"),
        (b'{"question": "q", "golden_answers": [NaN]}', "line 1, column 'golden_answers'"),
        (b'{"question": "q", "golden_answers": 1e999}', "line 1, column 'golden_answers'"),
        (b'{"question": "q", "golden_answers": ' + b"[" * 90 + b'"a"' + b"]" * 90 + b"}", "column 'golden_answers'"),
        (b"\x00\x01\x02\xff", "line 1: no JSON"),
        (b"\xef\xbb\xbf", "holds no question"),
        (b"", "holds no question"),
        (b"null", "found NoneType"),
    ],
)
def test_damage_is_one_error(tmp_path, content, said):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(GameFileError, match=rf"bad.jsonl'.*{said}"):
        read_questions([path])


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("bomb.jsonl.xz", lzma.compress(b"\0" * (40 << 20)), "line 1: longer than"),
        ("cut.jsonl.gz", gzip.compress(b'{"question": "q"}' * 99, mtime=0)[:-9], "damaged or cut off"),
        ("bad.json", b"[" + b"[" * 100_000, "nested too deeply"),
        ("cut.json", b'[{"question": "q", "answer": "a"}', "end of the file"),
    ],
)
def test_damaged_archives_and_lists(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GameFileError, match=said):
        read_questions([tmp_path / name])


def test_half_characters_are_kept_and_played(tmp_path):
    row = '{"question": "who \\ud800 is it?", "golden_answers": ["Ann\\udfff"], "data_source": "n\\ud801"}'
    found = only(read_questions([write(tmp_path / "x.jsonl", row)]))
    assert (found.text, found.golds) == ("who \ud800 is it?", ("Ann\udfff",))


@pytest.mark.parametrize(
    "place, source, split",
    [
        ("hotpot_dev_fullwiki_v1.jsonl", "hotpotqa", "dev"),
        ("hotpot_qa/validation.jsonl", "hotpotqa", "valid"),
        ("natural_questions/test.jsonl", "nq", "test"),
        ("trivia_qa/eval.jsonl", "triviaqa", "valid"),
        ("2wikimultihop/training.jsonl", "2wiki", "train"),
        ("my_set/testing.jsonl", "my_set", "test"),
        ("nqx/evaluation.jsonl", "nqx", "valid"),
    ],
)
def test_names_of_sets_and_splits_as_others_write_them(tmp_path, place, source, split):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    question = only(read_questions([write(path, {"question": "who?", "answer": "Ann"})]))
    assert (question.source, question.split) == (source, split)


def test_descriptions_beside_lists_are_no_questions(tmp_path):
    (tmp_path / "test.json").write_text('[{"question": "who?", "answer": "Ann"}]')
    for name in ("dataset_infos.json", "state.json"):
        (tmp_path / name).write_text('{"splits": []}')
    assert only(read_questions([tmp_path])).text == "who?"
