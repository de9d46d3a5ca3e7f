"""`stapo resume RUN [--iterations N] [--quiet]`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tyro.conf import Positional

from stapo.cli.command import Command, arg


@dataclass(frozen=True, kw_only=True)
class Resume(Command):
    """Resume a run that was stopped, killed or has failed, from its newest undamaged save; or extend a run.

    A resumed run keeps its own settings. The numbers are those of an undisturbed run. 'stapo train' with the command of
    the run does the same.

    Attributes:
        run_folder: run folder, as 'stapo train' writes it.
        iterations: iterations of the whole run, 0 or more; the default is what it was started with. A schedule that
            decays over the run (optim.schedule) is stretched: the learning rate jumps to its value in a run of N
            iterations.
        quiet: print one line per iteration instead of progress bars.
    """

    EXAMPLES = """
stapo resume runs/tiny-stapo-20260101-120000
stapo resume runs/tiny-stapo-20260101-120000 --iterations 90
"""

    run_folder: Positional[str] = arg("RUN", needs="a run directory, as 'stapo train' writes it")
    iterations: int | None = arg("N", None, least=0, expects="a whole number of iterations in all")
    quiet: bool = False

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code."""
        from stapo.cli.train_command import train_into
        from stapo.config.run_config import read_run_config
        from stapo.run import RunDirectory

        folder = Path(self.run_folder)
        config = read_run_config(RunDirectory.open(folder))
        if self.iterations is not None:
            config = replace(config, optim=replace(config.optim, iterations=self.iterations))
        return train_into(config, folder, ["stapo", "resume", *argv], self.quiet)


COMMAND = Resume
