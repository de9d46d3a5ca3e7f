"""Reading questions: JSON lines (ours, FlashRAG's), JSON lists, the Parquet files of Search-R1, verl and verl-agent.

A row needs a question and its right answers; everything else is optional. What is missing or damaged is named with
file, line and column, and nothing is left out in silence. Which columns hold what is in `stapo.envs.search.rows`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stapo.checks import user_path
from stapo.documents import compression_of, parse_json, read_lines
from stapo.envs.overlap import in_common, plain_text
from stapo.envs.search.questions import Question, QuestionSet, digest_of
from stapo.envs.search.rows import golds_of, question_of, said_source, said_split
from stapo.envs.search.scoring import normalize_answer
from stapo.envs.webshop.streaming import iter_list
from stapo.errors import ConfigError, GameFileError
from stapo.texts import counted

_SET_NAMES = {
    "nq": "nq|natural[_-]?questions",
    "triviaqa": "trivia[_-]?qa",
    "popqa": "pop[_-]?qa",
    "hotpotqa": "hotpot([_-]?qa)?",
    "2wiki": "2wiki(multi[_-]?hop([_-]?qa)?)?",
    "musique": "musique",
    "bamboogle": "bamboogle",
}
"""How files and rows call the sets, as regular expressions."""
_DESCRIPTIONS = frozenset(("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"))
_BOM = b"\xef\xbb\xbf"
_PACKED = (".gz", ".xz", ".bz2", ".zst")
_SUFFIXES = (".jsonl", ".json", ".parquet", *(f".jsonl{packed}" for packed in _PACKED))
_SPLIT_WORDS = {word: word for word in ("train", "dev", "valid", "test", "heldout")} | {
    "validation": "valid",
    "val": "valid",
    "eval": "valid",
    "evaluation": "valid",
    "development": "dev",
    "training": "train",
    "testing": "test",
}
# Folders between a data set's own and its files.
_NO_NAMES = frozenset(("data", "default", "raw", "parquet", "jsonl", "json", "questions", "dataset", "datasets", ""))
_MOST_LIST_BYTES = 1 << 30
_EXAMPLES = 3


def read_questions(paths: Sequence[str | os.PathLike[str]]) -> QuestionSet:
    """Read files (JSON lines, JSON lists, Parquet; JSON lines may be compressed), or folders of them, also nested ones.

    The split of a question is what its row says (``split`` or ``extra_info.split``), else the word train, dev, valid,
    test or heldout in the name of its file or, below a folder that was given, of its folder, else train. Its source is
    ``data_source`` of the row, else the known set that the name of the file begins with, else that name; where the name
    is the split's alone (``nq/test.jsonl``), the folder's.

    Right answers of which nothing is left to compare ("The", "?!") are taken out: an empty answer would win. A question
    without any other is left out. Both, and questions that several splits ask, are counted in the `notes` of the set.

    Raises:
        GameFileError: a file that is missing, of another kind, damaged or without questions.
        ConfigError: a Parquet file, and pyarrow is not installed.
    """
    found: list[Question] = []
    left_out: list[str] = []
    thinned: list[str] = []
    for path, folders in [file for given in paths for file in _files(given)]:
        rows = _parquet_rows(path) if path.suffix == ".parquet" else _rows(path)
        kept = seen = 0
        for place, row in rows:
            seen += 1
            question = _question(row, path, place, folders)
            golds = tuple(gold for gold in question.golds if normalize_answer(gold))
            if len(golds) < len(question.golds):
                (thinned if golds else left_out).append(f"{question.text[:60]!r} ({path.name}, {place})")
            if golds:
                kept += 1
                found.append(replace(question, golds=golds))
        if not seen:
            raise GameFileError(f"'{path}' holds no question; expected one per line.")
        if not kept:
            raise GameFileError(
                f"'{path}' holds no question that can be scored: of its right answers nothing is left without case, "
                'punctuation and articles ("A", "The", "?!"). Write them out.'
            )
    return QuestionSet(found, [*_said(left_out, thinned), *overlap_notes(found)])


def overlap_notes(questions: Iterable[Question]) -> list[str]:
    """Which splits ask the same questions, compared without case, width, blanks and the marks at the end."""
    texts: dict[str, list[str]] = {}
    for question in questions:
        texts.setdefault(question.split, []).append(plain_text(question.text))
    ranked = sorted(texts, key=lambda split: split != "train")
    return [
        f"split '{first}' also holds {same:,} of {counted(of, 'question')} of split '{other}', but for case, blanks "
        f"and final marks: {', '.join(repr(text[:60]) for text in examples)}."
        for first, other, same, of, examples in in_common({split: texts[split] for split in ranked})
    ]


def _said(left_out: Sequence[str], thinned: Sequence[str]) -> Iterator[str]:
    why = "nothing is left without case, punctuation and articles, so that an empty answer would win"
    if left_out:
        yield f"{counted(len(left_out), 'question')} left out, for of the right answers {why}: {_some(left_out)}."
    if thinned:
        yield f"{counted(len(thinned), 'question')} with a right answer less, for of one {why}: {_some(thinned)}."


def _some(entries: Sequence[str]) -> str:
    return ", ".join(entries[:_EXAMPLES]) + (", …" if len(entries) > _EXAMPLES else "")


def source_name(name: str) -> str:
    """The name under which a data set is reported: "searchR1_nq" is "nq", "2wikimultihopqa" is "2wiki"."""
    plain = re.sub(r"^searchr1[_-]", "", name.strip().lower())
    known = next((known for known, form in _SET_NAMES.items() if re.match(rf"({form})([_\-.]|$)", plain)), None)
    return known or name.strip()


def _files(given: str | os.PathLike[str]) -> list[tuple[Path, tuple[str, ...]]]:
    """Files of a path, each with the folders between it and the folder that was given."""
    path = user_path(given)
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if _is_shown(file.relative_to(path)) and _suffix(file))
        # Beside lines, a .json file is rather a description of the data set.
        lines = [file for file in inside if file.suffix != ".json"]
        inside = [file for file in inside if file.name not in _DESCRIPTIONS]
        if not inside:
            raise GameFileError(f"no questions in folder '{path}'; expected *.jsonl or *.parquet files.")
        return [(file, file.relative_to(path).parts[:-1]) for file in lines or inside if file.is_file()]
    if not path.exists():
        raise GameFileError(
            f"questions '{path}' do not exist; expected a .jsonl or .parquet file, or a folder of them. "
            "Leave questions out to play a generated world."
        )
    if not _suffix(path):
        raise GameFileError(f"'{path}' is no .jsonl and no .parquet file; convert it, or name it by what it holds.")
    return [(path, ())]


def _is_shown(path: Path) -> bool:
    return not any(part.startswith(".") for part in path.parts)


def _suffix(path: Path) -> str:
    return next((suffix for suffix in _SUFFIXES if path.name.lower().endswith(suffix)), "")


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of JSON lines, or of a JSON list."""
    try:
        if _suffix(path) == ".json" and not compression_of(path) and _starts_a_list(path):
            if path.stat().st_size > _MOST_LIST_BYTES:
                raise GameFileError(f"'{path}' is a JSON list of more than a gigabyte; write it as JSON lines.")
            for number, row in enumerate(iter_list(path, "question")):
                yield f"entry {number}", _object(row, path, f"entry {number}")
            return
        for number, line in read_lines(path):
            place = f"line {number}"
            if number == 1:
                line = line.removeprefix(_BOM)
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError as err:
                raise GameFileError(
                    f"'{path}', {place}: no JSON ({err}); expected one object per line. Repair or remove the line."
                ) from err
            yield place, _object(row, path, place)
    except OSError as err:
        raise GameFileError(f"'{path}' cannot be read: {err.strerror or err}.") from err
    except GameFileError:
        raise
    except ValueError as err:
        raise GameFileError(f"'{path}', {err}. Get the file again.") from err


def _starts_a_list(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4_096).removeprefix(_BOM).lstrip().startswith(b"[")


def _object(row: Any, path: Path, place: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise GameFileError(f"'{path}', {place}: found {type(row).__name__}, expected a JSON object.")
    return row


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
        raise GameFileError(f"'{path}' is not a Parquet file that can be read: {err}") from err


def _question(row: Mapping[str, Any], path: Path, place: str, folders: tuple[str, ...]) -> Question:
    text = question_of(row)
    if not isinstance(text, str) or not text.strip():
        raise _wrong(path, place, "question", text, "a text", row)
    column, golds = golds_of(row)
    if not isinstance(golds, tuple):
        raise _wrong(path, place, column, golds, "at least one right answer, as texts", row)
    source = source_name(said_source(row) or _set_name(path))
    text = text.strip()
    split = _split(said_split(row), path, folders)
    return Question(f"{source}/{split}/{digest_of(text, golds)}", text, golds, source, split)


def _stem(path: Path) -> str:
    return path.name[: -len(_suffix(path))] if _suffix(path) else path.stem


def _set_name(path: Path) -> str:
    """The name of the file, or of a folder above it where the file's tells the split and nothing else."""
    stem = _stem(path)
    parts = [part for part in re.split(r"[^a-z]+", stem.lower()) if part and part != "of"]
    if parts and all(part in _SPLIT_WORDS for part in parts):
        above = (folder.name for folder in path.resolve().parents)
        # An unpacked snapshot of a hub has a folder "data" between the set and its files.
        return next((name for name in above if name.lower() not in _NO_NAMES | _SPLIT_WORDS.keys()), stem)
    return stem


def _split(said: str, path: Path, folders: tuple[str, ...]) -> str:
    words = [said] if said else re.split(r"[^a-z]+", _stem(path).lower())
    if not said:
        words += [name.lower() for name in reversed(folders)]
    return next((_SPLIT_WORDS[word.lower()] for word in words if word.lower() in _SPLIT_WORDS), "") or said or "train"


def _wrong(path: Path, place: str, column: str, value: object, expected: str, row: Mapping[str, Any]) -> GameFileError:
    found = "nothing" if value is None else repr(value)[:60]
    columns = ", ".join(sorted(str(key)[:30] for key in row)[:12])
    return GameFileError(
        f"'{path}', {place}, column '{column}': found {found}, expected {expected}. The columns here: {columns}."
    )
