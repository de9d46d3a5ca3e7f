"""The trackers that come with this package; each needs its extra (`pip install '.[wandb]'`).

Only what stands in the run's rows is sent: no console output, no code, no git state, no measurements of the machine.
What a library reads from the environment (project, mode, address, keys) stays the user's to set.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import pairwise
from typing import Any

from stapo.extras import need
from stapo.trackers import Histogram, TrackedRun
from stapo.trackers.names import table

_PROJECT = "stapo"
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
"""Reports that the libraries would send about their own use."""


def _library(module: str, extra: str) -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    return need(module, extra, extra, f"the tracker '{extra}'")


class TensorBoard:
    """Event files in RUN/trackers/tensorboard. After a resume, the steps that come again replace those before."""

    rewinds = True

    def __init__(self) -> None:
        self._events = _library("tensorboard.compat.proto.event_pb2", "tensorboard")
        self._summaries = _library("tensorboard.compat.proto.summary_pb2", "tensorboard")
        self._writing = _library("tensorboard.summary.writer.record_writer", "tensorboard")

    def open(self, run: TrackedRun, resume: str | None) -> str:
        """Begin another event file; readers drop the steps of those before from the first step of this one on."""
        folder = run.folder / "tensorboard"
        folder.mkdir(exist_ok=True)
        # Readers take the files in the order of their names, which begin with a time: no clock may set them back.
        stamps = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*.*")]
        stamp = max([int(time.time()), *(int(before) + 1 for before in stamps if before.isdecimal())])
        self._file = (folder / f"events.out.tfevents.{stamp:010d}.stapo").open("xb")
        self._writer = self._writing.RecordWriter(self._file)
        self._add(0, file_version="brain.Event:2")
        # The first of all counts as no restart, so each file has one.
        log = self._events.SessionLog
        self._add(run.first_step, session_log=log(status=log.START))
        return "tensorboard"

    def log(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]) -> None:
        """Write one event with all numbers, and flush it."""
        value = self._summaries.Summary.Value
        values = [value(tag=name, simple_value=number) for name, number in scalars.items()]
        values += [value(tag=name, histo=self._histogram(h)) for name, h in histograms.items()]
        self._add(step, summary=self._summaries.Summary(value=values))
        self._file.flush()

    def close(self, status: str) -> None:
        """Close the file."""
        self._file.close()

    def _add(self, step: int, **content: Any) -> None:
        self._writer.write(self._events.Event(wall_time=time.time(), step=step, **content).SerializeToString())

    def _histogram(self, histogram: Histogram) -> Any:
        edges = histogram.edges
        middles = [(a + b) / 2 for a, b in pairwise(edges)]
        weighted = list(zip(middles, histogram.counts, strict=True))
        return self._summaries.HistogramProto(
            min=histogram.low,
            max=histogram.high,
            num=sum(histogram.counts),
            sum=sum(m * c for m, c in weighted),
            sum_squares=sum(m * m * c for m, c in weighted),
            bucket_limit=[histogram.low, *edges[1:]],
            bucket=[0, *histogram.counts],
        )


class WandB:
    """Weights & Biases, online or offline (WANDB_MODE); local files are in WANDB_DIR, or else in ./wandb."""

    rewinds = False

    def __init__(self) -> None:
        self._wandb = _library("wandb", "wandb")

    def open(self, run: TrackedRun, resume: str | None) -> str:
        """Begin or resume the run; the server ignores steps that it has."""
        settings = self._wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            save_code=False,
            silent=True,
            symlink=False,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            name=os.environ.get("WANDB_NAME") or run.name,
            id=resume or secrets.token_hex(4),
            resume="allow" if resume else None,
            config=dict(run.config),
            settings=settings,
        )
        # The library's own steps never go back, so those of iterations stand behind those of SFT.
        self._sft_steps = int((run.config.get("sft") or {}).get("steps") or 0)
        groups = {name.partition("/")[0] for name in (*table("metrics").values(), "val/")}
        for group, axis in {**dict.fromkeys(sorted(groups), "iteration"), "sft": "sft/step"}.items():
            self._run.define_metric(f"{group}/*", step_metric=axis)
        return str(self._run.id)

    def log(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]) -> None:
        """Log at that step; the library sends it when the next step begins."""
        histogram = self._wandb.Histogram
        drawn = {name: histogram(np_histogram=(list(h.counts), h.edges)) for name, h in histograms.items()}
        is_sft = any(name.startswith("sft/") for name in scalars)
        place = step if is_sft else self._sft_steps + step
        self._run.log({**scalars, **drawn, "sft/step" if is_sft else "iteration": step}, step=place)

    def close(self, status: str) -> None:
        """Upload what is left."""
        self._run.finish(exit_code=int(status == "failed"))


class Trackio:
    """trackio: a local database (TRACKIO_DIR), or the Space or server that the environment names."""

    rewinds = False

    def __init__(self) -> None:
        self._trackio = _library("trackio", "trackio")
        self._had: set[tuple[int, str]] = set()

    def open(self, run: TrackedRun, resume: str | None) -> str:
        """Begin or resume the run; trackio knows runs by their names, so the name is the id."""
        project = os.environ.get("TRACKIO_PROJECT") or _PROJECT
        if resume is not None and not any(map(os.environ.get, ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"))):
            storage = import_module("trackio.sqlite_storage").SQLiteStorage
            self._had = {(row["step"], key) for row in storage.get_logs(project, resume) for key in row}
            resume = resume if self._had else None
        name = resume or f"{run.name.replace(' ', '_')}-{secrets.token_hex(4)}"
        self._run = self._trackio.init(
            project=project,
            name=name,
            config=dict(run.config),
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        return name

    def log(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]) -> None:
        """Log what is not stored for that step already."""
        drawn = {
            name: self._trackio.Histogram(np_histogram=(list(h.counts), h.edges)) for name, h in histograms.items()
        }
        new = {name: value for name, value in {**scalars, **drawn}.items() if (step, name) not in self._had}
        if new:
            self._run.log(new, step=step)

    def close(self, status: str) -> None:
        """Send what is left."""
        self._run.finish()


class MLflow:
    """MLflow: the server, database or folder that MLFLOW_TRACKING_URI names. Histograms are JSON artifacts."""

    rewinds = False
    _statuses = {"done": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}  # noqa: RUF012

    def __init__(self) -> None:
        self._mlflow = _library("mlflow", "mlflow")
        self._entities = _library("mlflow.entities", "mlflow")
        self._had: set[tuple[int, str]] = set()

    def open(self, run: TrackedRun, resume: str | None) -> str:
        """Begin or resume the run; one that the store does not have is begun anew."""
        self._client = client = self._mlflow.MlflowClient()
        if resume is not None and (names := self._names_of(resume)) is not None:
            self._had = {(m.step, name) for name in names for m in client.get_metric_history(resume, name)}
            client.update_run(resume, status="RUNNING")
            self._id = resume
            return resume
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _PROJECT
        found = client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else client.create_experiment(experiment)
        self._id = client.create_run(number, run_name=run.name).info.run_id
        settings = [self._entities.Param(key, str(value)[:500]) for key, value in _flat(run.config)]
        for i in range(0, len(settings), 100):  # the most that one call may have
            client.log_batch(self._id, params=settings[i : i + 100])
        return str(self._id)

    def log(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]) -> None:
        """Log what is not stored for that step already."""
        now, metric = int(time.time() * 1000), self._entities.Metric
        new = [metric(name, value, now, step) for name, value in scalars.items() if (step, name) not in self._had]
        for i in range(0, len(new), 1000):
            self._client.log_batch(self._id, metrics=new[i : i + 1000])
        for name, histogram in histograms.items():
            self._client.log_dict(self._id, histogram._asdict(), f"{name}/{step:06d}.json")

    def close(self, status: str) -> None:
        """Say how the run ended."""
        if status in self._statuses:
            self._client.set_terminated(self._id, self._statuses[status])

    def _names_of(self, run_id: str) -> list[str] | None:
        """Names of the metrics that the store has of a run; None where it does not know the run."""
        try:
            return list(self._client.get_run(run_id).data.metrics)
        except self._mlflow.exceptions.MlflowException as err:
            if err.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None


def _flat(settings: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{start}{key}.")
        else:
            yield f"{start}{key}", value
