"""`stapo plugins [--json]`."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stapo.agent import PROMPT_STYLES, RESPONSE_FORMATS
from stapo.algo import ADVANTAGE_ESTIMATORS, POLICY_LOSSES, STEP_CREDITS, STEP_SCORES
from stapo.algo.presets import ALGORITHM_REGISTRY
from stapo.cli.command import Command
from stapo.cli.words import foreign, say
from stapo.envs.registry import ENVIRONMENTS
from stapo.registry import Entry, Registry
from stapo.retrieval.opening import RETRIEVERS
from stapo.trackers import TRACKERS

REGISTRIES: tuple[Registry[Any], ...] = (
    ENVIRONMENTS,
    ALGORITHM_REGISTRY,
    ADVANTAGE_ESTIMATORS,
    STEP_CREDITS,
    STEP_SCORES,
    POLICY_LOSSES,
    PROMPT_STYLES,
    RESPONSE_FORMATS,
    RETRIEVERS,
    TRACKERS,
)


@dataclass(frozen=True, kw_only=True)
class Plugins(Command):
    """List everything that you can choose by name, built in and from installed packages.

    The list shows kind, name and package of each, what it is, and the error of each that cannot be used.

    Attributes:
        json: print machine-readable JSON instead of a table.
    """

    EXAMPLES = "stapo plugins --json"

    json: bool = False

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code."""
        found = [
            {"kind": registry.kind, "group": registry.group, **row._asdict(), "about": _about(registry, row)}
            for registry in REGISTRIES
            for row in registry.listing()
        ]
        if self.json:
            print(json.dumps(found, indent=1))
            return 0
        table = Table("kind", "name", "package", "what it is")
        table.columns[1].no_wrap = True
        for before, row in zip([{"kind": ""}, *found], found, strict=False):
            kind = str(row["kind"])
            if kind != before["kind"]:
                table.add_section()
            about = foreign(row["error"] or row["about"] or row["target"])
            what = Text(about.plain, style="red") if row["error"] else about
            table.add_row(kind if kind != before["kind"] else "", foreign(row["name"]), foreign(row["package"]), what)
        console = Console()
        console.print(table)
        say(console, "Other packages add theirs by entry points of the groups in --json; see docs/extending.md.", "dim")
        return 0


def _about(registry: Registry[Any], row: Entry) -> str:
    """The first sentence that a prompt style or a response format says of itself; "" for what has a list of its own."""
    if row.error or registry not in (PROMPT_STYLES, RESPONSE_FORMATS):
        return ""
    return (inspect.getdoc(registry.get(row.name)) or "").partition("\n")[0]


COMMAND = Plugins
