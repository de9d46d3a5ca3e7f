"""Corpora as others write them are read as they stand; files made to do harm are one error, soon, in little memory."""

from __future__ import annotations

import gzip
import json
import lzma
import resource
import subprocess
import sys
import time

import numpy as np
import pytest
from small_corpus import PASSAGES, write_corpus
from test_retrieval_server import quiet, start  # noqa: F401

from stapo.envs.search.env import SearchEnv
from stapo.errors import ConfigError, CorpusError, IndexFileError
from stapo.retrieval import BM25Index, Corpus, Passage, local, open_retriever
from stapo.retrieval import corpus as corpus_module
from stapo.retrieval.analyzer import words
from stapo.retrieval.index_files import open_array, read_manifest, written_whole

# Rows as they are found.


@pytest.mark.parametrize(
    "row, title, contents",
    [
        ({"id": "1", "title": "Rex", "text": "A king."}, "Rex", '"Rex"\nA king.'),
        ({"id": 1, "title": '"Rex"', "text": "A king.", "url": "x"}, "Rex", '"Rex"\nA king.'),
        ({"id": "1", "title": "", "text": "A king.\nA queen."}, "", "A king.\nA queen."),
        ({"id": "1", "title": None, "text": "A king."}, "", "A king."),
        ({"id": "1", "text": "A king."}, "", "A king."),
        ({"id": "1", "title": 1984, "text": "A novel."}, "1984", '"1984"\nA novel.'),
        ({"id": "1", "title": "Two\nlines", "text": "x"}, "Two lines", '"Two lines"\nx'),
        ({"_id": "1", "title": "Rex", "text": "A king."}, "Rex", '"Rex"\nA king.'),
        ({"docid": "1", "title": "Rex", "text": "A king."}, "Rex", '"Rex"\nA king.'),
        ({"id": 1.0, "contents": "Rex\nA king."}, "Rex", "Rex\nA king."),
        ({"id": "1", "contents": "Rex\nA king.", "title": "T", "text": "x"}, "Rex", "Rex\nA king."),
        ({"id": "1", "contents": '"Rex"\nA king.'}, "Rex", '"Rex"\nA king.'),
        ({"id": "1", "contents": '"Rex"\r\nA king.'}, "Rex", '"Rex"\r\nA king.'),
        ({"id": "1", "contents": "  Rex \nA king. \n"}, "Rex", "  Rex \nA king. \n"),
        ({"id": "1", "contents": "\nA king."}, "", "\nA king."),
        ({"id": "1", "contents": '""\nA king.'}, "", '""\nA king.'),
        ({"id": "1", "contents": "A king."}, "", "A king."),
        ({"id": "1", "contents": 'The "Rex"\nA king.'}, 'The "Rex"', 'The "Rex"\nA king.'),
    ],
)
def test_rows_come_back_as_they_stand(tmp_path, start, row, title, contents):  # noqa: F811
    """From the file, over HTTP, and by whoever asks there."""
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with open_retriever("bm25", corpus=path) as local:
        (found,) = local.search([contents], 1)[0]
        assert (found.id, found.title, found.contents) == ("1", title, contents)
        server = start(retriever=local)
        assert server.ask({"query": contents})[1]["result"][0] == [{"id": "1", "contents": contents}]
        with open_retriever(f"http://127.0.0.1:{server.port}") as remote:
            assert remote.search([contents], 1)[0][0].contents == contents


@pytest.mark.parametrize("protocol, expected", [
    ("search-r1", "\n\n<information>Doc 1(Title: Low Land) A land of kings.</information>\n\n"),
    ("stepwise", '<information>{"result": "Doc 1: Low Land\\nA land of kings."}</information>'),
])  # fmt: skip
def test_no_quotes_are_added_in_the_prompt(tmp_path, protocol, expected):
    (tmp_path / "c.jsonl").write_text('{"id": "1", "contents": "Low Land\\nA land of kings."}\n')
    (tmp_path / "q.jsonl").write_text('{"question": "Which land?", "golden_answers": ["Low Land"]}\n')
    env = SearchEnv(questions=str(tmp_path / "q.jsonl"), corpus=tmp_path / "c.jsonl", protocol=protocol)
    env.reset(env.tasks[0])
    assert env.step("<search>kings</search>").text == expected


def test_rows_with_titles_apart_make_the_same_prompt(tmp_path):
    """As the same passages in Search-R1's form."""
    (tmp_path / "q.jsonl").write_text('{"question": "Which land?", "golden_answers": ["Low Land"]}\n')
    shown = []
    for row in ({"contents": '"Low Land"\nA land.'}, {"title": "Low Land", "text": "A land."}):
        (tmp_path / "c.jsonl").write_text(json.dumps({"id": "1", **row}))
        env = SearchEnv(questions=str(tmp_path / "q.jsonl"), corpus=str(tmp_path / "c.jsonl"))
        env.reset(env.tasks[0])
        shown.append(env.step("<search>land</search>").text)
    assert shown == ['\n\n<information>Doc 1(Title: "Low Land") A land.</information>\n\n'] * 2


def test_files_of_other_systems(tmp_path, monkeypatch):
    """A byte order mark, line ends of Windows, blank lines; with an index in memory and on disk."""
    rows = [json.dumps({"id": i, "contents": f"T{i}\ntext {i}"}) for i in range(3)]
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(["", *rows, ""]).encode())
    for limit in (1 << 20, 0):
        monkeypatch.setattr(local, "IN_MEMORY_BYTES", limit)
        with open_retriever("bm25", corpus=path, cache=tmp_path / "cache") as retriever:
            assert retriever.search(["text 2"], 3)[0][0].id == "2"
            assert len(retriever.corpus) == 3


# Half characters.


def test_half_characters_are_replaced_everywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "IN_MEMORY_BYTES", 0)
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": "\\udc00", "contents": "\\"King \\ud800\\"\\nrules \\udfff lands"}\n')
    for name, options in (("bm25", {}), ("tantivy", {}), ("dense", {"embed": "hashing"})):
        if name == "tantivy":
            pytest.importorskip("tantivy")
        with open_retriever(name, corpus=path, cache=tmp_path / "cache", **options) as retriever:
            (found,) = retriever.search(["rules \ud800 lands"], 1)[0]
        assert (found.id, found.contents) == ("?", '"King ?"\nrules ? lands')


# Files made to do harm.

GOOD = b'{"id": "1", "contents": "fine"}\n'


@pytest.mark.parametrize(
    "data, message",
    [
        (GOOD + b'{"id": "2", "contents": ' + b"[" * 200_000, "line 2: no JSON"),
        (GOOD + b'{"id": "2", "contents": ' + b"[" * 900 + b"]" * 900 + b"}", "line 2: 'contents' is a list"),
        (GOOD + b'{"id": "2", "contents": ' + b"9" * 5_000 + b"}", "line 2: no JSON"),
        (GOOD + b'{"id": [[1]], "contents": "x"}', "line 2: no 'id'"),
        (GOOD + b'{"id": "2", "title": ["T"], "text": "x"}', "line 2: 'title' is a list"),
        (GOOD + b'{"id": "2", "title": "T", "text": {"a": 1}}', "line 2: 'text' is a dict"),
        (GOOD + b'{"id": "2", "title": " ", "text": " "}', "line 2: neither title nor text"),
        (GOOD + b'{"id": "2", "contents": "' + b"word " * 2_000_000 + b'"}\n', "line 2: longer than 8,388,608 bytes"),
        (b"x" * 10_000_000, "line 1: longer than"),
        (b"\0" * 10_000_000, "line 1: longer than"),
        ('{"id": "1", "contents": "x"}\n'.encode("utf-16"), "line 1: no JSON"),
        (gzip.compress(GOOD, mtime=0), "is compressed.*gzip -d"),
        (lzma.compress(GOOD), "is compressed.*xz -d"),
    ],
)
def test_corpora_that_are_none(tmp_path, data, message):
    path = tmp_path / "c.jsonl"
    path.write_bytes(data)
    for name in ("bm25", "tantivy"):
        with pytest.raises(CorpusError, match=message) as caught:
            open_retriever(name, corpus=path, cache=tmp_path / "cache")
        assert len(str(caught.value)) < 1000
        assert "\n" not in str(caught.value)


def test_a_line_of_gigabytes_takes_little_memory(tmp_path):
    """3 GB without a line feed (a sparse file), with 700 MB of address space."""
    path = tmp_path / "c.jsonl"
    path.write_bytes(GOOD)
    with path.open("r+b") as file:
        file.truncate(3 << 30)
    code = (
        "import sys; from stapo.retrieval import Corpus\ntry: Corpus(sys.argv[1])\n"
        "except Exception as err: print(type(err).__name__, err)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (700 << 20, 700 << 20)),
    )  # fmt: skip
    assert done.stdout.startswith("CorpusError")
    assert "line 2: longer than" in done.stdout


def test_blank_lines_behind_a_passage_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "MOST_LINE_BYTES", 1000)
    path = tmp_path / "c.jsonl"
    path.write_bytes(GOOD + b"\n" * 100_000)
    read = []
    pread = corpus_module.os.pread
    monkeypatch.setattr(corpus_module.os, "pread", lambda fd, size, place: read.append(size) or pread(fd, size, place))
    assert Corpus(path).passage(0) == Passage("1", "", "fine")
    assert read == [1000]


@pytest.mark.parametrize(
    "text", ["\u203f" * 200_000, "_\u0301" * 100_000, "_" * 500_000, "a_" * 100_000, "é." * 100_000]
)
def test_words_are_found_in_time_that_grows_with_the_text(text):
    """Runs of joiners took 22 seconds for 10,000 characters."""
    start_s = time.process_time()
    list(words(text))
    assert time.process_time() - start_s < 5


def test_joiners_still_belong_to_words():
    assert list(words("__a_b__ c_ __ _ d\u203fe \u203f f")) == ["__a_b__", "c_", "d\u203fe", "f"]


# Indexes that lie.


def rewritten(folder, change):
    """The manifest of an index, changed."""
    path = folder / "manifest.json"
    record = change(json.loads(path.read_text()))
    path.write_text(record if isinstance(record, str) else json.dumps(record))


def facts(**new):
    return lambda record: {**record, "facts": {**record["facts"], **new}}


def sizes(value):
    return lambda record: {**record, "files": {k: {**v, "bytes": value} for k, v in record["files"].items()}}


@pytest.mark.parametrize(
    "change",
    [
        lambda record: [record],
        lambda record: "null",
        lambda record: "[" * 100_000,
        lambda record: '"\\ud800"',
        lambda record: "{" + " " * 2_000_000 + "}",
        lambda record: {**record, "files": [1]},
        lambda record: {**record, "files": {"a": 5}},
        lambda record: {**record, "files": {"../../etc/passwd": {"bytes": 1, "sha256": ""}}},
        lambda record: {**record, "files": {"/etc/passwd": {"bytes": 1, "sha256": ""}}},
        lambda record: {**record, "kind": ["bm25"]},
        lambda record: {**record, "kind": "\x1b[31mred"},
        lambda record: {**record, "version": "1e999"},
        lambda record: json.dumps(record).replace('"version": 1', '"version": 1e999'),
        lambda record: {**record, "facts": 5},
        lambda record: json.dumps(sizes(-1)(record)).replace("-1", "1e999"),
        sizes(1 << 62),
        sizes(-5),
        facts(documents=1 << 60),
        facts(documents=-1),
        facts(documents=[5]),
        facts(documents=1.5),
        facts(documents=2),
        facts(k1="x"),
        facts(analyzer="\x1b[31m" * 1000),
    ],
)
def test_manifests_that_lie(tmp_path, change):
    folder = tmp_path / "index"
    BM25Index.build(["red shoes", "blue shoes", "a sock"]).save(folder)
    rewritten(folder, change)
    start_s = time.process_time()
    with pytest.raises(IndexFileError) as caught:
        BM25Index.open(folder)
    assert time.process_time() - start_s < 5
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "name, array",
    [
        ("documents", np.array([4_000_000_000] * 5, np.uint32)),
        ("documents", np.zeros(3, np.uint32)),
        ("starts", np.array([0, 9, 2, 3, 5], np.int64)),
        ("starts", np.array([0, -1, 2, 3, 5], np.int64)),
        ("starts", np.zeros(0, np.int64)),
        ("impacts", np.zeros(2, np.float32)),
        ("impacts", np.zeros((5, 1), np.float32)),
        ("bounds", np.zeros(4, np.float64)),
    ],
)
def test_arrays_that_do_not_belong_together(tmp_path, name, array):
    """With a manifest that vouches for them."""
    BM25Index.build(["red shoes", "blue shoes", "a sock"]).save(tmp_path / "index")
    record = json.loads((tmp_path / "index" / "manifest.json").read_text())
    with written_whole(tmp_path / "lies", "bm25", 1, record["facts"]) as inside:
        for file in record["files"]:
            (inside / file).write_bytes((tmp_path / "index" / file).read_bytes())
        np.save(inside / f"{name}.npy", array)
    read_manifest(tmp_path / "lies", "bm25", 1)
    with pytest.raises(IndexFileError):
        BM25Index.open(tmp_path / "lies")


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<i8', 'fortran_order': False, 'shape': (999999999999999,), }",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        b"(" * 100,
        b"{'descr': [('a', '<i8')], 'fortran_order': 1, 'shape': 5}",
        b"{'descr': '<i8'",
        b"\xff" * 50,
        b"{'descr': '<i8', 'fortran_order': False, 'shape': (-1,), }",
    ],
)
@pytest.mark.parametrize("more", [0, 200])
def test_headers_of_arrays_that_lie(tmp_path, header, more):
    path = tmp_path / "a.npy"
    text = header.ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * more)
    with pytest.raises(IndexFileError):
        open_array(path, np.int64)


def test_an_index_of_another_corpus_is_built_anew(tmp_path, monkeypatch, capsys):
    """Its files are whole, and the passages that they number are not there."""
    monkeypatch.setattr(local, "IN_MEMORY_BYTES", 0)
    corpus = write_corpus(tmp_path / "c.jsonl")
    open_retriever("bm25", corpus=corpus, cache=tmp_path / "cache").close()
    (index,) = (tmp_path / "cache").glob("*/bm25-*")
    BM25Index.build([f"otter {i}" for i in range(9)]).save(index)
    (places,) = (tmp_path / "cache").glob("*/passages")
    with written_whole(places, "passages", 1, {"passages": 5}) as inside:
        np.save(inside / "starts.npy", np.array([0, 1 << 50, 1 << 51, 1 << 52, 1 << 53, 1 << 54], np.int64))
    with open_retriever("bm25", corpus=corpus, cache=tmp_path / "cache") as retriever:
        assert retriever.search(["otter"], 1)[0][0] == Passage(*PASSAGES[3], retriever.search(["otter"], 1)[0][0].score)
    assert capsys.readouterr().err.count("Building it anew") == 2


# Secrets.

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "address",
    [
        f"http://user:{SECRET}@127.0.0.1:1",
        f"http://{SECRET}@127.0.0.1:1/retrieve",
        f"HTTPS://user:{SECRET}@example.org",
        f"http://127.0.0.1:1/retrieve?api_key={SECRET}",
        f"http://127.0.0.1:1/retrieve?x=1&token={SECRET}",
        f"http://127.0.0.1:1/retrieve#access_token={SECRET}",
        f"http://127.0.0.1:1#{SECRET}",
        f"http://user:{SECRET}@127.0.0.1:99999",
        f"http://user:{SECRET}@[::1",
        f"ftp://user:{SECRET}@example.org",
        f"user:{SECRET}@example.org",
    ],
)
def test_addresses_with_secrets_are_refused_and_not_shown(address):
    with pytest.raises(ConfigError) as caught:
        open_retriever(address)
    assert SECRET not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        SearchEnv(retriever=address)
    assert SECRET not in str(caught.value)


def test_corpora_are_no_addresses(tmp_path):
    for corpus in (f"https://user:{SECRET}@example.org/c.jsonl", f"https://example.org/c.jsonl?token={SECRET}"):
        for refused in (lambda c=corpus: open_retriever("bm25", corpus=c), lambda c=corpus: SearchEnv(corpus=c)):
            with pytest.raises(ConfigError) as caught:
                refused()
            assert SECRET not in str(caught.value)
    with pytest.raises(ConfigError, match="download it first"):
        open_retriever("bm25", corpus="https://example.org/c.jsonl")


def test_no_command_writes_a_secret_down(tmp_path, capsys):
    from stapo.cli.main import main

    address = f"http://user:{SECRET}@127.0.0.1:1"
    (tmp_path / "run.yaml").write_text(f"env:\n  name: search\n  options:\n    retriever: {address}\n")
    for args in (
        ["train", "search-tiny", "--env.retriever", address, "--out", str(tmp_path / "run")],
        ["train", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "run")],
        ["verl", "search-tiny", "--env.retriever", address, "--print"],
        ["envs", "search", "--env.retriever", address],
        ["serve-retriever", address],
    ):
        assert main(args) == 2, args
        shown = "".join(capsys.readouterr())
        assert SECRET not in shown, args
        assert shown.count("\n") == 1 or args[0] == "envs", args
    assert not (tmp_path / "run").exists()
