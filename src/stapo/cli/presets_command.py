"""`stapo presets [--json]`."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from stapo.cli.words import positional, say

_HELP = """usage: stapo presets [--json]

List the shipped presets: what is played, which model is trained, how long, in which iterations of how many groups of
how many attempts.

arguments:
  --json               machine-readable

examples:
  stapo presets
  stapo train PRESET --dry-run   every setting of one
"""


def run(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    if any(arg in ("-h", "--help") for arg in argv):
        print(_HELP, end="")
        return 0
    positional([a for a in argv if a != "--json"], 0, "presets", ("--json", "--help"))
    # Imported here, because the help alone must not wait for torch.
    from stapo.config.presets import describe_presets

    found = describe_presets()
    if "--json" in argv:
        print(json.dumps([asdict(preset) for preset in found], indent=1))
        return 0
    table = Table("preset", "environment", "model", "iterations x groups x attempts", "what it is")
    table.columns[0].no_wrap = True
    for preset in found:
        table.add_row(preset.name, preset.environment, preset.model, preset.size, preset.about)
    console = Console()
    console.print(table)
    say(console, "'stapo train PRESET' trains one; 'extends: PRESET' in a YAML file of yours starts from it.", "dim")
    return 0
