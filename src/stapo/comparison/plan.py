"""What a comparison consists of, decided before anything runs: variants, seeds, starts, cells and their settings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stapo.atomic_io import open_to_read, reason_of, temporary_of, write_durably
from stapo.config.run_config import RunConfig
from stapo.config.schema import differing, from_data, to_data
from stapo.documents import lookup, parse_json, shown
from stapo.errors import ConfigError, RunDirectoryError, StapoError, writing
from stapo.former_names import STARTS, with_present_names
from stapo.run.directory import require_plain, versions

FILE_NAME = "compare.json"
FORMAT_VERSION = 1
NAMES = (".lock", FILE_NAME, "results.json", "report.html", "settings", "logs", "starts", STARTS, "runs")
"""What there may be in the folder of a comparison."""

MOST_STARTS = 3
_LABEL = re.compile(r"\w[\w.+=,-]*")
_LONGEST_LABEL = 200  # bytes; files are named after it with a few letters more
_MOST_SEED = 10**18


@dataclass(frozen=True)
class Variant:
    """An algorithm with its settings.

    Attributes:
        label: its name in tables and folders.
        algorithm: name of the algorithm.
        changes: settings that `--vary` gave it, by dotted path.
        settings: resolved configuration as data; seed and start are those of the cells.
    """

    label: str
    algorithm: str
    changes: dict[str, Any]
    settings: dict[str, Any]

    @property
    def episodes(self) -> int:
        """Training episodes of one run."""
        rollout = self.settings["rollout"]
        episodes: int = self.settings["optim"]["iterations"] * rollout["groups"] * rollout["group_size"]
        return episodes


@dataclass(frozen=True)
class Cell:
    """One run to be made.

    Attributes:
        label: of its variant.
        seed: of the run.
        start: number of the start that it begins with.
    """

    label: str
    seed: int
    start: int

    @property
    def name(self) -> str:
        """For messages and files."""
        return f"{self.label}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """A whole comparison.

    Attributes:
        base: resolved configuration that the starts are made with.
        variants: in the order of the table.
        cells: every run, in the order in which they are begun.
        commands: command lines that made and extended it, oldest first.
        baseline: label of the variant that the others are compared with, as last chosen; None where nobody chose.
        versions: of Python and packages, when it was made.
        created: when.
    """

    base: dict[str, Any]
    variants: tuple[Variant, ...]
    cells: tuple[Cell, ...]
    commands: tuple[str, ...]
    baseline: str | None = None
    versions: dict[str, str] = field(default_factory=versions)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def makes_starts(self) -> bool:
        """Whether starts are made, rather than only the evaluation of a model that the user gave."""
        return self.base["model"]["path"] is None or self.base["sft"]["steps"] > 0

    @property
    def starts(self) -> list[int]:
        """Numbers of the starts that cells use."""
        return sorted({cell.start for cell in self.cells})

    @property
    def seeds(self) -> list[int]:
        """Seeds of the cells, in order of first use."""
        return list(dict.fromkeys(cell.seed for cell in self.cells))

    def variant(self, label: str) -> Variant:
        """The variant called `label`."""
        return next(v for v in self.variants if v.label == label)

    def episodes(self) -> int:
        """Training episodes of all cells together."""
        return sum(self.variant(cell.label).episodes for cell in self.cells)

    def start_settings(self, start: int) -> dict[str, Any]:
        """Configuration of the run that makes, and evaluates, a start."""
        return with_changes(self.base, seed=start, optim__iterations=0, eval__at_start=False, log__threads=1)

    def cell_settings(self, cell: Cell, folder: Path) -> dict[str, Any]:
        """Configuration of the run of a cell, in a comparison that lies in `folder`."""
        settings = with_changes(self.variant(cell.label).settings, seed=cell.seed, eval__at_start=False, log__threads=1)
        if self.makes_starts:
            settings = with_changes(settings, model__path=str(checkpoint_of(folder, cell.start)), sft__steps=0)
        if self.base["model"]["path"] is None and "compact" not in settings["agent"]["prompt"]:
            # A model that was built here has no chat template, though its prompts are written for one.
            settings = with_changes(settings, model__chat_template="none")
        return settings


def plan_of(
    base: dict[str, Any], variants: Sequence[Variant], seeds: Sequence[int], starts: int | None, command: str
) -> Plan:
    """Lay out the cells: all variants of a seed one after the other, so that early results can be compared.

    Args:
        base: resolved configuration of the starts.
        variants: at least one, with different labels.
        seeds: at least one, each once.
        starts: how many different starts; seed s takes start s % starts. None: one per seed, three at most.
        command: command line.

    Raises:
        ConfigError: two variants with one label.
    """
    for label in (v.label for v in variants):
        if not _is_label(label):
            raise ConfigError(
                f"a variant would be called '{label[:200]}', which cannot name a folder: vary fewer settings."
            )
        if sum(v.label == label for v in variants) > 1:
            raise ConfigError(f"two variants would be called '{label}'; give each algorithm and value once.")
    count = starts if starts is not None else min(len(seeds), MOST_STARTS)
    plan = Plan(base, tuple(variants), (), (command,))
    if not plan.makes_starts:
        count = 1
    cells = tuple(Cell(v.label, seed, seed % count) for seed in seeds for v in variants)
    return replace(plan, cells=cells)


def extended(old: Plan, new: Plan, folder: Path) -> Plan:
    """The stored plan with the variants and seeds that the new one adds; what only the stored one has stays.

    Raises:
        ConfigError: settings differ, or a cell would begin with another start.
    """
    lines = [
        f"\n  {path}: {was!r} in the folder, {now!r} now"
        for path, was, now in differing(old.base, new.base, decided=True)
    ]
    known = {v.label: v for v in old.variants}
    for variant in new.variants:
        if variant.label in known:
            for path, was, now in differing(known[variant.label].settings, variant.settings, decided=True):
                line = f"\n  {path}: {was!r} in the folder, {now!r} now"
                if line not in lines:
                    lines.append(f"\n  {variant.label}, {path}: {was!r} in the folder, {now!r} now")
    starts = {cell.seed: cell.start for cell in old.cells}
    for seed, start in {cell.seed: cell.start for cell in new.cells}.items():
        if starts.get(seed, start) != start:
            lines.append(f"\n  start of seed {seed}: {starts[seed]} in the folder, {start} now (--starts)")
    if lines:
        raise ConfigError(
            f"'{folder}' holds a comparison with other settings:{''.join(lines)}\n"
            "Algorithms and seeds can be added to a comparison; for everything else choose another folder with --out. "
            f"'stapo compare --out {folder}' alone resumes what is there."
        )
    variants = (*old.variants, *(v for v in new.variants if v.label not in known))
    starts |= {cell.seed: cell.start for cell in new.cells if cell.seed not in starts}
    there = set(old.cells)
    added = [Cell(v.label, seed, start) for seed, start in starts.items() for v in variants]
    commands = old.commands if new.commands[0] in old.commands else (*old.commands, *new.commands)
    return replace(old, variants=variants, cells=(*old.cells, *(c for c in added if c not in there)), commands=commands)


def checkpoint_of(folder: Path, start: int) -> Path:
    """The policy that a start leaves."""
    return (start_folder(folder, start) / "checkpoints" / "final").resolve()


def start_folder(folder: Path, start: int) -> Path:
    """Run directory of a start."""
    return folder / (STARTS if (folder / STARTS).is_dir() else "starts") / f"{start:02d}"


def cell_folder(folder: Path, cell: Cell) -> Path:
    """Run directory of a cell."""
    return folder / "runs" / cell.label / f"seed-{cell.seed}"


def label_of(algorithm: str, changes: Mapping[str, Any]) -> str:
    """Name of a variant that can also be a folder's: the last word of each varied setting with its value."""
    last = [path.rpartition(".")[2] for path in changes]
    words = [path if last.count(path.rpartition(".")[2]) > 1 else path.rpartition(".")[2] for path in changes]
    parts = [f"{word}={_plain(value)}" for word, value in zip(words, changes.values(), strict=True)]
    return ",".join([algorithm, *parts])


def _is_label(text: object) -> bool:
    """Whether a text can be a label, and so the name of a folder: no way out of one, and short enough for a file."""
    return isinstance(text, str) and _LABEL.fullmatch(text) is not None and len(text.encode()) <= _LONGEST_LABEL


def _plain(value: Any) -> str:
    return re.sub(r"[^\w.+-]", "_", str(value).lower() if isinstance(value, bool | None) else str(value))


def require_place(folder: Path) -> None:
    """Check that a comparison may be written to, or is in, `folder`.

    Raises:
        RunDirectoryError: it holds something else.
    """
    require_plain(folder, NAMES)
    if (folder / FILE_NAME).is_file() or not folder.exists():
        return
    if not folder.is_dir():
        raise RunDirectoryError(f"'{folder}' exists already and is not a folder. Choose another with --out.")
    names = {p.name for p in folder.iterdir()}
    if "run.json" in names:
        raise RunDirectoryError(
            f"'{folder}' holds a single run, as 'stapo train' writes it, and no comparison. Nothing was touched; "
            "choose another folder with --out."
        )
    if {name for name in names if temporary_of(name) != FILE_NAME} - {".lock"}:
        raise RunDirectoryError(
            f"'{folder}' is not empty and holds no comparison (no {FILE_NAME}). Nothing was touched; choose another "
            "folder with --out."
        )


def write_plan(folder: Path, plan: Plan) -> None:
    """Write the plan, whole or not at all.

    Raises:
        RunDirectoryError: it cannot be written.
    """
    data = {
        "format": FORMAT_VERSION,
        "created": plan.created,
        "commands": list(plan.commands),
        "baseline": plan.baseline,
        "versions": plan.versions,
        "base": plan.base,
        "variants": [vars(v) for v in plan.variants],
        "cells": [vars(c) for c in plan.cells],
    }
    with writing(f"'{folder / FILE_NAME}'"):
        write_durably(folder / FILE_NAME, (json.dumps(data, indent=1) + "\n").encode())


def read_plan(folder: Path) -> Plan:
    """The plan of the comparison in `folder`.

    Raises:
        RunDirectoryError: there is none, or it cannot be read.
    """
    require_plain(folder, NAMES)
    path = folder / FILE_NAME
    try:
        with open_to_read(path) as file:
            data = parse_json(file.read())
        if not isinstance(data, dict):
            raise RunDirectoryError(f"'{path}' holds {type(data).__name__}, expected an object.")
        if not isinstance(data["commands"], list):
            raise ValueError(f"commands is {shown(data['commands'])}")
        if data["format"] != FORMAT_VERSION:
            raise RunDirectoryError(
                f"'{path}' has format {data['format']}, this version reads format {FORMAT_VERSION}. Use the "
                "version that wrote it."
            )
        plan = Plan(
            _completed(data["base"]),
            tuple(replace(v, settings=_completed(v.settings)) for v in (Variant(**v) for v in data["variants"])),
            tuple(Cell(**c) for c in data["cells"]),
            tuple(map(str, data["commands"])),
            data.get("baseline"),
            {str(name): str(found) for name, found in data["versions"].items()},
            str(data["created"]),
        )
        _check_names(plan)
        return plan
    except FileNotFoundError:
        raise RunDirectoryError(
            f"'{folder}' holds no comparison: expected {FILE_NAME} in it, as 'stapo compare' writes."
        ) from None
    except StapoError:
        raise
    except OSError as err:
        raise RunDirectoryError(f"'{path}' cannot be read: {reason_of(err)}.") from err
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise RunDirectoryError(f"'{path}' cannot be read: {type(err).__name__}: {err}.") from err


def _check_names(plan: Plan) -> None:
    """Check what folders and files are named after, as the command line is checked.

    Raises:
        ValueError: a label, seed or start that no command line could have given.
    """
    for variant in plan.variants:
        if not _is_label(variant.label):
            raise ValueError(f"label {variant.label!r:.200} cannot name a folder")
        if not isinstance(variant.changes, dict) or variant.label != label_of(variant.algorithm, variant.changes):
            raise ValueError(f"label '{variant.label}' is not that of its algorithm and changes")
        for path, value in {"algorithm.name": variant.algorithm, **variant.changes}.items():
            found = lookup(variant.settings, path)
            # A setting that has another name by now is not found.
            if found is not None and found != value:
                raise ValueError(f"{path} of '{variant.label}' is {shown(found)} in its settings, not {shown(value)}")
    labels = [variant.label for variant in plan.variants]
    if not labels or len(set(labels)) < len(labels):
        raise ValueError("it has no variant, or one is there twice")
    if plan.baseline is not None and plan.baseline not in labels:
        raise ValueError(f"its baseline {shown(plan.baseline)} is not one of its variants")
    for cell in plan.cells:
        if cell.label not in labels:
            raise ValueError(f"a run belongs to no variant: {cell.label!r:.200}")
        for what, number in (("seed", cell.seed), ("start", cell.start)):
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < _MOST_SEED:
                raise ValueError(f"{what} {number!r:.200} is not a whole number of 0 or more")
    if not plan.cells or len(set(plan.cells)) < len(plan.cells):
        raise ValueError("it has no run, or one is there twice")
    if len({(cell.seed, cell.start) for cell in plan.cells}) > len(plan.seeds):
        raise ValueError("a seed begins with two different starts")


def _completed(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the defaults of those that came later."""
    data: dict[str, Any] = to_data(from_data(RunConfig, with_present_names(settings)[0]))
    return data


def with_changes(settings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy with other values; a dotted path has `__` as its dot."""
    data: dict[str, Any] = json.loads(json.dumps(settings))
    for path, value in changes.items():
        *groups, last = path.split("__")
        place = data
        for group in groups:
            place = place[group]
        place[last] = value
    return data
