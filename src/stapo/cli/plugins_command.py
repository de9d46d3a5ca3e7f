"""`stapo plugins [--json]`."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stapo.agent import PROMPT_STYLES, RESPONSE_FORMATS
from stapo.algo import ADVANTAGE_ESTIMATORS, POLICY_LOSSES, STEP_SCORES
from stapo.algo.presets import ALGORITHM_REGISTRY
from stapo.cli.words import foreign, positional, say
from stapo.envs.registry import ENVIRONMENTS
from stapo.registry import Registry
from stapo.retrieval.opening import RETRIEVERS
from stapo.trackers import TRACKERS

REGISTRIES: tuple[Registry[Any], ...] = (
    ENVIRONMENTS,
    ALGORITHM_REGISTRY,
    ADVANTAGE_ESTIMATORS,
    STEP_SCORES,
    POLICY_LOSSES,
    PROMPT_STYLES,
    RESPONSE_FORMATS,
    RETRIEVERS,
    TRACKERS,
)

_HELP = """usage: stapo plugins [--json]

List everything that is chosen by name, built in and from installed packages: its kind, its name, the package that
brings it, and what is wrong with those that cannot be used.

arguments:
  --json               machine-readable

examples:
  stapo plugins
  stapo plugins --json
"""


def run(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    if any(arg in ("-h", "--help") for arg in argv):
        print(_HELP, end="")
        return 0
    positional([a for a in argv if a != "--json"], 0, "plugins", ("--json", "--help"))
    found = [
        {"kind": registry.kind, "group": registry.group, **row._asdict()}
        for registry in REGISTRIES
        for row in registry.listing()
    ]
    if "--json" in argv:
        print(json.dumps(found, indent=1))
        return 0
    table = Table("kind", "name", "package", "what it is")
    table.columns[1].no_wrap = True
    for before, row in zip([{"kind": ""}, *found], found, strict=False):
        kind = str(row["kind"])
        if kind != before["kind"]:
            table.add_section()
        what = Text(foreign(row["error"]).plain, style="red") if row["error"] else foreign(row["target"])
        table.add_row(kind if kind != before["kind"] else "", foreign(row["name"]), foreign(row["package"]), what)
    console = Console()
    console.print(table)
    say(console, "Other packages add theirs by entry points of the groups in --json; see docs/extending.md.", "dim")
    return 0
