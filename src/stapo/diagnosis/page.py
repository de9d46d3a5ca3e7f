"""The static page of one diagnosis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from stapo.diagnosis.measure import Measured
from stapo.diagnosis.plots import plots
from stapo.diagnosis.records import Case
from stapo.diagnosis.tables import Table, tables
from stapo.documents import number
from stapo.html.pages import page_environment


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
