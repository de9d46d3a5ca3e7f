"""From finished runs to numbers: what every run reached, and what the differences between variants are worth."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stapo.atomic_io import write_durably
from stapo.comparison.jobs import Ended
from stapo.comparison.plan import Cell, Plan, Variant, cell_folder, start_folder
from stapo.comparison.statistics import LEVEL, RESAMPLES, mean_std, pair, paired_difference
from stapo.errors import StapoError, writing
from stapo.run import RunDirectory
from stapo.run.directory import jsonable
from stapo.texts import counted

FILE_NAME = "results.json"
FORMAT_VERSION = 1
Row = dict[str, Any]
_UNREADABLE = (StapoError, OSError, KeyError, TypeError, ValueError, AttributeError)
"""What rows that are not ours raise."""

PAIRING = (
    "Episodes are paired by seed, task and turn: both variants trained with the same seed, from the same start, on the "
    "same order of tasks, and played the same evaluation tasks."
)
INTERVAL = (
    f"{100 * LEVEL:g} % percentile interval of a hierarchical bootstrap with {RESAMPLES:,} resamples: seeds are drawn "
    "with replacement, then tasks inside each drawn seed. With one seed it covers tasks only; with two or three it is "
    "too narrow where seeds differ much."
)


def write_results(plan: Plan, folder: Path, ended: Mapping[str, Ended], baseline: str) -> Row:
    """Write `results.json` into the folder of a comparison; returns what it holds. See `results`.

    Raises:
        RunDirectoryError: it cannot be written.
    """
    found = results(plan, folder, ended, baseline)
    with writing(f"'{folder / FILE_NAME}'"):
        write_durably(folder / FILE_NAME, (json.dumps(found, indent=1) + "\n").encode())
    return found


def results(plan: Plan, folder: Path, ended: Mapping[str, Ended], baseline: str) -> Row:
    """All numbers of a comparison as JSON data; what is not finished counts for nothing.

    Args:
        plan: the plan.
        folder: of the comparison.
        ended: how jobs ended, by name, as far as they have.
        baseline: label of the variant that the others are compared with.
    """
    starts = {n: _start(start_folder(folder, n), ended.get(f"start {n:02d}")) for n in plan.starts}
    runs = {cell: _run(plan, cell, folder, ended.get(cell.name)) for cell in plan.cells}
    episodes: dict[Cell, dict[str, list[Row]]] = {}
    for cell, run in runs.items():
        if run["status"] == "done":
            try:
                episodes[cell] = _episodes(cell_folder(folder, cell))
            except _UNREADABLE as err:
                runs[cell] = run | {"status": "damaged", "error": _said(err), "final": {}}
    modes = list(dict.fromkeys(mode for run in runs.values() for mode in run["final"]))
    variants = []
    for variant in plan.variants:
        cells = [cell for cell in plan.cells if cell.label == variant.label]
        done = [runs[cell] for cell in cells if runs[cell]["status"] == "done"]
        variants.append(
            {
                "label": variant.label,
                "algorithm": variant.algorithm,
                "changes": variant.changes,
                "runs": [runs[cell] for cell in cells],
                "done": len(done),
                "failed": sum(runs[cell]["status"] in ("failed", "blocked") for cell in cells),
                "start": {mode: _start_stats(done, starts, mode) for mode in modes},
                "final": {mode: _final_stats(done, mode) for mode in modes},
                "totals": _totals(done),
                "difference": {}
                if variant.label == baseline
                else {mode: _difference(plan, variant, baseline, episodes, mode) for mode in modes},
            }
        )
    return dict(
        jsonable(
            {
                "format": FORMAT_VERSION,
                "complete": all(run["status"] == "done" for run in runs.values()),
                "baseline": baseline,
                "protocols": _protocols(folder, plan, episodes),
                "pairing": PAIRING,
                "interval": INTERVAL,
                "remarks": [*_budgets(plan.variants), *_damaged_rows(folder, runs)],
                "seeds": plan.seeds,
                "starts": {f"{n:02d}": start for n, start in starts.items()},
                "variants": variants,
                "versions": plan.versions,
                "commands": list(plan.commands),
            }
        )
    )


def _budgets(variants: Sequence[Variant]) -> list[str]:
    """That variants train on different amounts of experience, where they do."""
    sizes: dict[int, list[str]] = {}
    for variant in variants:
        sizes.setdefault(variant.episodes, []).append(variant.label)
    if len(sizes) == 1:
        return []
    parts = "; ".join(f"{', '.join(labels)}: {counted(episodes, 'episode')}" for episodes, labels in sizes.items())
    return [
        f"Variants train on different amounts of experience ({parts}), so differences are not those of methods alone."
    ]


def _damaged_rows(folder: Path, runs: Mapping[Cell, Row]) -> list[str]:
    """Files of rows that are not what their run has written."""
    done = (cell for cell, run in runs.items() if run["status"] in ("done", "damaged"))
    return [said for cell in done for said in RunDirectory(cell_folder(folder, cell)).remarks()]


def _said(err: Exception) -> str:
    return str(err) if isinstance(err, StapoError) else f"its rows are not those of a run: {type(err).__name__}: {err}"


def judged(found: Row) -> bool:
    """Whether tasks are judged by degrees, so that a mean score says more than the share of full successes."""
    return any(final and final["task_score"] for v in found["variants"] for final in v["final"].values())


def _start(folder: Path, ended: Ended | None) -> Row:
    info = _info(folder)
    status = _status(info, ended)
    final, error = {}, ended.error if ended is not None else ""
    try:
        if status == "done":
            final = _evaluations(folder)
    except _UNREADABLE as err:
        status, error = "damaged", _said(err)
    return {
        "status": status,
        "error": error,
        "folder": "/".join(folder.parts[-2:]),
        "final": final,
        "seconds": _seconds(info),
    }


def _seconds(info: Row) -> dict[str, float]:
    found = info.get("seconds")
    return {str(k): v for k, v in found.items() if isinstance(v, int | float)} if isinstance(found, dict) else {}


def _run(plan: Plan, cell: Cell, folder: Path, ended: Ended | None) -> Row:
    place = cell_folder(folder, cell)
    info = _info(place)
    iterations = plan.variant(cell.label).settings["optim"]["iterations"]
    status = _status(info, ended)
    if status == "done" and info.get("iterations") != iterations:
        status = "unfinished"
    run: Row = {
        "seed": cell.seed,
        "start": f"{cell.start:02d}",
        "status": status,
        "error": ended.error if ended is not None else "",
        "folder": "/".join(place.parts[-3:]),
        "final": {},
    }
    if status != "done":
        return run
    try:
        return run | _reached(place, iterations, info)
    except _UNREADABLE as err:
        return run | {"status": "damaged", "error": _said(err)}


def _reached(place: Path, iterations: int, info: Row) -> Row:
    metrics = RunDirectory(place).rows("metrics")
    flagged = [(row["outlier"]["flagged_share"], row["rows"]) for row in metrics]
    steps = sum(row["rows"] for row in metrics)
    for row in metrics:
        float(row["success"])
    return {
        "final": _evaluations(place),
        "iterations": len(metrics),
        "episodes": sum(row["episodes"] for row in metrics),
        "environment_steps": steps,
        # A mean over whole numbers, times how many there are, is a whole number again.
        "generated_tokens": sum(round(row["response_tokens"] * row["rows"]) for row in metrics),
        "flagged_share": sum(share * rows for share, rows in flagged) / steps if steps else None,
        "seconds": _seconds(info),
    }


def _info(folder: Path) -> Row:
    try:
        return RunDirectory.open(folder).info()
    except StapoError:
        return {}


def _status(info: Row, ended: Ended | None) -> str:
    if ended is not None and ended.status != "done":
        return ended.status
    if info.get("status") == "done":
        return "done"
    return "unfinished" if info else "not begun"


def _evaluations(folder: Path) -> Row:
    """Success, and the score where tasks are judged by degrees, of the last full evaluation, by mode."""
    found: Row = {}
    rows = [row for row in RunDirectory(folder).rows("evals") if row["final"]]
    last = max((row["iteration"] for row in rows), default=0)
    for row in rows:
        if row["iteration"] == last:
            score = row.get("task_score")
            found[str(row["mode"])] = {
                "success": _a_number(row["success"]),
                "task_score": None if score is None else _a_number(score),
                "episodes": _a_number(row["episodes"]),
                "errors": _a_number(row.get("errors", 0)),
                "by_type": {name: _a_number(part["success"]) for name, part in row["by_type"].items()},
                "protocol": str(row["protocol"]),
            }
    return found


def _a_number(value: Any) -> Any:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{value!r:.100} is not a number")
    return value


def _episodes(folder: Path) -> dict[str, list[Row]]:
    """Rows of the last full evaluation, by mode."""
    rows = RunDirectory(folder).rows("eval_episodes")
    last = max((row["iteration"] for row in rows), default=0)
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["iteration"] == last:
            episode = row["episode"], row["task_id"], row["task_type"], row["mode"]
            if not isinstance(episode[0], int) or not all(isinstance(text, str) for text in episode[1:]):
                raise TypeError(f"{episode!r:.200} names no episode")
            float(row["won"])
            found.setdefault(row["mode"], []).append(row)
    return found


def _start_stats(done: Sequence[Row], starts: Mapping[int, Row], mode: str) -> Row | None:
    values = [starts[int(run["start"])]["final"].get(mode, {}).get("success") for run in done]
    known = [value for value in values if value is not None]
    return asdict(mean_std(known)) if known else None


def _final_stats(done: Sequence[Row], mode: str) -> Row | None:
    finals = [run["final"][mode] for run in done if mode in run["final"]]
    if not finals:
        return None
    types = sorted({name for final in finals for name in final["by_type"]})
    by_type = {
        name: asdict(mean_std([final["by_type"][name] for final in finals if name in final["by_type"]]))
        for name in types
    }
    scores = [score for final in finals if (score := final["task_score"]) is not None]
    return {
        **asdict(mean_std([final["success"] for final in finals])),
        "task_score": asdict(mean_std(scores)) if scores else None,
        "by_type": by_type,
    }


def _totals(done: Sequence[Row]) -> Row:
    """Means over runs of what they cost and flagged."""
    found: Row = {}
    for key in ("environment_steps", "generated_tokens", "flagged_share"):
        values = [run[key] for run in done if run[key] is not None]
        found[key] = sum(values) / len(values) if values else None
    seconds = [sum(run["seconds"].values()) for run in done]
    found["seconds"] = sum(seconds) / len(seconds) if seconds else None
    return found


def _difference(
    plan: Plan, variant: Variant, baseline: str, episodes: Mapping[Cell, dict[str, list[Row]]], mode: str
) -> Row | None:
    """Paired difference to the baseline over the seeds that both have finished."""
    found: list[tuple[int, list[tuple[Row, Row]]]] = []
    for cell in plan.cells:
        other = replace(cell, label=baseline)
        if cell.label == variant.label and cell in episodes and other in episodes:
            pairs = _matched(episodes[cell].get(mode, []), episodes[other].get(mode, []))
            if pairs:
                found.append((cell.seed, pairs))
    if not found:
        return None
    types = sorted({one["task_type"] for _, pairs in found for one, _ in pairs})
    return {
        "seeds": [seed for seed, _ in found],
        **_interval([pairs for _, pairs in found]),
        "by_type": {
            name: _interval([part for _, pairs in found if (part := [p for p in pairs if p[0]["task_type"] == name])])
            for name in types
        },
    }


def _matched(ours: Sequence[Row], theirs: Sequence[Row]) -> list[tuple[Row, Row]]:
    others = {(row["episode"], row["task_id"]): row for row in theirs}
    return [(row, others[key]) for row in ours if (key := (row["episode"], row["task_id"])) in others]


def _interval(seeds: Sequence[list[tuple[Row, Row]]]) -> Row:
    paired = [
        pair(
            [f"{one['task_type']}: {one['task_id']}" for one, _ in pairs],
            [one["won"] for one, _ in pairs],
            [two["won"] for _, two in pairs],
        )
        for pairs in seeds
    ]
    return asdict(paired_difference(paired))


def _protocols(folder: Path, plan: Plan, episodes: Mapping[Cell, Any]) -> dict[str, str]:
    """How evaluations were done, by mode, in the words of the first finished run."""
    for cell in episodes:
        return {mode: row["protocol"] for mode, row in _evaluations(cell_folder(folder, cell)).items()}
    return {}
