"""What the tests of trackers share: short runs, trackers of other packages, what the libraries have stored."""

from __future__ import annotations

import json
import struct
import textwrap
from pathlib import Path

import yaml

from stapo.cli.main import main
from stapo.trackers.process import TrackerProcesses
from toy_world import toy_settings

LIBRARIES = ("tensorboard", "wandb", "trackio", "mlflow")


def settings_of(model, **changes):
    """Settings of a run of four iterations in the toy world."""
    given = {"optim__iterations": 4, "eval__every": 2, "eval__quick_episodes": 4, "algorithm__outlier": {"lam": 0.1}}
    return toy_settings(model, **{**given, **changes})


def train(folder, model, **changes):
    """Train with the command line into `folder`; returns it."""
    source = folder.parent / f"{folder.name}.yaml"
    source.write_text(yaml.safe_dump(settings_of(model, **changes)))
    assert main(["train", str(source), "--quiet", "--out", str(folder)]) == 0
    return folder


def rows(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def install(site: Path, package: str, code: str, **trackers: str) -> None:
    """A package with trackers, as if installed in `site`."""
    (site / f"{package}.py").write_text(textwrap.dedent(code))
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    points = "".join(f"{name} = {package}:{attribute}\n" for name, attribute in trackers.items())
    (info / "entry_points.txt").write_text(f"[stapo.trackers]\n{points}")


def send(folder, *names, seconds=None):
    """Send what is there; returns what was said, and whether a tracker failed."""
    trackers = TrackerProcesses(folder, names, once=True)
    trackers.start()
    said = list(trackers.finish(seconds))
    return said, trackers.failed


def stored(library: str, place: Path, folder: Path):
    """What a library has of the run: {name: {step: [value, ...]}}; histograms as counts."""
    found: dict[str, dict[int, list]] = {}
    for name, step, value in {"tensorboard": _events, "wandb": _wandb, "trackio": _trackio, "mlflow": _mlflow}[library](
        place, folder
    ):
        found.setdefault(name, {}).setdefault(step, []).append(value)
    return found


def _events(place, folder):
    from tensorboard.backend.event_processing.event_accumulator import HISTOGRAMS, SCALARS, EventAccumulator

    reader = EventAccumulator(str(folder / "trackers/tensorboard"), size_guidance={SCALARS: 0, HISTOGRAMS: 0})
    reader.Reload()
    for name in reader.Tags()["scalars"]:
        yield from ((name, event.step, event.value) for event in reader.Scalars(name))
    for name in reader.Tags()["histograms"]:
        for event in reader.Histograms(name):
            yield name, event.step, [int(n) for n in event.histogram_value.bucket[1:]]


def _wandb(place, folder):
    from wandb.proto import wandb_internal_pb2 as pb

    # Several offline parts of a run: the server takes no step again that it has.
    for path in sorted((place / "wandb").glob("*/*.wandb")):
        for data in _records(path.read_bytes()):
            record = pb.Record()
            record.ParseFromString(data)
            items = {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item}
            for name, value in items.items():
                axis = "sft/step" if name.startswith("sft/") else "iteration"
                if not name.startswith("_") and not name.endswith(("/_type", "/bins")) and name != axis:
                    yield name.removesuffix("/values"), items[axis], value


def _records(data: bytes):
    """Records of a LevelDB log, which a .wandb file is behind its first seven bytes."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        if kind == 0:
            return
        whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):
            yield whole
            whole = b""


def _trackio(place, folder):
    from trackio.sqlite_storage import SQLiteStorage

    for row in SQLiteStorage.get_logs("stapo", json.loads((folder / "trackers/trackio.json").read_text())["id"]):
        for name, value in row.items():
            if name not in ("step", "timestamp"):
                yield name, row["step"], value["values"] if isinstance(value, dict) else value


def _mlflow(place, folder):
    from mlflow import MlflowClient

    client, run = MlflowClient(), json.loads((folder / "trackers/mlflow.json").read_text())["id"]
    for name in client.get_run(run).data.metrics:
        yield from ((name, metric.step, metric.value) for metric in client.get_metric_history(run, name))
    for part in ("rollout/entropy_histogram", "rollout/normalized_entropy_histogram"):
        for file in client.list_artifacts(run, part):
            data = json.loads(Path(client.download_artifacts(run, file.path)).read_text())
            yield part, int(Path(file.path).stem), data["counts"]


def twice(found) -> list:
    """Names and steps that are stored more than once."""
    return [(name, step) for name, steps in found.items() for step, values in steps.items() if len(values) > 1]
