"""What the pages show: the list of runs, a run with its curves, the rollouts of an iteration, a step."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stapo.atomic_io import open_to_read
from stapo.documents import parse_json
from stapo.errors import RunDirectoryError
from stapo.health import closing_checks
from stapo.report.data import Row, RunLog, is_counted, read_run, readable_rows
from stapo.report.summary import comparisons, facts, losses, sentences, success_table, title
from stapo.report.trajectories import Group, read_groups
from stapo.run import RunDirectory
from stapo.run.per_token import decode_per_token
from stapo.run.scored_prompts import scored_prompts
from stapo.viewer.catalog import Catalog, Kept, state_of
from stapo.viewer.figures import figures
from stapo.viewer.wire import LONGEST_PROMPT, cleaned

_MOST_ROWS = 4_000  # iterations of which a page gets every number
_MOST_VALUES = 8  # of a list of numbers: quantiles are drawn, histograms are not
_SHORT = 1_000  # characters of a text where many steps are shown
_TRANSCRIPT = re.compile(r"iteration-(\d{1,9})\.jsonl")
_LISTED = ("kind", "status", "reason", "preset", "algorithm", "environment", "done", "planned", "success", "changed")


class Pages:
    """Reads what pages show; a few results are kept until their files change.

    Args:
        catalog: the runs that may be looked at.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._runs: Kept[dict[str, Any]] = Kept(4)
        self._groups: Kept[tuple[list[Group], list[str]]] = Kept(3)

    def runs(self) -> dict[str, Any]:
        """The list of runs and comparisons."""
        entries = self._catalog.entries()
        listed = [{"name": e.name, **{field: getattr(e.found, field) for field in _LISTED}} for e in entries]
        return {"runs": cleaned(listed)}

    def version(self, name: str) -> dict[str, Any]:
        """A value that changes whenever the run has something new; cheap, for pages that ask again and again."""
        return {"version": _version(self._catalog.run(name)), "status": self._catalog.status(name)}

    def run(self, name: str) -> dict[str, Any]:
        """A run: its words, its settings, every number of its iterations, and which iterations have rollouts."""
        run = self._catalog.run(name)
        version = _version(run)
        return self._runs.get(name, version, lambda: _run_page(name, run, version))

    def checks(self, name: str) -> dict[str, Any]:
        """Files of rows that are not what the run has written; this reads all of them."""
        return {"remarks": cleaned(self._catalog.run(name).remarks())}

    def iteration(self, name: str, iteration: int) -> dict[str, Any]:
        """The rollouts of an iteration, without prompts."""
        groups, remarks = self._read_groups(name, iteration)
        return {
            "iteration": iteration,
            "remarks": cleaned(remarks),
            "groups": [cleaned(_group(group), _SHORT) for group in groups],
        }

    def step(self, name: str, iteration: int, group: int, member: int, step: int) -> dict[str, Any]:
        """A step with everything that its transcript holds, prompts as a whole.

        Raises:
            RunDirectoryError: there is no such step.
        """
        groups, _ = self._read_groups(name, iteration)
        for record in (m for g in groups if g.group == group for m in g.members if m["member"] == member):
            if 0 <= step < len(record["steps"]):
                at = ["--at", f"{iteration}/{group}/{member}/{step}"]
                play = shlex.join(["stapo", "play", "--from", str(self._catalog.run(name).path), *at])
                return {"step": cleaned({**_step(record, step), "play": play}, LONGEST_PROMPT)}
        raise RunDirectoryError(f"iteration {iteration} has no step {step} of group {group}, member {member}.")

    def record(self, name: str, iteration: int, group: int, member: int) -> bytes:
        """A trajectory as its line of the transcript has it, for a copy."""
        path = transcripts(self._catalog.run(name)).get(iteration)
        if path is not None:
            with open_to_read(path) as file:
                for line in file:
                    record = _placed(line)
                    if record == (group, member):
                        return line
        raise RunDirectoryError(f"iteration {iteration} has no trajectory of group {group}, member {member}.")

    def _read_groups(self, name: str, iteration: int) -> tuple[list[Group], list[str]]:
        path = transcripts(self._catalog.run(name)).get(iteration)
        if path is None:
            raise RunDirectoryError(f"iteration {iteration} of '{name}' has no transcript (log.transcript_every).")

        def read() -> tuple[list[Group], list[str]]:
            remarks: list[str] = []
            return read_groups(path, remarks), remarks

        return self._groups.get(path, state_of(path), read)


def transcripts(run: RunDirectory) -> dict[int, Path]:
    """Transcript files by iteration; files of other names are somebody else's."""
    matches = ((_TRANSCRIPT.fullmatch(path.name), path) for path in run.transcripts())
    return {int(match[1]): path for match, path in matches if match}


def whole_prompt(steps: list[Row], step: int) -> str:
    """The full prompt of a step, also where the transcript has only what was added to a conversation."""
    first = step
    while first > 0 and steps[first].get("continues") is True:
        first -= 1
    text = str(steps[first].get("prompt") or "")
    for before, here in zip(steps[first:step], steps[first + 1 : step + 1], strict=True):
        text += f"\n> {before.get('response')}\n{here.get('prompt') or ''}"
    return text


def columns(rows: list[Row]) -> dict[str, list[float | None]]:
    """Numbers of rows by dotted path, a list over rows each; None where a row has none."""
    found: dict[str, list[float | None]] = {}
    for place, row in enumerate(rows):
        for path, value in _numbers(row, ""):
            found.setdefault(path, [None] * len(rows))[place] = value
    return found


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and len(value) <= _MOST_VALUES:
        for place, item in enumerate(value):
            yield from _numbers(item, f"{path}.{place}")


def _settings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _settings(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _version(run: RunDirectory) -> str:
    files = (run.path / "run.json", *(run.row_file(name) for name in ("metrics", "evals", "sft")))
    return "-".join(":".join(map(str, state or ())) for state in state_of(*files, run.path / "transcripts"))


def _run_page(name: str, run: RunDirectory, version: str) -> dict[str, Any]:
    log = read_run(run, most_rows=_MOST_ROWS, checked=False)
    compared, numbers = comparisons(log), columns(log.metrics)
    page = {
        "name": name,
        "title": title(log),
        "sentences": sentences(log, compared),
        "signs": [*losses(compared), *closing_checks(log.metrics, log.config, thinned=log.thinned)],
        "remarks": log.remarks,
        "facts": facts(log),
        "settings": list(_settings(log.config)),
        "config": log.config_text,
        "modes": [c.mode for c in compared],
        "table": [{"label": r.label, "episodes": r.episodes, "cells": r.cells} for r in success_table(compared)],
        "transcripts": list(transcripts(run)),
        "evals": list(_evals(log)),
        "sft": [[row.get("step"), row.get("loss")] for row in readable_rows(run.row_file("sft"), [])],
        "figures": figures(log, numbers),
        "columns": numbers,
        "version": version,
        "status": log.info.get("status"),
    }
    return cleaned(page)  # type: ignore[no-any-return]


def _evals(log: RunLog) -> Iterator[dict[str, Any]]:
    fields = ("iteration", "mode", "final", "success", "success_standard_error")
    return ({field: row.get(field) for field in fields} for row in log.evals)


def _group(group: Group) -> dict[str, Any]:
    return {
        "group": group.group,
        "goal": group.first.get("goal"),
        "task_id": group.first.get("task_id"),
        "task_type": group.first.get("task_type"),
        "fences": group.first.get("fences"),
        "members": [
            {key: value for key, value in member.items() if key != "steps"}
            | {"steps": [_brief(step) for step in member["steps"]]}
            for member in group.members
        ],
    }


_LONG = ("prompt", "blind_prompt", "blind_observation", "first_message", "message", "admissible", "per_token")


def _brief(step: Row) -> Row:
    return {key: value for key, value in step.items() if key not in _LONG}


def _placed(line: bytes) -> tuple[int, int] | None:
    """Group and member of a line of a transcript."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    if not isinstance(record, Mapping):
        return None
    group, member = record.get("group") or 0, record.get("member") or 0
    return (group, member) if is_counted(group) and is_counted(member) else None


def _step(record: Row, number: int) -> Row:
    """A step with its prompts as they were scored and its tokens; what cannot be read of these is a remark."""
    found = {**record["steps"][number], "prompt": whole_prompt(record["steps"], number)}
    found |= {"scored": None, "tokens_of_response": [], "remarks": []}
    try:
        scored = scored_prompts(record, number)
        found["scored"] = None if scored is None else scored._asdict()
        found["tokens_of_response"] = _tokens(found)
    except RunDirectoryError as err:
        found["remarks"] = [str(err)]
    found.pop("per_token", None)
    return found


def _tokens(step: Row) -> list[Row]:
    """The tokens of a response with their numbers; [] where the transcript does not hold them."""
    numbers = decode_per_token(step)
    if "characters" not in numbers:
        return []
    text, end, found = str(step.get("response") or ""), 0, []
    for place, count in enumerate(numbers["characters"].tolist()):
        start, end = end, end + count
        each = {name: float(numbers[name][place]) if name in numbers else None for name in ("entropy", "logprob", "kl")}
        found.append({"text": text[start:end], **each})
    return found
