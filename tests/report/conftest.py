"""A maker of run directories."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup
from matplotlib.figure import Figure
from report_rows import CONFIG, EVALS, metrics_row, trajectory

from stapo.html import drawing
from stapo.run import RunDirectory

MakeRun = Callable[..., RunDirectory]


@pytest.fixture(autouse=True, scope="module")
def drawn(drawn_plots: None) -> None:
    """Plots are the subject here."""


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A function that writes a run directory; every part can be replaced, None leaves it out."""

    numbers = itertools.count()

    def make(
        *,
        metrics: list[dict[str, Any]] | None = None,
        evals: list[dict[str, Any]] | None = EVALS,
        sft: list[dict[str, Any]] | None = None,
        transcripts: dict[int, list[dict[str, Any]]] | None = None,
        status: str = "done",
        config: dict[str, Any] | None = None,
        empty: bool = False,
    ) -> RunDirectory:
        run = RunDirectory.create(
            tmp_path / f"run{next(numbers)}", copy.deepcopy(config or CONFIG), ["stapo", "train", "a b"]
        )
        parts: dict[str, list[dict[str, Any]] | None] = {"evals": evals}
        if not empty:
            loss = [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 1.0}]
            siblings = {i: [trajectory(i), trajectory(i, member=1)] for i in (1, 3)}
            parts["metrics"] = [metrics_row(i) for i in (1, 2, 3)] if metrics is None else metrics
            parts["sft"] = loss if sft is None else sft
            records = siblings if transcripts is None else transcripts
            (run.path / "transcripts").mkdir()
            parts |= {f"transcripts/iteration-{i:05d}": rows for i, rows in records.items()}
        for name, rows in parts.items():
            for row in rows or ():
                # json.dumps, not run.append: broken text is part of what the report has to survive.
                with (run.path / f"{name}.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
        if status != "running":
            run.finish(status)
        return run

    return make


@pytest.fixture
def unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn but not turned into SVG, which is what takes the time."""

    def render(key: str, label: str, draw: Callable[..., None], *, panels: int = 1) -> Markup:
        draw(figure := Figure(), list(figure.subplots(panels, 1, squeeze=False)[:, 0]))
        return Markup("<svg></svg>")

    monkeypatch.setattr(drawing, "render", render)


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without figures, for tests of everything else."""
    for kind in ("outcome_plots", "outlier_plots", "update_plots"):
        monkeypatch.setattr(f"stapo.report.write.{kind}", lambda log: [])


@pytest.fixture
def config() -> dict[str, Any]:
    """A configuration to change."""
    return copy.deepcopy(CONFIG)
