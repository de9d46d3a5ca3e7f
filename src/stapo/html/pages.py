"""Pages: templates of static ones, their filters, how a finished page replaces an old one; JSON for the viewer."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from stapo import __version__
from stapo.atomic_io import write_durably
from stapo.documents import number
from stapo.texts import counted, escape_control_chars, hide_secrets

LONGEST_TEXT = 20_000
"""Characters of one text that a page shows."""
LONGEST_PROMPT = 200_000
"""Characters of one text where a single step is shown."""


@cache
def page_environment(**filters: Callable[..., str | float]) -> Environment:
    """Templates of all pages, with filters of one page beside those of every page.

    Whatever a page shows is HTML of our own (`Markup`) or text; text comes out with control codes and changes of
    direction spelled out and without secrets, whoever wrote it, and is escaped.
    """
    environment = Environment(loader=PackageLoader("stapo.html"), autoescape=True, finalize=shown)
    shared = {"num": _num, "signed": _signed, "readable": readable, "prompt_lines": prompt_lines}
    environment.filters.update(shared | filters)
    environment.globals.update(version=__version__)
    return environment


def shown(value: Any) -> Any:
    """What a template puts into the page for a value."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return escape_control_chars(hide_secrets(value))


def replace_page(path: Path, page: str) -> None:
    """Replace a page in one step; lone surrogates, which sampled text may hold and UTF-8 cannot, become "?".

    Raises:
        OSError: it cannot be written; the old page stands.
    """
    write_durably(path, page.encode("utf-8", "replace"))


def readable(text: Any, longest: int = LONGEST_TEXT) -> str:
    """Text as a page can hold it: control and direction characters become visible, endless text is cut."""
    value = "" if text is None else str(text)
    cut = len(value) - longest
    if cut > 0:
        value = f"{value[:longest]}… ({counted(cut, 'more character')} in the transcript file)"
    return escape_control_chars(value)


def prompt_lines(step: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Lines of the full prompt, each with whether the blind prompt lacks it."""
    blind = set(str(step.get("blind_prompt") or "").splitlines())
    return [(line, line not in blind) for line in str(step.get("prompt") or "").splitlines()]


def inline_script(environment: Environment, name: str) -> dict[str, Markup | str]:
    """A script for the page, and its hash: the page's policy allows this one, so no text of a model could ever run."""
    assert environment.loader is not None
    source = environment.loader.get_source(environment, name)[0]
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return {"script": Markup(source), "script_hash": f"sha256-{digest}"}


def _num(value: Any) -> str:
    x = number(value)
    return f"{x:.3g}" if math.isfinite(x) else "–"


def _signed(value: Any) -> str:
    x = number(value)
    return (f"{x:+.2f}" if x else "0") if math.isfinite(x) else "–"


def cleaned(value: Any, longest: int = LONGEST_TEXT) -> Any:
    """A value of JSON with every text in it fit to be shown, and null for numbers that are not finite."""
    if isinstance(value, str):
        return readable(hide_secrets(value), longest)
    if isinstance(value, Mapping):
        return {readable(hide_secrets(str(key)), longest): cleaned(item, longest) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(item, longest) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def encoded(value: Any) -> bytes:
    """JSON in UTF-8; lone surrogates, which `cleaned` spells out, cannot be in it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
