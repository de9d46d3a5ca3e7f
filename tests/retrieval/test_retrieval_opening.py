"""Retrievers by name: each finds, caches, and says what is missing."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from small_corpus import PASSAGES, write_corpus

from stapo.errors import ConfigError, CorpusError, IndexFileError, UnknownNameError
from stapo.retrieval import RETRIEVERS, Passage, Retriever, open_retriever
from stapo.retrieval import dense as dense_module
from stapo.retrieval import local as local_module
from stapo.stored import default_cache

LOCAL = {"bm25": {}, "tantivy": {}, "dense": {"embed": "hashing"}}
NEEDS = {"tantivy": "tantivy"}


@pytest.fixture(params=LOCAL)
def local(request):
    """Name and options of each retriever of this machine."""
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param])
    return request.param, LOCAL[request.param]


@pytest.fixture
def on_disk(monkeypatch):
    """Even the smallest corpus gets an index on disk."""
    monkeypatch.setattr(local_module, "IN_MEMORY_BYTES", 0)


def test_finds(local, tmp_path):
    name, options = local
    corpus = write_corpus(tmp_path / "c.jsonl")
    with open_retriever(name, corpus=corpus, cache=tmp_path / "cache", **options) as retriever:
        assert isinstance(retriever, Retriever)
        faust, otter, nothing = retriever.search(["Goethe: Faust, tragedies", "otters, rivers", "…"], 2)
        assert faust[0] == Passage(*PASSAGES[0], faust[0].score)
        assert otter[0].id == "a4"
        assert faust[0].score >= faust[1].score
        assert name == "dense" or nothing == []
        assert retriever.search([], 2) == []
        with pytest.raises(ConfigError, match="k is 0"):
            retriever.search(["x"], 0)


def test_index_is_built_once_and_found_by_content(local, tmp_path, on_disk, monkeypatch):
    name, options = local
    corpus = write_corpus(tmp_path / "c.jsonl")
    open_retriever(name, corpus=corpus, cache=tmp_path / "cache", **options).close()
    manifests = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("manifest.json")}
    assert len(manifests) == 2  # the index, and the places of the passages
    copied = corpus.rename(tmp_path / "renamed.jsonl")
    with open_retriever(name, corpus=copied, cache=tmp_path / "cache", **options) as retriever:
        assert retriever.search(["otter"], 1)[0][0].id == "a4"
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("manifest.json")} == manifests
    write_corpus(copied, [("n", "New", "entirely other words"), *PASSAGES])
    with open_retriever(name, corpus=copied, cache=tmp_path / "cache", **options) as retriever:
        assert retriever.search(["entirely other"], 1)[0][0].id == "n"
    assert len(list((tmp_path / "cache").rglob("manifest.json"))) == 4


def test_a_damaged_index_is_built_anew(local, tmp_path, on_disk, capsys):
    name, options = local
    corpus = write_corpus(tmp_path / "c.jsonl")
    open_retriever(name, corpus=corpus, cache=tmp_path / "cache", **options).close()
    for manifest in (tmp_path / "cache").rglob("manifest.json"):
        record = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**record, "version": 99}))
    with open_retriever(name, corpus=corpus, cache=tmp_path / "cache", **options) as retriever:
        assert retriever.search(["otter"], 1)[0][0].id == "a4"
    assert capsys.readouterr().err.count("has format version 99") == 2


def test_several_processes_open_one_corpus_at_once(local, tmp_path):
    """None of them has an index at the start; each finds, and one index stays."""
    name, options = local
    corpus = write_corpus(tmp_path / "c.jsonl")
    code = (
        "from stapo.retrieval import local, open_retriever; local.IN_MEMORY_BYTES = 0\n"
        f"r = open_retriever({name!r}, corpus={str(corpus)!r}, cache={str(tmp_path / 'cache')!r}, **{options!r})\n"
        "print(r.search(['otter'], 1)[0][0].id)"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in running:
        assert process.communicate(timeout=300) == ("a4\n", "")
    assert len(list((tmp_path / "cache").rglob("manifest.json"))) == 2


def test_a_small_corpus_leaves_no_file(tmp_path):
    corpus = write_corpus(tmp_path / "c.jsonl")
    open_retriever("bm25", corpus=corpus, cache=tmp_path / "cache").close()
    assert not (tmp_path / "cache").exists()


def test_unknown_names_and_options(tmp_path):
    with pytest.raises(UnknownNameError, match=r"unknown retriever 'bm52'\. Did you mean 'bm25'\?.*http://host:port"):
        open_retriever("bm52", corpus="x")
    with pytest.raises(ConfigError, match=r"has no option 'kl'\. Did you mean 'k1'"):
        open_retriever("bm25", corpus="x", kl=1)
    with pytest.raises(ConfigError, match=r"has no option 'total'\. Did you mean 'total_s'"):
        open_retriever("http://127.0.0.1:1", total=1)
    with pytest.raises(ConfigError, match="'bm25' needs a corpus"):
        open_retriever("bm25")
    with pytest.raises(CorpusError, match="No such file"):
        open_retriever("bm25", corpus=tmp_path / "none.jsonl")
    with pytest.raises(CorpusError, match="is not a file"):
        open_retriever("dense", embed="hashing", corpus=tmp_path / "none.jsonl", cache=tmp_path)


def test_a_cache_that_cannot_be_written(tmp_path, on_disk):
    (tmp_path / "file").write_text("")
    with pytest.raises(IndexFileError, match=r"cannot be written.*STAPO_CACHE"):
        open_retriever("bm25", corpus=write_corpus(tmp_path / "c.jsonl"), cache=tmp_path / "file")


def test_default_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("STAPO_CACHE", str(tmp_path / "own"))
    assert default_cache() == tmp_path / "own"
    monkeypatch.delenv("STAPO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "stapo"


@pytest.mark.parametrize(
    "name, options, module, install",
    [
        ("tantivy", {}, "tantivy", r"\.\[retrieval\]"),
        ("dense", {"embed": "some/model"}, "sentence_transformers", r"\.\[dense\]"),
    ],
)
def test_missing_packages_are_named(tmp_path, monkeypatch, name, options, module, install):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"pip install '{install}'"):
        open_retriever(name, corpus=write_corpus(tmp_path / "c.jsonl"), cache=tmp_path / "cache", **options)
    assert not (tmp_path / "cache").exists()


def test_own_retriever_by_registration(monkeypatch):
    monkeypatch.setattr(RETRIEVERS, "_objects", dict(RETRIEVERS._objects))
    RETRIEVERS.register("mine", lambda *, corpus, cache, greeting="hi": (corpus, greeting))
    assert open_retriever("mine", corpus="c", greeting="hey") == ("c", "hey")


def test_importing_stays_cheap():
    heavy = ("httpx2", "starlette", "tantivy", "faiss", "torch")
    code = f"import sys; import stapo.retrieval; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout == "[]\n"


# Dense only.


class Axes:
    """A text is the axis that its first letter names: a inner product is worked out by looking."""

    name = "axes-1"

    def __call__(self, texts):
        vectors = np.zeros((len(texts), 4), np.float32)
        for row, text in enumerate(texts):
            vectors[row, "abcd".index(text.strip('"')[0].lower())] = 1 + text.count("!")
        return vectors


LETTERS = [("1", "a", "x"), ("2", "b!", "x"), ("3", "b", "x"), ("4", "b!!", "x"), ("5", "b", "x")]


@pytest.mark.parametrize("flat", [100, 2])
def test_inner_products_by_hand(tmp_path, monkeypatch, flat):
    """Exactly, and by faiss once there are more passages than `FLAT_PASSAGES`."""
    if flat == 2:
        pytest.importorskip("faiss")
    index = tmp_path / "index"
    texts = [f'"{title}"' for _, title, _ in LETTERS]
    dense_module.DenseIndex.build(texts, index, Axes(), flat_passages=flat)
    assert (index / "clusters.faiss").exists() == (flat == 2)
    found = dense_module.DenseIndex.open(index, Axes()).search_many(["b", "a!"], 4)
    assert found == [[(3, 3.0), (1, 2.0), (2, 1.0), (4, 1.0)], [(0, 2.0), (1, 0.0), (2, 0.0), (3, 0.0)]]


def test_blocks_do_not_matter(tmp_path, monkeypatch):
    texts = [f"w{i % 7} w{i % 11} w{i}" for i in range(50)]
    embed = dense_module.HashingEmbedder()
    dense_module.DenseIndex.build(texts, tmp_path / "index", embed)
    index = dense_module.DenseIndex.open(tmp_path / "index", embed)
    whole = index.search_many(texts[:10], 12)
    monkeypatch.setattr(dense_module, "_BLOCK", 9)
    for expected, found in zip(whole, index.search_many(texts[:10], 12), strict=True):
        assert [s for _, s in found] == pytest.approx([s for _, s in expected], abs=1e-6)


@pytest.mark.parametrize(
    "embed, message",
    [
        (lambda texts: np.zeros((len(texts), 2)), "has no name"),
        ("", "needs embed=..."),
    ],
)
def test_embedders_that_cannot_be_used(tmp_path, embed, message):
    with pytest.raises(ConfigError, match=message):
        open_retriever("dense", corpus=write_corpus(tmp_path / "c.jsonl"), cache=tmp_path / "cache", embed=embed)


@pytest.mark.parametrize(
    "vectors, message",
    [
        (np.zeros((1, 2)), r"shape \(1, 2\), expected \(2, any\)"),
        (np.zeros(2), r"shape \(2,\)"),
        (np.full((2, 2), np.nan), "NaN or infinity"),
    ],
)
def test_vectors_that_cannot_be_used(tmp_path, vectors, message):
    embed = Axes()
    embed.__class__ = type("Bad", (Axes,), {"__call__": lambda self, texts: vectors})
    with pytest.raises(ConfigError, match=message):
        dense_module.DenseIndex.build(["a", "b"], tmp_path / "index", embed)
    assert os.listdir(tmp_path) == []


def test_another_embedder_is_refused(tmp_path):
    dense_module.DenseIndex.build(["a"], tmp_path / "index", Axes())
    with pytest.raises(IndexFileError, match="built with the embedder 'axes-1', asked for 'hashing-256'"):
        dense_module.DenseIndex.open(tmp_path / "index", dense_module.HashingEmbedder())


def test_sentence_transformers_gets_its_prefixes(monkeypatch):
    """A stand-in for the library: what reaches the model, and that code of the model is never run."""
    seen = []

    class Model:
        def __init__(self, name, device, trust_remote_code):
            assert (name, trust_remote_code) == ("some/model", False)

        def encode(self, texts, **options):
            seen.append(texts)
            assert options["normalize_embeddings"]
            return np.ones((len(texts), 3))

    library = type(sys)("sentence_transformers")
    library.SentenceTransformer = Model
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    embed = importlib.import_module("stapo.retrieval.dense").SentenceEmbedder(
        "some/model", query_prefix="query: ", passage_prefix="passage: "
    )
    assert embed(["p"]).dtype == np.float32
    embed.queries(["q"])
    assert seen == [["passage: p"], ["query: q"]]
    assert embed.name == "some/model|passage: "
