"""The summary of a transcript by columns: one row of `steps.jsonl` for each iteration that has a transcript.

A reader of thousands of steps (a viewer, a data frame) needs their numbers long before their texts, which are fifty
times as large. A row holds them as lists, for trajectories and for steps, with the place of each full record. Numbers
are rounded to seven digits; the transcript has them exactly, and a summary that is missing is computed from it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from stapo.atomic_io import open_to_read
from stapo.documents import lookup, shown
from stapo.errors import RunDirectoryError, reading

Kind = Literal["count", "number", "flag", "text", "key"]
"""A whole number of 0 or more; a number or null; true, false or null; a text or null; 12 hexadecimal digits or null."""

ANCHOR_DIGITS = 12
"""Hexadecimal digits of `anchor_key`: few enough for a float64 to hold them exactly."""

LONGEST_TEXT = 200
"""Characters of an action, a goal or another text that the summary holds."""

TRAJECTORY: Mapping[str, Kind] = {
    "task_id": "text",
    "task_type": "text",
    "goal": "text",
    "env": "text",
    "group": "count",
    "member": "count",
    "won": "flag",
    "score": "number",
    "task_score": "number",
    "stop_reason": "text",
    "q1": "number",
    "q3": "number",
    "lower": "number",
    "upper": "number",
}
"""Columns of trajectories; beside them `steps`, the number of steps, and `offset` and `bytes` of the full record."""

STEP: Mapping[str, Kind] = {
    "reward": "number",
    "return": "number",
    "advantage": "number",
    "episode_advantage": "number",
    "step_advantage": "number",
    "entropy": "number",
    "normalized_entropy": "number",
    "r_ta": "number",
    "p_ti": "number",
    "logprob": "number",
    "tokens": "count",
    "anchor_group": "count",
    "anchor_size": "count",
    "anchor_key": "key",
    "outlier": "text",
    "acted_on": "flag",
    "valid": "flag",
    "repeated": "flag",
    "effect": "flag",
    "ended": "flag",
    "problem": "text",
    "retriever_error": "text",
    "action": "text",
}
"""Columns of steps, in the order of the trajectories."""

PLACES: Mapping[str, Kind] = {"steps": "count", "offset": "count", "bytes": "count"}
_FENCES = ("q1", "q3", "lower", "upper")
_BATCH_TYPES = {"entropy": "<f4", "score": "<f4", "anchor": "<u4"}  # fields of `BatchArrays`, in their order
_LARGEST = 2**53
_LAST_ITERATION = 10**9
_JSON_TYPES: Mapping[Kind, set[type]] = {
    "count": {int},
    "number": {float, int, type(None)},
    "flag": {bool, type(None)},
    "text": {str, type(None)},
    "key": {str, type(None)},
}


class Span(NamedTuple):
    """Where a line stands in its file.

    Attributes:
        offset: byte at which it begins.
        bytes: its length, line break included.
    """

    offset: int
    bytes: int


def spans_of(path: Path) -> Iterator[Span]:
    """Where each line of a file stands.

    Raises:
        RunDirectoryError: it cannot be read.
    """
    offset = 0
    with reading(f"'{path}'", RunDirectoryError), open_to_read(path) as file:
        for line in file:
            yield Span(offset, len(line))
            offset += len(line)


class BatchArrays(NamedTuple):
    """All rows of an iteration, those without a transcript among them, so that flags can be computed anew.

    Attributes:
        entropy_b: (B,) float32 step entropy, nats; NaN where a row has none.
        score_b: (B,) float32 score that was held against the fences; NaN where a row has none.
        anchor_b: (B,) uint32 anchor group.
    """

    entropy_b: npt.NDArray[np.float32]
    score_b: npt.NDArray[np.float32]
    anchor_b: npt.NDArray[np.uint32]


def summary_row(
    iteration: int,
    records: Iterable[Mapping[str, Any]],
    spans: Iterable[Span],
    batches: Mapping[str, BatchArrays] | None = None,
) -> dict[str, Any]:
    """The row of one iteration.

    Args:
        iteration: its number.
        records: trajectory records of its transcript. What is missing or odd in them is null.
        spans: where each stands in the transcript.
        batches: all rows of the iteration, by environment (`""` where there is one); None where nobody knows them.
    """
    episodes: dict[str, list[Any]] = {name: [] for name in (*TRAJECTORY, *PLACES)}
    steps: dict[str, list[Any]] = {name: [] for name in STEP}
    for record, span in zip(records, spans, strict=True):
        found = record["steps"]
        for name, kind in TRAJECTORY.items():
            value = lookup(record, f"fences.{name}") if name in _FENCES else record.get(name)
            episodes[name].append(_value(value, kind))
        for name, count in zip(PLACES, (len(found), *span), strict=True):
            episodes[name].append(count)
        for name, kind in STEP.items():
            steps[name] += [_value(step.get(name), kind) for step in found]
    row: dict[str, Any] = {"iteration": iteration, "trajectories": episodes, "steps": steps}
    if batches is not None:
        row["batch"] = {label: _packed(arrays) for label, arrays in batches.items()}
    return row


def _value(value: Any, kind: Kind) -> Any:
    if kind in ("text", "key"):
        return value[:LONGEST_TEXT] if isinstance(value, str) else None
    if hasattr(value, "item"):
        value = value.item()
    if kind == "flag":
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_LARGEST < value < _LARGEST:
        return 0 if kind == "count" else None
    if kind == "count":
        return max(0, int(value))
    return float(f"{value:.7g}")


def _packed(arrays: BatchArrays) -> dict[str, str]:
    kinds = zip(_BATCH_TYPES.items(), arrays, strict=True)
    return {name: base64.b64encode(array.astype(kind).tobytes()).decode() for (name, kind), array in kinds}


def batches_of(row: Mapping[str, Any]) -> dict[str, BatchArrays]:
    """All rows of the iteration by environment; {} where the row does not hold them.

    Raises:
        ValueError: they are not what a run writes.
    """
    found: dict[str, BatchArrays] = {}
    for label, packed in dict(row.get("batch") or {}).items():
        try:
            arrays = [
                np.frombuffer(base64.b64decode(packed[name], validate=True), dtype=kind)
                for name, kind in _BATCH_TYPES.items()
            ]
        except (TypeError, KeyError, ValueError) as err:
            raise ValueError(f"batch does not hold arrays in base64 ({type(err).__name__})") from None
        if len({len(array) for array in arrays}) != 1:
            raise ValueError("arrays of batch differ in length")
        found[str(label)] = BatchArrays(*arrays)
    return found


def check_summary(row: Mapping[str, Any]) -> None:
    """Check that a row is what `summary_row` returns.

    Raises:
        ValueError: it is not; the column is named.
    """
    if type(row.get("iteration")) is not int or not 0 <= row["iteration"] < _LAST_ITERATION:
        raise ValueError(f"iteration is {shown(row.get('iteration'))}")
    episodes, steps = row.get("trajectories"), row.get("steps")
    if not isinstance(episodes, Mapping) or not isinstance(steps, Mapping):
        raise ValueError("it has no columns of trajectories and steps")
    count = len(_column(episodes, "steps", "count"))
    for name, kind in {**TRAJECTORY, **PLACES}.items():
        if len(_column(episodes, name, kind)) != count:
            raise ValueError(f"columns of trajectories differ in length at '{name}'")
    rows = sum(episodes["steps"])
    for name, kind in STEP.items():
        if len(_column(steps, name, kind)) != rows:
            raise ValueError(f"column '{name}' has not one entry for each of {rows:,} steps")


def _column(columns: Mapping[str, Any], name: str, kind: Kind) -> list[Any]:
    values = columns.get(name)
    if not isinstance(values, list):
        raise ValueError(f"column '{name}' is missing")
    # By the set of types: 100,000 steps are checked whenever a run is opened.
    if not set(map(type, values)) <= _JSON_TYPES[kind]:
        raise ValueError(f"column '{name}' holds {shown(next(v for v in values if type(v) not in _JSON_TYPES[kind]))}")
    if kind in ("count", "number"):
        least, most = (0 if kind == "count" else -_LARGEST), _LARGEST
        odd = next((v for v in values if v is not None and not least <= v <= most), None)
        if odd is not None:
            raise ValueError(f"column '{name}' holds {shown(odd)}")
    return values
