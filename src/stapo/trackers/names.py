"""Names of the trackers for fields of the row files of a run: verl's, where it has one; see names.yaml.

A field is a path of keys joined by dots; `*` stands for one key, in the name as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from stapo.documents import package_data

_MOST_OF_A_ROW = 2000  # numbers; a row of ours has a hundred, one of a stranger's any number
_MOST_BINS = 512
_DEEPEST = 8
_OTHER = re.compile(r"[^A-Za-z0-9_. -]+")


class Histogram(NamedTuple):
    """Counts in equal bins from `low` to `high`; what lies outside is in the first and the last bin."""

    low: float
    high: float
    counts: tuple[int, ...]

    @property
    def edges(self) -> list[float]:
        """The limits of the bins, one more than there are bins."""
        width = (self.high - self.low) / len(self.counts)
        return [self.low + i * width for i in range(len(self.counts))] + [self.high]


@cache
def table(name: str) -> dict[str, str]:
    """One of the tables of names.yaml: field -> name."""
    return dict(package_data(__package__, "names.yaml")[name])


def plain_name(text: str) -> str:
    """A text in characters that every tracker takes."""
    return _OTHER.sub("_", text.replace("+", "_or_more"))[:80] or "_"


def metric_scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of `metrics.jsonl`, by name."""
    found = _named(row, table("metrics"))
    sides = [found[name] for name in ("actor/pg_clipfrac_low", "actor/pg_clipfrac_high") if name in found]
    return found | ({"actor/pg_clipfrac": sum(sides)} if sides else {})


def metric_histograms(row: Mapping[str, Any]) -> dict[str, Histogram]:
    """The histograms of a row of `metrics.jsonl`, by name; one that is not a histogram is left out."""
    found = {}
    for field, name in table("histograms").items():
        value: Any = row
        for key in field.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if histogram := _histogram(value):
            found[name] = histogram
    return found


def eval_scalars(row: Mapping[str, Any], split: str) -> dict[str, float]:
    """The numbers of a row of `evals.jsonl`, by name."""
    start = f"val/{plain_name(split)}/{plain_name(str(row.get('mode')))}"
    return {f"{start}/{name}": value for name, value in _named(row, table("evals")).items()}


def sft_scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of `sft.jsonl`, by name."""
    return _named(row, table("sft"))


def numbers(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    """Every finite number of a row with its path of keys; histograms are not numbers."""
    if len(path) > _DEEPEST:
        return
    if isinstance(value, Mapping):
        if _histogram(value) is None:
            for key, item in value.items():
                yield from numbers(item, (*path, str(key)))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from numbers(item, (*path, str(i)))
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        yield path, float(value)


def match(path: tuple[str, ...], names: Mapping[str, str]) -> str | None:
    """What a table says of a path, the key that `*` stands for put in; None where it says nothing."""
    patterns = [(path, "")] + [((*path[:i], "*", *path[i + 1 :]), path[i]) for i in range(len(path))]
    found = ((names.get(".".join(keys)), key) for keys, key in patterns)
    return next((name.replace("*", plain_name(key)) for name, key in found if name is not None), None)


def _named(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for path, value in numbers(row):
        name = match(path, names)
        if name is not None and len(found) < _MOST_OF_A_ROW:
            found[name] = value
    return found


def _histogram(value: Any) -> Histogram | None:
    if not isinstance(value, Mapping) or not {"low", "high", "counts"} <= value.keys():
        return None
    low, high, counts = value["low"], value["high"], value["counts"]
    plain = all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e300 for v in (low, high))
    if not plain or not low < high or not isinstance(counts, list) or not 0 < len(counts) <= _MOST_BINS:
        return None
    if any(not isinstance(c, int) or isinstance(c, bool) or not 0 <= c < 1 << 53 for c in counts):
        return None
    return Histogram(float(low), float(high), tuple(counts))
