"""`stapo algorithms`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from stapo.algo import ALGORITHMS


def run(argv: list[str]) -> int:
    """Print the table of algorithms."""
    if argv:
        print("usage: stapo algorithms\n\nLists every algorithm with its paper; choose one with 'stapo train --algorithm'.")
        return 0 if argv[0] in ("-h", "--help") else 2
    table = Table("name", "what sets it apart", "paper")
    for algorithm in ALGORITHMS.values():
        table.add_row(algorithm.name, algorithm.description, algorithm.paper)
    Console().print(table)
    return 0
