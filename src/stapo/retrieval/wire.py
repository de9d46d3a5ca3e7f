"""The two request shapes that retrieval servers speak, and the answers to them.

Search-R1 sends many queries in one request, ``{"queries": [...], "topk": 3, "return_scores": true}``; verl-agent
sends one, ``{"query": "...", "topk": 3, "return_scores": true}``. The answer is the same: ``{"result": [[...],
...]}`` with a list per query of ``{"document": {...}, "score": ...}``, or of documents alone where no scores were
asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from stapo.documents import parse_json
from stapo.errors import RetrieverError
from stapo.retrieval.protocol import Passage, bare_title, id_of
from stapo.texts import counted, replace_surrogates

Shape = Literal["batch", "single"]

_LARGEST_SCORE = 1e300


def requests_of(queries: Sequence[str], k: int, shape: Shape) -> list[dict[str, Any]]:
    """The bodies that ask for k passages per query: one for all in the shape "batch", one for each in "single"."""
    queries = [replace_surrogates(query) for query in queries]
    if shape == "batch":
        return [{"queries": queries, "topk": k, "return_scores": True}]
    return [{"query": query, "topk": k, "return_scores": True} for query in queries]


def answer_of(found: Sequence[Sequence[Passage]], *, scores: bool) -> dict[str, Any]:
    """The answer with these passages, one list per query."""
    if scores:
        return {"result": [[{"document": _document(p), "score": p.score} for p in one] for one in found]}
    return {"result": [[_document(p) for p in one] for one in found]}


def _document(passage: Passage) -> dict[str, str]:
    return {"id": replace_surrogates(passage.id), "contents": replace_surrogates(passage.contents)}


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
        record = parse_json(data)
    except ValueError as err:
        raise _malformed(name, f"no JSON ({err})") from None
    result = record.get("result") if isinstance(record, dict) else None
    if not isinstance(result, list):
        raise _malformed(name, "no list 'result'")
    if not result:
        raise RetrieverError(
            f"retriever {name} answered {counted(queries, 'query', 'queries')} with an empty list of results.", "empty"
        )
    if queries == 1 and isinstance(result[0], dict):
        result = [result]
    if len(result) != queries or not all(isinstance(one, list) for one in result):
        raise _malformed(
            name,
            f"{counted(len(result), 'result')} for {counted(queries, 'query', 'queries')}, or results that are no "
            "lists",
        )
    return [[_passage(hit, name) for hit in one[:k]] for one in result]


def _passage(hit: Any, name: str) -> Passage:
    document = hit.get("document", hit) if isinstance(hit, dict) else None
    if isinstance(document, str):
        document = {"contents": document}
    if not isinstance(document, dict):
        raise _malformed(name, "a passage that is not an object")
    score = hit.get("score", 0.0)
    if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) <= _LARGEST_SCORE:
        found = str(score)[:40] if isinstance(score, str | float) else type(score).__name__
        raise _malformed(name, f"the score {found!r}, which is not a number")
    identity = replace_surrogates(id_of(document) or "")
    contents = document.get("contents")
    if isinstance(contents, str):
        return Passage.of_contents(identity, replace_surrogates(contents), float(score))
    title: Any = document.get("title", "")
    text: Any = document.get("text")
    if not isinstance(text, str) or not isinstance(title, str):
        raise _malformed(name, "a passage without contents")
    return Passage(identity, replace_surrogates(bare_title(title)), replace_surrogates(text), float(score))


def _malformed(name: str, found: str) -> RetrieverError:
    return RetrieverError(
        f'retriever {name} answered with {found}; expected {{"result": [[{{"document": {{"contents": ...}}, "score": '
        "...}, ...], ...]}.",
        "malformed",
    )
