"""Scores and order are Lucene's; an index on disk is the index that was saved, or an error says why not."""

from __future__ import annotations

import gzip
import json
import math
import threading

import numpy as np
import pytest
from webshop_documents import webshop_documents

from slow import slow_except
from stapo.errors import ConfigError, IndexFileError
from stapo.retrieval import BM25Index
from stapo.retrieval.postings import LENGTHS, length_codes
from stapo.retrieval.ranking import rank_all, rank_pruned

PETS = ["cat dog", "cat cat fish", "bird", ""]


def test_scores_worked_by_hand():
    """N = 3 documents have terms, mean length 6 / 3 = 2; k1 0.9, b 0.4."""
    index = BM25Index.build(PETS)
    idf_cat = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))  # in 2 of 3
    first = idf_cat * 1 / (1 + 0.9 * (0.6 + 0.4 * 2 / 2))
    second = idf_cat * 2 / (2 + 0.9 * (0.6 + 0.4 * 3 / 2))
    assert second > first
    assert index.search("cats", 5) == [(1, pytest.approx(second, rel=1e-6)), (0, pytest.approx(first, rel=1e-6))]
    idf_fish = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    fish = idf_fish * 1 / (1 + 0.9 * (0.6 + 0.4 * 3 / 2))
    assert index.search("fish cat cat", 1) == [(1, pytest.approx(2 * second + fish, rel=1e-6))]


def test_other_parameters():
    """k1 = 0 leaves idf alone."""
    index = BM25Index.build(PETS, k1=0, b=1)
    assert index.search("cat") == [(0, pytest.approx(math.log(1.6))), (1, pytest.approx(math.log(1.6)))]


def test_ties_go_by_id():
    index = BM25Index.build(["b a1", "a1 c", "x", "a1 d"])
    assert [i for i, _ in index.search("a1", 2)] == [0, 1]
    assert [i for i, _ in index.search("a1", 9)] == [0, 1, 3]


@pytest.mark.parametrize("query", ["", "the of", "unheard", "…"])
def test_nothing_to_find(query):
    assert BM25Index.build(PETS).search(query) == []


def test_no_documents():
    index = BM25Index.build([])
    assert len(index) == 0
    assert index.search("cat") == []


@pytest.mark.parametrize("length, kept", [(0, 0), (39, 39), (40, 40), (41, 40), (50, 50), (100, 96), (300, 280)])
def test_lengths_are_rounded_as_in_lucene(length, kept):
    assert LENGTHS[length_codes(np.array([length]))[0]] == kept


def test_lengths_ascend_up_to_the_largest_integer():
    assert (np.diff(LENGTHS) > 0).all()
    # 255 stands for 2^31 - 1 rounded down: 24 + 15 * 2^27.
    assert LENGTHS[255] == 24 + 15 * 2**27


@pytest.mark.parametrize("bad", [{"k1": -1}, {"k1": math.nan}, {"b": 1.1}, {"b": math.nan}])
def test_parameters_are_checked(bad):
    with pytest.raises(ConfigError, match=r"expected a number (of 0 or more|from 0)"):
        BM25Index.build(PETS, **bad)


def test_misuse_is_named():
    with pytest.raises(ConfigError, match="document 1 is a NoneType"):
        BM25Index.build(["a", None])
    with pytest.raises(ConfigError, match="k is 0"):
        BM25Index.build(PETS).search("cat", 0)


def test_recorded_rankings(shared):
    """Of 285 recorded queries each has Lucene's hits in Lucene's order, all 50 of them, ties included."""
    documents = webshop_documents(shared)
    asins = list(documents)
    index = BM25Index.build(documents.values())
    with gzip.open(shared / "golden" / "webshop" / "search_bm25_top50.json.gz", "rt") as file:
        recorded = json.load(file)
    assert len(recorded) == 285
    for one in recorded:
        hits = one["hits"]
        found = index.search(one["query"], len(hits) or 50)
        assert [asins[i] for i, _ in found] == [asin for asin, _ in hits], one["query"]
        assert [score for _, score in found] == pytest.approx([score for _, score in hits], abs=1e-4)


def zipf_texts(n, seed):
    """Few common words, many rare ones."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return [" ".join(f"w{w}" for w in generator.zipf(1.3, generator.integers(1, 40))) for _ in range(n)]


@pytest.mark.parametrize("k", slow_except([1, 10, 100, 5000], 10))
def test_leaving_out_finds_the_same(k):
    """`rank_pruned` and `rank_all` agree to the bit, on queries of common and of rare words."""
    index = BM25Index.build(zipf_texts(3000, seed=1))
    for query in zipf_texts(150, seed=2):
        rows = {index._terms.find(t): 1 + len(t) % 3 for t in index.analyzer(query)}
        rows.pop(-1, None)
        if rows:
            expected, found = rank_all(index._postings, rows, k), rank_pruned(index._postings, rows, k)
            assert np.array_equal(expected[0], found[0])
            assert np.array_equal(expected[1], found[1])


def test_saved_and_opened(tmp_path):
    texts = zipf_texts(200, seed=3)
    index = BM25Index.build(texts, k1=1.2, b=0.75)
    index.save(tmp_path / "deep" / "index")
    opened = BM25Index.open(tmp_path / "deep" / "index")
    assert (opened.k1, opened.b, len(opened)) == (1.2, 0.75, 200)
    assert opened.search_many(texts[:20], 5) == index.search_many(texts[:20], 5)
    # Nothing but the index is left behind, and nothing of it is a pickle.
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["index"]
    assert {p.suffix for p in (tmp_path / "deep" / "index").iterdir()} == {".npy", ".json"}


def test_empty_index_is_saved_too(tmp_path):
    BM25Index.build([]).save(tmp_path / "index")
    assert BM25Index.open(tmp_path / "index").search("cat") == []


def test_saving_replaces_and_readers_stay(tmp_path):
    BM25Index.build(PETS).save(tmp_path / "index")
    reader = BM25Index.open(tmp_path / "index")
    BM25Index.build(["zebra"]).save(tmp_path / "index")
    assert [i for i, _ in reader.search("fish")] == [1]
    assert [i for i, _ in BM25Index.open(tmp_path / "index").search("zebra")] == [0]


def test_many_writers_and_readers_of_one_folder(tmp_path):
    folder, seen, errors = tmp_path / "index", [], []
    BM25Index.build(PETS).save(folder)

    def write():
        for _ in range(10):
            BM25Index.build(PETS).save(folder)

    def search(index):
        for _ in range(50):
            seen.append(index.search("fish cat", 1)[0][0])

    def guarded(job, *args):
        try:
            job(*args)
        except Exception as err:
            errors.append(err)

    index = BM25Index.open(folder)
    threads = [threading.Thread(target=guarded, args=(write,)) for _ in range(3)]
    threads += [threading.Thread(target=guarded, args=(search, index)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert seen == [1] * 200
    assert BM25Index.open(folder).search("fish")[0][0] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def damage_bytes(folder):
    path = folder / "impacts.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def other_version(folder):
    record = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**record, "version": 99}))


def other_kind(folder):
    record = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**record, "kind": "dense"}))


@pytest.mark.parametrize(
    "damage, message",
    [
        (damage_bytes, "impacts.npy does not match its hash. Build it anew"),
        (other_version, "has format version 99, this version of stapo reads 1"),
        (other_kind, "is of kind 'dense', expected 'bm25'"),
        (lambda folder: (folder / "starts.npy").unlink(), "starts.npy is missing"),
        (lambda folder: (folder / "starts.npy").write_bytes(b"x"), "starts.npy has 1 bytes, expected"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json is not a manifest"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json is not a manifest"),
        (lambda folder: (folder / "manifest.json").unlink(), "it has no manifest.json"),
    ],
)
def test_what_is_no_index_is_named(tmp_path, damage, message):
    BM25Index.build(PETS).save(tmp_path / "index")
    damage(tmp_path / "index")
    with pytest.raises(IndexFileError, match=message):
        BM25Index.open(tmp_path / "index")


def test_objects_are_not_unpickled(tmp_path):
    """An array of objects is refused even where the hashes are right."""
    BM25Index.build(PETS).save(tmp_path / "index")
    np.save(tmp_path / "index" / "impacts.npy", np.array([{}] * 40, object), allow_pickle=True)
    record = json.loads((tmp_path / "index" / "manifest.json").read_text())
    del record["files"]["impacts.npy"]
    (tmp_path / "index" / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(IndexFileError, match="cannot be read"):
        BM25Index.open(tmp_path / "index")


class Letters:
    name = "letters"

    def __call__(self, text):
        return list(text)


def test_another_analyzer_is_refused(tmp_path):
    index = BM25Index.build(["abc", "bcd"], analyzer=Letters())
    assert [i for i, _ in index.search("d")] == [1]
    index.save(tmp_path / "index")
    assert [i for i, _ in BM25Index.open(tmp_path / "index", analyzer=Letters()).search("d")] == [1]
    with pytest.raises(IndexFileError, match="built with the analyzer 'letters', asked for 'lucene-english-1'"):
        BM25Index.open(tmp_path / "index")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(IndexFileError, match="cannot be written"):
        BM25Index.build(PETS).save(tmp_path / "file" / "index")
