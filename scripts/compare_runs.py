"""Show whether two runs have the same numbers: metrics, weights and transcripts.

    python scripts/compare_runs.py A B

A and B are run directories, or folders of run directories, which are paired by name. Rows are compared field by field,
without times and without sentences (warnings, protocols, errors); tensors bit by bit, those of all checkpoints and of
the newest save; transcripts word by word. Runs of earlier versions are read under today's names. The exit code is 0 if
all is equal, 1 if something differs, 2 if there is nothing to compare.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from stapo.errors import RunDirectoryError, StapoError
from stapo.former_names import ROWS
from stapo.run import RunDirectory

TIMES = {"seconds"}
SENTENCES = {"warnings", "protocol", "error", "none_because"}
EVERY_ROW = ("sft", "metrics", "evals", "eval_episodes", "failures")
FORMER_VALUES = {former: present for present, former in ROWS.items()} | {"warm start": "sft", "SFT": "sft"}
"""Words that rows had as values, as they were -> as they are."""
SHOWN = 5


class Contents(NamedTuple):
    """What a run holds, by place: a row and field, a tensor, a line of a transcript."""

    rows: dict[str, str]
    tensors: dict[str, str]
    steps: dict[str, str]


def fields(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Each number or text in a row with its path, written so that every bit shows."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in TIMES | SENTENCES:
                yield from fields(inner, f"{place}.{key}")
    elif isinstance(value, list):
        yield f"{place}.length", str(len(value))
        for index, inner in enumerate(value):
            yield from fields(inner, f"{place}.{index}")
    else:
        yield place, json.dumps(FORMER_VALUES.get(value, value) if isinstance(value, str) else value)


def tensors(path: Path, place: str) -> Iterator[tuple[str, str]]:
    """Each tensor of a file with a digest of its dtype, shape and bits."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is not a mapping
            tensor = file.get_tensor(name)
            bits = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            said = f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(bits).hexdigest()[:16]}"
            yield f"{place}: {name}", said


def contents(path: Path) -> Contents:
    """Read all that is compared of a run."""
    run = RunDirectory(path)
    rows = {"status": str(run.info()["status"])}
    for name in EVERY_ROW:
        for number, row in enumerate(run.rows(name), 1):
            rows.update(fields(row, f"{name} {number}"))
    weights: dict[str, str] = {}
    saves = run.saves.complete()
    for kind, folder in [("checkpoints", path / "checkpoints"), *(("save", save) for save in saves[:1])]:
        for file in sorted(folder.rglob("*.safetensors")):
            weights.update(tensors(file, f"{kind}/{file.relative_to(folder)}"))
    steps: dict[str, str] = {}
    for file in run.transcripts():
        for number, row in enumerate(run.rows(f"transcripts/{file.stem}"), 1):
            for index, step in enumerate(row.pop("steps")):
                steps[f"{file.stem} {number} step {index}"] = json.dumps(list(fields(step, "")))
            steps[f"{file.stem} {number}"] = json.dumps(list(fields(row, "")))
    return Contents(rows, weights, steps)


def differences(one: dict[str, str], two: dict[str, str]) -> list[str]:
    """A line for each place at which two runs are not the same."""
    found = [f"{place}: only in A" for place in one.keys() - two.keys()]
    found += [f"{place}: only in B" for place in two.keys() - one.keys()]
    shared = sorted(one.keys() & two.keys())
    return sorted(found) + [f"{p}: {one[p][:80]} / {two[p][:80]}" for p in shared if one[p] != two[p]]


def runs_in(folder: Path) -> dict[str, Path]:
    """The run that a folder is, or the runs in it, by name."""
    if (folder / "run.json").exists():
        return {".": folder}
    return {inner.name: inner for inner in sorted(folder.iterdir()) if (inner / "run.json").exists()}


def main(first: str, second: str) -> int:
    """Print the table and what differs; returns the exit code."""
    found = [runs_in(Path(folder)) for folder in (first, second)]
    if not any(found):
        raise RunDirectoryError(f"there are no runs in '{first}' and '{second}', expected folders with a run.json.")
    print("| run | numbers in rows | tensors | transcript steps | |\n| --- | --- | --- | --- | --- |")
    said = []
    for name in sorted(found[0].keys() | found[1].keys()):
        pair = [runs[name] for runs in found if name in runs]
        if len(pair) < 2:
            print(f"| {name} | | | | only in {'A' if name in found[0] else 'B'} |")
            said.append(f"{name}: in one folder only")
            continue
        one, two = map(contents, pair)
        wrong = [differences(getattr(one, kind), getattr(two, kind)) for kind in Contents._fields]
        counts = [str(len(getattr(one, kind))) for kind in Contents._fields]
        cells = [
            f"{count}, {len(lines)} differ" if lines else count for count, lines in zip(counts, wrong, strict=True)
        ]
        print("|", " | ".join([name, *cells, "differs" if any(wrong) else "equal"]), "|")
        for kind in wrong:
            said += [f"{name}: {line}" for line in kind[:SHOWN]]
            said += [f"{name}: and {len(kind) - SHOWN} more"] if len(kind) > SHOWN else []
    print("", *said, sep="\n" if said else "")
    return 1 if said else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python scripts/compare_runs.py A B")
    try:
        sys.exit(main(sys.argv[1], sys.argv[2]))
    except (StapoError, OSError, SafetensorError) as err:
        print(f"error: {err}", file=sys.stderr)
        sys.exit(2)
