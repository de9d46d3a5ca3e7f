"""From a run directory to one self-contained page."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader

from stapo.run import RunDirectory


def write_report(run: RunDirectory) -> Path:
    """Write `report.html` into the run directory; returns its path."""
    page = Environment(loader=PackageLoader("stapo.report", "templates"), autoescape=True).get_template(
        "report.html.jinja"
    )
    path = run.path / "report.html"
    path.write_text(
        page.render(name=run.path.name, info=run.info(), metrics=run.rows("metrics"), evals=run.rows("evals")),
        encoding="utf-8",
    )
    return path
