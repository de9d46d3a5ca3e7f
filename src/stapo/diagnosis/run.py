"""Diagnosing checkpoints of runs: load, measure, write."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stapo.atomic_io import oddity, temporary_of, write_durably
from stapo.config.run_config import RunConfig
from stapo.diagnosis.measure import Measured, Stage, measure
from stapo.diagnosis.numbers import Numbers, summarize
from stapo.diagnosis.plots import plots
from stapo.diagnosis.protocol import DiagnosisSpec
from stapo.diagnosis.ranking import estimate
from stapo.diagnosis.records import Case, step_records, worst_cases
from stapo.diagnosis.tables import Table, comparison_table, tables
from stapo.documents import number
from stapo.errors import ConfigError, RunDirectoryError, did_you_mean, writing
from stapo.html.pages import page_environment, replace_page
from stapo.policy import load_policy
from stapo.run import RunDirectory
from stapo.run.directory import jsonable, require_plain, versions
from stapo.training.choices import threads_here
from stapo.training.loop import set_threads

FORMAT = "stapo-diagnosis-1"
FILES = ("diagnosis.json", "steps.jsonl", "diagnosis.html")
RESAMPLES = 2000
"""Of the bootstrap."""


@dataclass(frozen=True)
class DiagnosisTarget:
    """A policy to diagnose.

    Attributes:
        run: where its checkpoint is.
        config: settings of that run.
        checkpoint: its name.
        folder: where its diagnosis goes.
    """

    run: RunDirectory
    config: RunConfig
    checkpoint: str
    folder: Path

    @property
    def label(self) -> str:
        """What it is called beside others."""
        return f"{self.run.path.resolve().name} {self.checkpoint} ({self.config.algorithm.name})"


def require_checkpoint(run: RunDirectory, name: str) -> None:
    """Check that a run has this checkpoint, undamaged.

    Raises:
        RunDirectoryError: it has none, or not this one; the message says which there are.
    """
    found = run.checkpoints()
    if not found:
        raise RunDirectoryError(f"'{run.path}' has no checkpoint yet; 'stapo train' saves the first before RL.")
    if name not in found:
        status = run.info().get("status")
        unfinished = f" The run is not finished (status {status})." if name == "final" and status != "done" else ""
        guess = "" if unfinished else did_you_mean(name, found)
        raise RunDirectoryError(
            f"'{run.path}' has no checkpoint '{name}'.{unfinished}{guess} Checkpoints: {', '.join(found)}; choose with "
            "--checkpoint."
        )
    run.check_checkpoint(name)


def require_writable(folder: Path) -> None:
    """Check that a diagnosis can be written to `folder`: it is free, or holds an earlier diagnosis.

    Raises:
        RunDirectoryError: it holds something else, or no folder can be made there.
    """
    found = oddity(folder)
    if found is not None:
        raise RunDirectoryError(f"'{folder}' is {found}, expected a folder; choose another place with --out.")
    above = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        why = "cannot be written" if above.is_dir() else "is not a folder"
        raise RunDirectoryError(f"'{above}' {why}; choose another place with --out.")
    require_plain(folder, FILES)
    there = {temporary_of(p.name) or p.name for p in folder.iterdir()} if folder.is_dir() else set()
    if there and FILES[0] not in there and not there <= set(FILES):
        raise RunDirectoryError(
            f"'{folder}' holds other files ({', '.join(sorted(there)[:3])}) and no diagnosis. Nothing was touched; "
            "choose another place with --out."
        )


def require_same_world(first: RunConfig, other: RunConfig, path: Path) -> None:
    """Check that another run's policy can be played on the tasks of the first.

    Raises:
        ConfigError: its environment is another.
    """
    if first.env.name != other.env.name:
        raise ConfigError(
            f"'{path}' was trained in environment '{other.env.name}', expected '{first.env.name}': only policies that "
            "can play the same tasks can be compared."
        )


def diagnose(
    subjects: Sequence[DiagnosisTarget], protocol: DiagnosisSpec, stage: Stage | None = None
) -> list[dict[str, Any]]:
    """Diagnose policies by one protocol and write a folder for each; returns their documents.

    Args:
        subjects: what to diagnose; differences are taken to the first.
        protocol: what is played, and with which settings.
        stage: told about progress.

    Raises:
        StapoError: a checkpoint cannot be loaded or played, or a result cannot be written. What was written before
            stays.
    """
    found: list[tuple[DiagnosisTarget, Measured, Numbers, dict[str, Any]]] = []
    for subject in subjects:
        set_threads(threads_here(subject.run, subject.config))
        policy = load_policy(str(subject.run.check_checkpoint(subject.checkpoint)), subject.config.model)
        measured = measure(policy, subject.config, protocol, stage, subject.run.started)
        numbers = summarize(measured, protocol.seed, RESAMPLES)
        found.append((subject, measured, numbers, _document(subject, protocol, measured, numbers)))
    first = found[0][2]
    for _, _, numbers, document in found[1:]:
        document["minus_first"] = {
            name: estimate(value - first.compared[name][0], resampled - first.compared[name][1])
            for name, (value, resampled) in numbers.compared.items()
        }
    documents = [document for *_, document in found]
    comparison = comparison_table(documents) if len(found) > 1 else None
    for subject, measured, _, document in found:
        # For readers that know nothing of diagnoses, such as the viewer.
        document["tables"] = [asdict(table) for table in (*tables(document), *([comparison] if comparison else []))]
        _write(subject, measured, document, comparison)
    return [dict(jsonable(document)) for document in documents]


def _document(
    subject: DiagnosisTarget, protocol: DiagnosisSpec, measured: Measured, numbers: Numbers
) -> dict[str, Any]:
    config, algorithm = protocol.config, protocol.algorithm
    return {
        "format": FORMAT,
        "label": subject.label,
        "run": str(subject.run.path),
        "checkpoint": subject.checkpoint,
        "algorithm": subject.config.algorithm.name,
        "environment": {"name": config.env.name, **config.env.options},
        "protocol": {
            "sentence": protocol.describe(),
            "split": protocol.split,
            "tasks": len(protocol.tasks),
            "tasks_of_split": protocol.offered,
            "group_size": protocol.group_size,
            "temperature": protocol.temperature,
            "seed": protocol.seed,
            "engine": config.rollout.engine,
            "resamples": RESAMPLES,
            "anchor": config.rollout.anchor,
            "reward_scale": config.rollout.reward_scale,
            "blind_mask": algorithm.selective.blind_mask,
            "own_judge": measured.judgment.judge,
            "outlier": asdict(algorithm.outlier),
            "advantage": asdict(algorithm.advantage),
            "task_ids": list(protocol.tasks),
        },
        "versions": versions(),
        "remarks": [*protocol.remarks, *measured.remarks, *subject.run.remarks()],
        **numbers.document,
    }


def _write(subject: DiagnosisTarget, measured: Measured, document: dict[str, Any], comparison: Table | None) -> None:
    """Write the three files; each is replaced in one step, the one that names the folder's contents last."""
    require_writable(subject.folder)
    records = step_records(measured)
    page = render_page(document, measured, worst_cases(measured, records), comparison)
    with writing(f"'{subject.folder}'"):
        subject.folder.mkdir(parents=True, exist_ok=True)
        RunDirectory(subject.folder).write_rows("steps", records)
        replace_page(subject.folder / "diagnosis.html", page)
        text = json.dumps(jsonable(document), indent=1, allow_nan=False) + "\n"
        write_durably(subject.folder / "diagnosis.json", text.encode())


def render_page(document: dict[str, Any], measured: Measured, cases: Sequence[Case], comparison: Table | None) -> str:
    """The page as text; needs no network, no other file and no script."""
    return (
        page_environment(unbroken=_unbroken, signed=_signed)
        .get_template("diagnosis.html.jinja")
        .render(
            document=document,
            tables=[*([comparison] if comparison else []), *tables(document)],
            plots=plots(measured, document),
            cases=cases,
            facts=_facts(document),
        )
    )


def _facts(document: dict[str, Any]) -> list[tuple[str, str]]:
    protocol = document["protocol"]
    plain = [(key, value) for key, value in protocol.items() if not isinstance(value, dict | list)]
    plain += [(f"outlier.{key}", value) for key, value in protocol["outlier"].items()]
    plain += [(f"advantage.{key}", value) for key, value in protocol["advantage"].items()]
    plain += [(f"version of {key}", value) for key, value in document["versions"].items()]
    environment = ", ".join(f"{key} {value}" for key, value in document["environment"].items())
    return [("environment", environment), *((key, str(value)) for key, value in plain)]


def _unbroken(text: str) -> str:
    """A cell that may break before its interval and nowhere inside it."""
    return text.replace(", ", ",\u00a0").replace(" %", "\u00a0%") if "[" in text else text


def _signed(value: Any) -> str:
    """A score with its sign; 0 is +0.00, since a score of 0 is as much of a number as the others."""
    x = number(value)
    return f"{x:+.2f}" if math.isfinite(x) else "–"
