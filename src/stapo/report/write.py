"""From a run directory to one self-contained page."""

from __future__ import annotations

from pathlib import Path

from stapo.errors import writing
from stapo.health import closing_checks
from stapo.html.pages import inline_script, page_environment, replace_page
from stapo.report.data import RunLog, read_run
from stapo.report.plots import outcome_plots, outlier_plots, update_plots
from stapo.report.summary import comparisons, facts, losses, protocols, reading, sentences, success_table, title
from stapo.report.trajectories import place, select_trajectories
from stapo.run import RunDirectory

FILE_NAME = "report.html"


def write(run: RunDirectory) -> Path:
    """See `stapo.report.write_report`."""
    path = run.path / FILE_NAME
    page = render_report(read_run(run))
    with writing(f"report '{path}'"):
        replace_page(path, page)
    return path


def render_report(log: RunLog) -> str:
    """The page as text."""
    environment = page_environment(place=place)
    compared, remarks = comparisons(log), list(log.remarks)
    selection = select_trajectories(log, remarks)
    return environment.get_template("report.html.jinja").render(
        log=log,
        title=title(log),
        sentences=sentences(log, compared),
        signs=[*losses(compared), *closing_checks(log.metrics, log.config, thinned=log.thinned)],
        remarks=remarks,
        compared=compared,
        table=success_table(compared),
        protocols=protocols(log),
        sections=[
            {"key": "outcome", "title": "Success and behavior", "plots": outcome_plots(log)},
            {"key": "outliers", "title": "Entropy and outliers", "plots": outlier_plots(log)},
            {"key": "update", "title": "Update and time", "plots": update_plots(log), "note": reading(log)},
        ],
        selection=selection,
        facts=facts(log),
        **inline_script(environment, "page.js.jinja"),
    )
