"""`stapo algorithms`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from stapo.algo import ALGORITHMS
from stapo.errors import ConfigError


def run(argv: list[str]) -> int:
    """Print the table of algorithms."""
    if argv:
        if argv[0] not in ("-h", "--help"):
            raise ConfigError(f"'stapo algorithms' takes no argument, found '{argv[0]}'.")
        print("usage: stapo algorithms\n\nList every algorithm with its paper, as 'stapo train --algorithm' takes it.")
        return 0
    table = Table("name", "what sets it apart", "paper")
    for algorithm in ALGORITHMS.values():
        table.add_row(algorithm.name, algorithm.description, algorithm.paper)
    Console().print(table)
    return 0
