"""`stapo track RUN --to NAME [NAME ...]`."""

from __future__ import annotations

from pathlib import Path

from stapo.cli.words import positional, write_line
from stapo.errors import ConfigError

_HELP = """usage: stapo track RUN --to NAME [NAME ...]

Send a run to trackers: what stands in its metrics.jsonl and evals.jsonl and was not sent before. Each row is sent once,
however often this is called, also after a run that had the tracker in log.trackers. Nothing in the rows changes.

arguments:
  RUN              run directory, as 'stapo train' writes it; finished, stopped or running
  --to NAME ...    trackers: {names}

Each needs its extra (pip install '.[wandb]') and takes its settings from the environment: WANDB_MODE,
WANDB_PROJECT, MLFLOW_TRACKING_URI, TRACKIO_DIR and so on.

example:
  stapo track runs/tiny-stapo-20260101-120000 --to tensorboard
"""


def run(argv: list[str]) -> int:
    """Run the command; returns the exit code: 1 where a tracker failed."""
    from stapo.trackers import TRACKERS

    if any(arg in ("-h", "--help") for arg in argv):
        print(_HELP.format(names=", ".join(TRACKERS.names())), end="")
        return 0
    at = argv.index("--to") if "--to" in argv else len(argv)
    end = next((i for i in range(at + 1, len(argv)) if argv[i].startswith("-")), len(argv))
    names = [name for given in argv[at + 1 : end] for name in given.split(",") if name]
    words = positional([*argv[:at], *argv[end:]], 1, "track", ("--to", "--help"))
    if not words or not names:
        raise ConfigError(
            "'stapo track' needs a run directory and trackers, such as: stapo track RUN --to tensorboard. Trackers: "
            f"{', '.join(TRACKERS.names())}."
        )

    from stapo.run import RunDirectory
    from stapo.trackers.process import TrackerProcesses, check_names

    check_names(names)
    trackers = TrackerProcesses(RunDirectory.open(Path(words[0])).path, names, once=True)
    trackers.start()
    for said in trackers.finish():
        write_line(said)
    return int(trackers.failed)
