"""The two request shapes that retrieval servers speak, and the answers to them.

Search-R1 sends many queries in one request, ``{"queries": [...], "topk": 3, "return_scores": true}``; verl-agent
sends one, ``{"query": "...", "topk": 3, "return_scores": true}``. The answer is the same: ``{"result": [[...],
...]}`` with a list per query of ``{"document": {...}, "score": ...}``, or of documents alone where no scores were
asked for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Literal

from stapo.errors import RetrieverError
from stapo.retrieval.protocol import Passage, split_contents

Shape = Literal["batch", "single"]


def requests_of(queries: Sequence[str], k: int, shape: Shape) -> list[dict[str, Any]]:
    """The bodies that ask for k passages per query: one for all in the shape "batch", one for each in "single"."""
    if shape == "batch":
        return [{"queries": list(queries), "topk": k, "return_scores": True}]
    return [{"query": query, "topk": k, "return_scores": True} for query in queries]


def answer_of(found: Sequence[Sequence[Passage]], *, scores: bool) -> dict[str, Any]:
    """The answer with these passages, one list per query."""
    if scores:
        return {"result": [[{"document": _document(p), "score": p.score} for p in one] for one in found]}
    return {"result": [[_document(p) for p in one] for one in found]}


def _document(passage: Passage) -> dict[str, str]:
    return {"id": passage.id, "contents": passage.contents}


def read_answer(data: bytes, queries: int, k: int, name: str) -> list[list[Passage]]:
    """Read an answer of either kind.

    Args:
        data: the body.
        queries: how many lists are expected.
        k: at most how many passages of each list are kept.
        name: the retriever, for messages.

    Raises:
        RetrieverError: of kind "malformed" or "empty".
    """
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise _malformed(name, f"no JSON ({err})") from None
    result = record.get("result") if isinstance(record, dict) else None
    if not isinstance(result, list):
        raise _malformed(name, "no list 'result'")
    if not result:
        raise RetrieverError(f"retriever {name} answered {queries} queries with an empty list of results.", "empty")
    if queries == 1 and isinstance(result[0], dict):
        result = [result]
    if len(result) != queries or not all(isinstance(one, list) for one in result):
        raise _malformed(name, f"{len(result)} results for {queries} queries, or results that are no lists")
    return [[_passage(hit, name) for hit in one[:k]] for one in result]


def _passage(hit: Any, name: str) -> Passage:
    document = hit.get("document", hit) if isinstance(hit, dict) else None
    if isinstance(document, str):
        document = {"contents": document}
    if not isinstance(document, dict):
        raise _malformed(name, "a passage that is no object")
    score = hit.get("score", 0.0)
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise _malformed(name, f"the score {str(score)[:40]!r}, which is no number")
    contents = document.get("contents")
    title: Any = document.get("title", "")
    text: Any = document.get("text")
    if isinstance(contents, str):
        title, text = split_contents(contents)
    if not isinstance(text, str) or not isinstance(title, str):
        raise _malformed(name, "a passage without contents")
    return Passage(str(document.get("id", "")), title, text, float(score))


def _malformed(name: str, found: str) -> RetrieverError:
    return RetrieverError(
        f'retriever {name} answered with {found}; expected {{"result": [[{{"document": {{"contents": ...}}, "score": '
        "...}, ...], ...]}.",
        "malformed",
    )
