"""`stapo algorithms`."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stapo.algo import ALGORITHM_FAMILIES, AlgorithmConfig, get_algorithm
from stapo.algo.presets import ALGORITHM_REGISTRY
from stapo.cli.command import Command
from stapo.cli.words import foreign
from stapo.registry import OWN


@dataclass(frozen=True, kw_only=True)
class Algorithms(Command):
    """List every algorithm with its paper, as 'stapo train --algorithm' takes it."""

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code."""
        table = Table()
        table.add_column("name", no_wrap=True)
        table.add_column("what sets it apart")
        table.add_column("paper", no_wrap=True)
        families: dict[str, tuple[AlgorithmConfig, ...]] = {**ALGORITHM_FAMILIES}
        others, broken = _of_others()
        families["of other packages"] = others
        for title, family in families.items():
            if not family:
                continue
            table.add_section()
            table.add_row(title, "", "", style="bold")
            papers: list[str] = []
            for algorithm in family:
                paper = algorithm.paper.rpartition(", ")[2]
                table.add_row(
                    foreign(algorithm.name),
                    foreign(algorithm.description),
                    '"' if paper in papers[-1:] else foreign(paper),
                )
                papers.append(paper)
        if broken:
            table.add_section()
            table.add_row("that cannot be used", "", "", style="bold")
            for name, problem in broken:
                table.add_row(foreign(name), Text(foreign(problem).plain, style="red"), "")
        table.caption = (
            "stapo+NAME adds the flags and terms of stapo, or of a variant, to a method without them: stapo+pgpo."
        )
        Console().print(table)
        return 0


def _of_others() -> tuple[tuple[AlgorithmConfig, ...], list[tuple[str, str]]]:
    """The algorithms of other packages, and (name or package, what is wrong) of those that cannot be used."""
    rows = [row for row in ALGORITHM_REGISTRY.listing() if row.package != OWN]
    found = tuple(get_algorithm(row.name) for row in rows if not row.error)
    return found, [(row.name or row.package, row.error) for row in rows if row.error]


COMMAND = Algorithms
