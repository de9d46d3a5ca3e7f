"""Templates of all static pages, with one filter that every text on them goes through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader
from markupsafe import Markup

from stapo.atomic_io import write_durably
from stapo.texts import escape_control_chars


def page_environment(*packages: str) -> Environment:
    """Templates of the given packages, then those of the report.

    Whatever a page shows is HTML of our own (`Markup`) or text; text comes out with control codes and changes of
    direction spelled out, whoever wrote it, and is escaped.
    """
    loader = ChoiceLoader([PackageLoader(package, "templates") for package in (*packages, "stapo.report")])
    return Environment(loader=loader, autoescape=True, finalize=shown)


def shown(value: Any) -> Any:
    """What a template puts into the page for a value."""
    return escape_control_chars(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def replace_page(path: Path, page: str) -> None:
    """Replace a page in one step; lone surrogates, which sampled text may hold and UTF-8 cannot, become "?".

    Raises:
        OSError: it cannot be written; the old page stands.
    """
    write_durably(path, page.encode("utf-8", "replace"))
