"""The static page of one diagnosis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from stapo import __version__
from stapo.diagnosis.measure import Measured
from stapo.diagnosis.plots import plots
from stapo.diagnosis.records import Case
from stapo.diagnosis.tables import Table, tables
from stapo.report.data import number
from stapo.report.pages import page_environment
from stapo.report.trajectories import prompt_lines, readable


def render_page(document: dict[str, Any], measured: Measured, cases: Sequence[Case], comparison: Table | None) -> str:
    """The page as text; needs no network, no other file and no script.

    Args:
        document: the numbers, as they go into diagnosis.json.
        measured: the steps, for the figures.
        cases: bad steps to show.
        comparison: other policies beside this one.
    """
    # The look is that of the report.
    environment = page_environment("stapo.diagnosis")
    environment.filters.update(num=_num, signed=_signed, readable=readable, case_lines=_case_lines)
    return environment.get_template("diagnosis.html.jinja").render(
        version=__version__,
        document=document,
        tables=[*([comparison] if comparison else []), *tables(document)],
        plots=plots(measured, document),
        cases=cases,
        facts=_facts(document),
    )


def _facts(document: dict[str, Any]) -> list[tuple[str, str]]:
    protocol = document["protocol"]
    plain = [(key, value) for key, value in protocol.items() if not isinstance(value, dict | list)]
    plain += [(f"outlier.{key}", value) for key, value in protocol["outlier"].items()]
    plain += [(f"advantage.{key}", value) for key, value in protocol["advantage"].items()]
    plain += [(f"version of {key}", value) for key, value in document["versions"].items()]
    environment = ", ".join(f"{key} {value}" for key, value in document["environment"].items())
    return [("environment", environment), *((key, str(value)) for key, value in plain)]


def _case_lines(case: Case) -> list[tuple[str, bool]]:
    return prompt_lines({"prompt": case.prompt, "blind_prompt": case.blind_prompt})


def _num(value: Any) -> str:
    x = number(value)
    return f"{x:.3g}" if math.isfinite(x) else "–"


def _signed(value: Any) -> str:
    x = number(value)
    return f"{x:+.2f}" if math.isfinite(x) else "–"
