"""`stapo track RUN --to NAME [NAME ...]`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from stapo.cli.command import Command, arg
from stapo.cli.words import write_line
from stapo.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Track(Command):
    """Send a run to trackers: the rows of its metrics.jsonl and evals.jsonl that were not sent before.

    Each row is sent once, however often you call this, also after a run that had the tracker in log.trackers. The rows
    do not change. Each tracker needs its extra (pip install '.[wandb]') and takes its settings from the
    environment: WANDB_MODE, WANDB_PROJECT, MLFLOW_TRACKING_URI, TRACKIO_DIR and so on.

    Attributes:
        run_folder: run folder, as 'stapo train' writes it; finished, stopped or running.
        to: trackers to send to: tensorboard, wandb, trackio, mlflow, or those of other packages.
    """

    EXAMPLES = "stapo track runs/tiny-stapo-20260101-120000 --to tensorboard"

    run_folder: Positional[str] = arg(
        "RUN", needs="a run directory and trackers, such as: stapo track RUN --to tensorboard"
    )
    to: tuple[str, ...] = arg("NAME ...", (), needs="names of trackers", commas=True)

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code: 1 where a tracker failed."""
        from stapo.run import RunDirectory
        from stapo.trackers import TRACKERS
        from stapo.trackers.process import TrackerProcesses, check_names

        if not self.to:
            raise ConfigError(
                "'stapo track' needs trackers, such as: stapo track RUN --to tensorboard. Trackers: "
                f"{', '.join(TRACKERS.names())}."
            )
        check_names(self.to)
        trackers = TrackerProcesses(RunDirectory.open(Path(self.run_folder)).path, self.to, once=True)
        trackers.start()
        for said in trackers.finish():
            write_line(said)
        return int(trackers.failed)


COMMAND = Track
