"""Where the rows of others have the question, its right answers, its data set and its split.

Published files agree on none of it. What is looked at, in this order:

- question: ``question``, then that of ``env_kwargs`` (verl-agent), of ``extra_info`` and its ``tools_kwargs`` (verl's
  own preprocessing of Search-R1), ``query``, and what stands behind "Question:" in the prompt;
- right answers: ``golden_answers`` (FlashRAG), the ground truth of ``reward_model`` (Search-R1, verl) or of
  ``env_kwargs``, ``answers``, ``answer`` with ``answer_aliases``, ``target``, ``possible_answers`` (PopQA),
  ``ground_truth``; each one value, a list, or an object that holds them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from stapo.documents import parse_json

_MARK = "Question:"
_COLUMNS = ("answers", "answer", "Answer", "Answers", "target", "golden_answer", "possible_answers", "ground_truth")
# Keys of objects that hold answers: Search-R1, TriviaQA, SQuAD.
_INSIDE = ("value", "aliases", "text", "answers", "answer", "ground_truth")
_DEEPEST = 4
_TEXT = r"""(?:"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+')"""
_WRITTEN_LIST = re.compile(rf"\[\s*+{_TEXT}(?:\s*+,?\s*+{_TEXT})*+\s*+,?\s*+\]")
_QUOTED = re.compile(_TEXT)


def question_of(row: Mapping[str, Any]) -> Any:
    """The question of a row, or what stands in its place; None where there is nothing."""
    info = _mapping(row.get("extra_info"))
    places = (row, _mapping(row.get("env_kwargs")), info, *(kwargs for _, kwargs in _tools(info)))
    for key in ("question", "query", "Question", "Query"):
        for place in places:
            if place.get(key) is not None:
                return place[key]
    return _asked(row.get("prompt"))


def golds_of(row: Mapping[str, Any]) -> tuple[str, Any]:
    """The column that was read, and the right answers as a tuple of texts, or what was found in their place."""
    column, value = _golds(row)
    if isinstance(value, Mapping) and value.get("target") is not None:
        value = value["target"]
    listed = _flat(value, 0)
    if listed is None or not listed or not all(_is_answer(answer) for answer in listed):
        return column, value
    return column, tuple(str(answer) for answer in listed)


def said_source(row: Mapping[str, Any]) -> str:
    """The data set that a row names, or ""."""
    info = _mapping(row.get("extra_info"))
    for place in (row, _mapping(row.get("env_kwargs")), info):
        given = place.get("data_source")
        if isinstance(given, str) and given.strip():
            return given
    return ""


def said_split(row: Mapping[str, Any]) -> str:
    """The split that a row names, or ""."""
    said = row.get("split") or _mapping(row.get("extra_info")).get("split")
    return said if isinstance(said, str) else ""


def _golds(row: Mapping[str, Any]) -> tuple[str, Any]:
    if row.get("golden_answers") is not None:
        return "golden_answers", row["golden_answers"]
    info = _mapping(row.get("extra_info"))
    reward, kwargs = _mapping(row.get("reward_model")), _mapping(row.get("env_kwargs"))
    if reward.get("ground_truth") is not None:
        return "reward_model.ground_truth.target", reward["ground_truth"]
    if kwargs.get("ground_truth") is not None:
        return "env_kwargs.ground_truth", kwargs["ground_truth"]
    for name, place in (("", row), ("extra_info.", info), *_tools(info)):
        for column in ("golden_answers", *_COLUMNS):
            if place.get(column) is not None:
                value = place[column]
                aliases = place.get("answer_aliases") if column == "answer" else None
                return f"{name}{column}", value if not aliases else [value, aliases]
    return "golden_answers", None


def _tools(info: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, tool in _mapping(info.get("tools_kwargs")).items():
        yield f"extra_info.tools_kwargs.{name}.", _mapping(_mapping(tool).get("create_kwargs"))


def _asked(prompt: Any) -> str | None:
    """The question in a prompt: what its user says, behind the mark that published prompts have before it."""
    prompt = _parsed(prompt)
    if isinstance(prompt, list):
        said = [_mapping(message).get("content") for message in prompt if _mapping(message).get("role") == "user"]
        prompt = said[-1] if said else None
    if not isinstance(prompt, str):
        return None
    _, marked, question = prompt.partition(_MARK)
    if marked:
        return question
    # Without the mark, a prompt with tags is instructions and question in one.
    return None if "<" in prompt else prompt


def _mapping(value: Any) -> Mapping[str, Any]:
    value = _parsed(value)
    return value if isinstance(value, Mapping) else {}


def _parsed(value: Any) -> Any:
    """A value that was written as JSON in a text, as columns of Parquet files often are."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return parse_json(value)
        except ValueError:
            return value
    return value


def _flat(value: Any, depth: int) -> list[Any] | None:
    """Answers in a value, a list, or an object; None where they are in none."""
    if depth > _DEEPEST or value is None:
        return None
    if isinstance(value, str):
        inside = None if depth else _parsed(value)
        # "[1]" is an answer; '["a", "b"]' is a list that was written as text.
        if isinstance(inside, list) and inside and all(isinstance(entry, str) for entry in inside):
            return inside
        if not depth and _WRITTEN_LIST.fullmatch(value.strip()):
            # A list as Python or NumPy prints it, after a way through a table of text.
            return [re.sub(r"\\(.)", r"\1", quoted[1:-1]) for quoted in _QUOTED.findall(value)]
        return [value]
    if isinstance(value, int | float):
        return [value]
    if isinstance(value, Mapping):
        if value.get("target") is not None:
            return _flat(value["target"], depth)
        parts = [value[key] for key in _INSIDE if value.get(key) is not None]
        return _flat(parts, depth) if parts else None
    if isinstance(value, list | tuple):
        found: list[Any] = []
        for entry in value:
            inner = _flat(entry, depth + 1)
            if inner is None:
                return None
            found += inner
        return found
    return None


def _is_answer(value: object) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
