"""`stapo report RUN [--open]`."""

from __future__ import annotations

import webbrowser
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from stapo.cli.command import Command, arg
from stapo.cli.words import write_line


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Write RUN/report.html anew: success before and after, learning curves, outliers, time, trajectories.

    The page needs no network and no other file. You can also write the report of a run that is still training, or was
    interrupted.

    Attributes:
        run_folder: run folder, as 'stapo train' writes it.
        open: show the page in the web browser.
    """

    EXAMPLES = "stapo report runs/tiny-stapo-20260101-120000 --open"

    run_folder: Positional[str] = arg("RUN", needs="a run directory, as 'stapo train' writes it")
    open: bool = False

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code."""
        from stapo.report import write_report
        from stapo.run import RunDirectory

        path = write_report(RunDirectory.open(Path(self.run_folder)))
        write_line(str(path))
        if self.open and not webbrowser.open(path.resolve().as_uri()):
            print("no web browser was found here; open the file yourself")
        return 0


COMMAND = Report
