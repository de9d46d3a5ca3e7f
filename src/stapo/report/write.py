"""From a run directory to one self-contained page."""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from stapo import __version__
from stapo.errors import RunDirectoryError
from stapo.report.data import RunLog, number, read_run
from stapo.report.drawing import Plot
from stapo.report.health_checks import health_checks
from stapo.report.outcome_plots import outcome_plots
from stapo.report.outlier_plots import outlier_plots
from stapo.report.pages import page_environment, replace_page
from stapo.report.summary import comparisons, facts, protocols, sentences, success_table, title
from stapo.report.trajectories import place, prompt_lines, readable, select_trajectories
from stapo.report.update_plots import update_plots
from stapo.run import RunDirectory

FILE_NAME = "report.html"


@dataclass(frozen=True)
class _Section:
    key: str
    title: str
    plots: list[Plot]


def write(run: RunDirectory) -> Path:
    """See `stapo.report.write_report`."""
    path = run.path / FILE_NAME
    page = render_report(read_run(run))
    try:
        replace_page(path, page)
    except OSError as err:
        raise RunDirectoryError(f"report '{path}' cannot be written: {err.strerror or err}.") from err
    return path


def render_report(log: RunLog) -> str:
    """The page as text."""
    environment = _environment()
    script = _source(environment, "page.js.jinja")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    compared, remarks = comparisons(log), list(log.remarks)
    selection = select_trajectories(log, remarks)
    return environment.get_template("report.html.jinja").render(
        log=log,
        version=__version__,
        title=title(log),
        sentences=sentences(log, compared),
        signs=health_checks(log, compared),
        remarks=remarks,
        compared=compared,
        table=success_table(compared),
        protocols=protocols(log),
        sections=[
            _Section("outcome", "Success and behavior", outcome_plots(log)),
            _Section("outliers", "Entropy and outliers", outlier_plots(log)),
            _Section("update", "Update and time", update_plots(log)),
        ],
        selection=selection,
        facts=facts(log),
        # The page's policy allows this one script, so that nothing in a model's text could ever run.
        script=Markup(script),
        script_hash=f"sha256-{digest}",
    )


def _environment() -> Environment:
    environment = page_environment()
    environment.filters.update(num=_num, signed=_signed, place=place, readable=readable, prompt_lines=prompt_lines)
    return environment


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _num(value: Any) -> str:
    x = number(value)
    return f"{x:.3g}" if math.isfinite(x) else "–"


def _signed(value: Any) -> str:
    x = number(value)
    return (f"{x:+.2f}" if x else "0") if math.isfinite(x) else "–"
