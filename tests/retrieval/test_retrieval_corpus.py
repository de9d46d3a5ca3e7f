"""A corpus is read by place; a line that is not a passage is named with its number."""

from __future__ import annotations

import json

import pytest
from small_corpus import PASSAGES, write_corpus

from stapo import progress
from stapo.errors import CorpusError
from stapo.retrieval import Corpus, Passage


def test_passages_by_number(tmp_path):
    corpus = Corpus(write_corpus(tmp_path / "c.jsonl"))
    assert len(corpus) == 5
    assert corpus.passage(4, 1.5) == Passage(*PASSAGES[4], 1.5)
    assert corpus.passage(0).contents == '"Faust"\nA tragedy in two parts by Johann Wolfgang von Goethe.'
    assert [text.partition("\n")[0] for text in corpus.texts()] == [f'"{title}"' for _, title, _ in PASSAGES]
    with pytest.raises(IndexError):
        corpus.passage(5)


def test_blank_lines_numbers_as_ids_and_a_missing_last_line_feed(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('\n{"id": 7, "contents": "one line"}\n\n\n{"id": "x", "contents": "T\\nbody", "more": 1}')
    corpus = Corpus(path)
    assert [corpus.passage(i) for i in range(2)] == [Passage("7", "", "one line"), Passage("x", "T", "body")]


@pytest.mark.parametrize(
    "contents, title, text",
    [
        ('"A B"\nrest\nof it', "A B", "rest\nof it"),
        ("A B\nrest", "A B", "rest"),
        ('"\nrest', '"', "rest"),
        ('""\nrest', "", "rest"),
        ("all text", "", "all text"),
    ],
)
def test_titles(contents, title, text):
    found = Passage.of_contents("7", contents)
    assert (found.title, found.text, found.contents) == (title, text, contents)


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"id": "1"}', "line 3: no 'contents'"),
        ('{"id": "1", "contents": ""}', "line 3: 'contents' is ''"),
        ('{"id": "1", "contents": 5}', "line 3: 'contents' is '5'"),
        ('{"contents": "x"}', "line 3: no 'id'"),
        ('{"id": true, "contents": "x"}', "line 3: no 'id'"),
        ("[1]", "line 3: a list"),
        ('{"id": "1", "contents": "x', "line 3: no JSON"),
        ("\ufffe", "line 3: no JSON"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    path = tmp_path / "c.jsonl"
    good = json.dumps({"id": "0", "contents": "fine"})
    path.write_text(f"{good}\n{good}\n{line}\n{good}\n")
    with pytest.raises(CorpusError, match=message) as caught:
        Corpus(path)
    assert 'expected {"id": "0", "contents":' in str(caught.value)
    assert "c.jsonl" in str(caught.value)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'{"id": "1", "contents": "\xff\xfe"}\n')
    with pytest.raises(CorpusError, match="line 1: no JSON"):
        Corpus(path)


def test_files_that_are_no_corpus(tmp_path):
    with pytest.raises(CorpusError, match="No such file"):
        Corpus(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(CorpusError, match="has no passage"):
        Corpus(tmp_path / "empty.jsonl")
    with pytest.raises(CorpusError, match="Is a directory"):
        Corpus(tmp_path)


def test_a_file_that_changes_under_a_reader(tmp_path):
    path = write_corpus(tmp_path / "c.jsonl")
    corpus = Corpus(path)
    path.write_text("x" * path.stat().st_size)
    with pytest.raises(CorpusError, match="may have changed since its index was built"):
        corpus.passage(1)


def test_closed(tmp_path):
    corpus = Corpus(write_corpus(tmp_path / "c.jsonl"))
    corpus.close()
    corpus.close()
    with pytest.raises(CorpusError, match="is closed"):
        corpus.passage(0)


def test_reading_and_indexing_tell_how_far_they_are(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(progress, "_listeners", [lambda *words: told.append(words)])
    path = tmp_path / "c.jsonl"
    path.write_text("".join(f'{{"id": {i}, "contents": "passage {i}"}}\n' for i in range(2_500)))
    assert len(list(Corpus(path).texts())) == 2_500
    read, indexed = told[:2], told[2:]
    assert [(what, total) for what, _, total in read] == [("reading the corpus (bytes)", path.stat().st_size)] * 2
    assert 0 < read[0][1] < read[1][1] < path.stat().st_size
    assert indexed == [("indexing passages", 1_000, 2_500), ("indexing passages", 2_000, 2_500)]
