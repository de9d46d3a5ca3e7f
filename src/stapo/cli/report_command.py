"""`stapo report RUN [--open]`."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from stapo.cli.words import positional, write_line
from stapo.errors import ConfigError

_HELP = """usage: stapo report RUN [--open]

Write RUN/report.html anew: success before and after, learning curves, outliers, time, trajectories, configuration.
The page needs no network and no other file. A run that still goes on, or was interrupted, has a report, too.

arguments:
  RUN       run directory, as 'stapo train' writes it
  --open    show the page in the web browser

example:
  stapo report runs/tiny-stapo-20260101-120000 --open
"""


def run(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    if any(arg in ("-h", "--help") for arg in argv):
        print(_HELP, end="")
        return 0
    show = "--open" in argv
    words = positional([a for a in argv if a != "--open"], 1, "report", ("--open", "--help"))
    if not words:
        raise ConfigError("'stapo report' needs a run directory, as 'stapo train' writes it.")

    from stapo.report import write_report
    from stapo.run import RunDirectory

    path = write_report(RunDirectory.open(Path(words[0])))
    write_line(str(path))
    if show and not webbrowser.open(path.resolve().as_uri()):
        print("no web browser was found here; open the file yourself")
    return 0
