"""`stapo presets [--json]`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from stapo.cli.command import Command
from stapo.cli.words import say


@dataclass(frozen=True, kw_only=True)
class Presets(Command):
    """List the shipped presets: environment, model and duration of each.

    The length is iterations x groups x attempts.

    Attributes:
        json: print machine-readable JSON instead of a table.
    """

    EXAMPLES = """
stapo presets
stapo train PRESET --dry-run   every setting of one
"""

    json: bool = False

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code."""
        from stapo.config.presets import describe_presets

        found = describe_presets()
        if self.json:
            print(json.dumps([asdict(preset) for preset in found], indent=1))
            return 0
        table = Table("preset", "environment", "model", "iterations x groups x attempts", "what it is")
        table.columns[0].no_wrap = True
        for preset in found:
            table.add_row(preset.name, preset.environment, preset.model, preset.size, preset.about)
        console = Console()
        console.print(table)
        say(console, "'stapo train PRESET' trains one; 'extends: PRESET' in a YAML file starts from it.", "dim")
        return 0


COMMAND = Presets
