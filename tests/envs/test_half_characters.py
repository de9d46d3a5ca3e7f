"""Data with unpaired surrogates, as scraped texts have them, is played like any other."""

from __future__ import annotations

import importlib.util
import json

import pytest

import stapo

HALF = "\ud800"


def write(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def play(env, *commands):
    """Every text of an episode; each can be written to a file."""
    seen = env.reset(env.tasks[0])
    texts = [seen.text, seen.goal, seen.blind]
    for command in commands:
        out = env.step(command)
        texts.append(out.text)
    return texts, out


@pytest.mark.parametrize("retriever", ["bm25", "tantivy"])
def test_search(tmp_path, monkeypatch, retriever):
    if retriever == "tantivy" and importlib.util.find_spec("tantivy") is None:
        pytest.skip("tantivy is not installed")
    monkeypatch.setenv("STAPO_CACHE", str(tmp_path / "cache"))
    questions = write(tmp_path / "own.jsonl", {"question": f"who is {HALF}?", "golden_answers": [f"Ann {HALF}"]})
    corpus = write(tmp_path / "corpus.jsonl", {"id": "0", "contents": f'"Ann"\nAnn {HALF} is here.'})
    env = stapo.make("search", questions=questions, corpus=corpus, retriever=retriever)
    texts, out = play(env, f"<search>Ann {HALF}</search>", f"<answer>Ann {HALF}</answer>")
    assert HALF in texts[1]
    assert "is here" in texts[3]
    assert (out.won, out.reward) == (True, 1.0)


def test_webshop(tmp_path, monkeypatch):
    monkeypatch.setenv("STAPO_CACHE", str(tmp_path / "cache"))
    row = {"asin": "B0A", "name": f"Soft mug {HALF}", "query": "mug", "pricing": "$5", "small_description": [HALF],
           "customization_options": {"color": [{"value": f"red {HALF}"}]}}  # fmt: skip
    products = write(tmp_path / "items_shuffle_1.json", json.dumps([row]))
    write(
        tmp_path / "items_ins_v2_1.json",
        {"B0A": {"attributes": ["soft"], "instruction": f"Find {HALF}", "instruction_attributes": ["soft"]}},
    )
    env = stapo.make("webshop", products=products)
    texts, out = play(env, f"search[soft mug {HALF}]", "click[b0a]", f"click[red {HALF}]", "click[buy now]")
    assert HALF in texts[1]
    assert (out.done, out.won) == (True, True)
