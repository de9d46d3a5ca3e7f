"""Reading questions: JSON lines (ours and FlashRAG's) and the Parquet files of Search-R1 and verl-agent.

A row needs a question and its right answers; everything else is optional. What is missing or damaged is named with
file, line and column, and nothing is left out in silence.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stapo.envs.paths import user_path
from stapo.envs.search.questions import Question, QuestionSet, digest_of
from stapo.errors import ConfigError, GameFileError

EVALUATION_SETS = ("nq", "triviaqa", "popqa", "hotpotqa", "2wiki", "musique", "bamboogle")
"""The seven sets that the field reports: three that one look-up answers, four that need several."""

_SUFFIXES = (".jsonl", ".parquet")
_SPLIT_WORDS = {word: word for word in ("train", "dev", "valid", "test", "heldout")} | {"validation": "valid"}


def read_questions(paths: Sequence[str | os.PathLike[str]]) -> QuestionSet:
    """Read files, or folders of ``*.jsonl`` and ``*.parquet`` files.

    The split of a question is what its row says (``split`` or ``extra_info.split``), else the word train, dev, valid,
    test or heldout in the name of its file, else train. Its source is ``data_source`` of the row, else the known set
    that the name of the file begins with, else that name.

    Raises:
        GameFileError: a file that is missing, of another kind, damaged or without questions.
        ConfigError: a Parquet file, and pyarrow is not installed.
    """
    found: list[Question] = []
    for path in [file for given in paths for file in _files(given)]:
        rows = _parquet_rows(path) if path.suffix == ".parquet" else _jsonl_rows(path)
        before = len(found)
        found += [_question(row, path, place) for place, row in rows]
        if len(found) == before:
            raise GameFileError(f"'{path}' holds no question; expected one per line.")
    return QuestionSet(found)


def source_name(name: str) -> str:
    """The name under which a data set is reported: "searchR1_nq" is "nq", "2wikimultihopqa" is "2wiki"."""
    plain = re.sub(r"^searchr1[_-]", "", name.strip().lower())
    return next((known for known in EVALUATION_SETS if re.match(rf"{known}(multihopqa|[_\-.]|$)", plain)), name.strip())


def _files(given: str | os.PathLike[str]) -> list[Path]:
    path = user_path(given)
    if path.is_dir():
        inside = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
        if not inside:
            raise GameFileError(f"no questions in folder '{path}'; expected *.jsonl or *.parquet files.")
        return inside
    if not path.exists():
        raise GameFileError(
            f"questions '{path}' do not exist; expected a .jsonl or .parquet file, or a folder of them. "
            "Leave questions out to play a generated world."
        )
    if path.suffix not in _SUFFIXES:
        raise GameFileError(f"'{path}' is no .jsonl and no .parquet file; convert it, or name it by what it holds.")
    return [path]


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                place = f"line {number}"
                try:
                    row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                except (ValueError, RecursionError) as err:
                    raise GameFileError(
                        f"'{path}', {place}: no JSON ({err}); expected one object per line. Repair or remove the line."
                    ) from err
                if not isinstance(row, dict):
                    raise GameFileError(f"'{path}', {place}: found {type(row).__name__}, expected a JSON object.")
                yield place, row
    except OSError as err:
        raise GameFileError(f"'{path}' cannot be read: {err.strerror or err}.") from err


def _parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as err:
        raise ConfigError(
            f"'{path}' is a Parquet file, and reading it needs pyarrow: pip install '.[parquet]' in a "
            "clone of the repository."
        ) from err
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield f"row {number}", row
                    number += 1
    except (ArrowException, OSError) as err:
        raise GameFileError(f"'{path}' is no Parquet file that can be read: {err}") from err


def _question(row: Mapping[str, Any], path: Path, place: str) -> Question:
    nested = row.get("env_kwargs")
    extra = nested if isinstance(nested, Mapping) else {}
    text = row.get("question", extra.get("question"))
    if not isinstance(text, str) or not text.strip():
        raise _wrong(path, place, "question", text, "a text", row)
    golds = _golds(row, extra, path, place)
    given = row.get("data_source", extra.get("data_source"))
    source = source_name(given if isinstance(given, str) and given.strip() else path.stem)
    info = row.get("extra_info")
    said = row.get("split") or (info.get("split") if isinstance(info, Mapping) else None)
    text = text.strip()
    split = _split(said, path)
    return Question(f"{source}/{split}/{digest_of(text, golds)}", text, golds, source, split)


def _golds(row: Mapping[str, Any], extra: Mapping[str, Any], path: Path, place: str) -> tuple[str, ...]:
    """From ``golden_answers``, else from the ground truth of a reward model or of an environment."""
    column, value = "golden_answers", row.get("golden_answers")
    if value is None:
        reward = row.get("reward_model")
        truth = reward.get("ground_truth") if isinstance(reward, Mapping) else extra.get("ground_truth")
        if truth is not None:
            column = "reward_model.ground_truth.target" if isinstance(reward, Mapping) else "env_kwargs.ground_truth"
            value = truth.get("target") if isinstance(truth, Mapping) else truth
    answers = [value] if isinstance(value, str | int | float) else value
    fine = isinstance(answers, Sequence) and answers and all(_is_answer(answer) for answer in answers)
    if not fine or answers is None:
        raise _wrong(path, place, column, value, "at least one right answer, as texts", row)
    return tuple(str(answer) for answer in answers)


def _is_answer(value: object) -> bool:
    return (isinstance(value, str) and bool(value.strip())) or (
        isinstance(value, int | float) and not isinstance(value, bool)
    )


def _split(said: object, path: Path) -> str:
    words = [said] if isinstance(said, str) and said else re.split(r"[^a-z]+", path.stem.lower())
    return next((_SPLIT_WORDS[word.lower()] for word in words if word.lower() in _SPLIT_WORDS), "") or (
        said if isinstance(said, str) and said else "train"
    )


def _wrong(path: Path, place: str, column: str, value: object, expected: str, row: Mapping[str, Any]) -> GameFileError:
    found = "nothing" if value is None else repr(value)[:60]
    columns = ", ".join(sorted(str(key) for key in row)[:12])
    return GameFileError(
        f"'{path}', {place}, column '{column}': found {found}, expected {expected}. The columns here: {columns}."
    )
