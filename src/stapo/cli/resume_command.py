"""`stapo resume RUN [--iterations N] [--quiet]`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stapo.cli.words import positional
from stapo.errors import ConfigError

_HELP = """usage: stapo resume RUN [--iterations N] [--quiet]

Resume a run that was stopped, killed or has failed, from its newest undamaged save and with its own settings; or
make a run longer. The numbers are those of an undisturbed run. 'stapo train' with the command of the run does the same.

arguments:
  RUN             run directory, as 'stapo train' writes it
  --iterations N  iterations that the run is to have in all; default: as many as it was started with. A schedule that
                  decays over the run (optim.schedule) is stretched: the learning rate jumps to where it would stand
                  in a run of N iterations.
  --quiet         one line per iteration instead of progress bars

examples:
  stapo resume runs/tiny-stapo-20260101-120000
  stapo resume runs/tiny-stapo-20260101-120000 --iterations 90
"""
_OPTIONS = ("--iterations", "--quiet", "--help")


def run(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    if any(arg in ("-h", "--help") for arg in argv):
        print(_HELP, end="")
        return 0
    from stapo.cli.train_command import train_into
    from stapo.cli.words import take_flag
    from stapo.config.run_config import read_run_config
    from stapo.run import RunDirectory

    iterations, args = take_flag(list(argv), "--iterations", needs="a number")
    quiet = "--quiet" in args
    words = positional([a for a in args if a != "--quiet"], 1, "resume", _OPTIONS)
    if not words:
        raise ConfigError("'stapo resume' needs a run directory, as 'stapo train' writes it.")
    folder = Path(words[0])
    config = read_run_config(RunDirectory.open(folder))
    if iterations is not None:
        if not iterations.isdecimal() or len(iterations) > 9:
            raise ConfigError(f"--iterations is '{iterations}', expected a whole number of iterations in all.")
        config = replace(config, optim=replace(config.optim, iterations=int(iterations)))
    return train_into(config, folder, ["stapo", "resume", *argv], quiet)
