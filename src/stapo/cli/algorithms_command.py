"""`stapo algorithms`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from stapo.algo import ALGORITHM_FAMILIES, ALGORITHMS, AlgorithmConfig, algorithm_names, get_algorithm
from stapo.errors import ConfigError


def run(argv: list[str]) -> int:
    """Print the table of algorithms."""
    if argv:
        if argv[0] not in ("-h", "--help"):
            raise ConfigError(f"'stapo algorithms' takes no argument, found '{argv[0]}'.")
        print("usage: stapo algorithms\n\nList every algorithm with its paper, as 'stapo train --algorithm' takes it.")
        return 0
    table = Table()
    table.add_column("name", no_wrap=True)
    table.add_column("what sets it apart")
    table.add_column("paper", no_wrap=True)
    families: dict[str, tuple[AlgorithmConfig, ...]] = {**ALGORITHM_FAMILIES}
    families["of other packages"] = tuple(get_algorithm(n) for n in algorithm_names() if n not in ALGORITHMS)
    for title, family in families.items():
        if not family:
            continue
        table.add_section()
        table.add_row(title, "", "", style="bold")
        papers: list[str] = []
        for algorithm in family:
            paper = algorithm.paper.rpartition(", ")[2]
            table.add_row(algorithm.name, algorithm.description, '"' if paper in papers[-1:] else paper)
            papers.append(paper)
    Console().print(table)
    return 0
