"""The real libraries, offline: what they have stored is what stands in the run's rows, each step once."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from tracked import LIBRARIES, rows, send, stored, twice

from stapo.run import RunDirectory
from stapo.trackers import TRACKERS
from stapo.trackers.names import eval_scalars, metric_histograms, metric_scalars, sft_scalars
from stapo.trackers.sender import Sender, Sent

HALF = 2  # of four iterations


def installed(library):
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed: pip install '.[{library}]'")
    return library


def expected(run):
    found = {}
    for row in rows(run, "metrics"):
        numbers = {**metric_scalars(row), **{k: list(h.counts) for k, h in metric_histograms(row).items()}}
        for name, value in numbers.items():
            found.setdefault(name, {})[row["iteration"]] = [value]
    for row in rows(run, "evals"):
        for name, value in eval_scalars(row, "heldout").items():
            found.setdefault(name, {})[row["iteration"]] = [value]
    for row in rows(run, "sft"):
        for name, value in sft_scalars(row).items():
            found.setdefault(name, {})[row["step"]] = [value]
    return found


def add_sft(run):
    """Rows of SFT as training writes them: before and behind the last iteration by their steps, with a probe."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["sft"]["steps"] = 40
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    added = [{"step": s, "loss": 1 / s} for s in (2, 20)] + [
        {"step": 20, "train_success": 0.25},
        {"step": 40, "loss": 0.5},
    ]
    (run / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in added))


def shorten(run, iterations):
    """Cut the rows back to a save, as a resumed run does; returns what was there."""
    before = {}
    for name in ("metrics", "evals"):
        path = run / f"{name}.jsonl"
        before[path] = path.read_text()
        path.write_text("".join(json.dumps(r) + "\n" for r in rows(run, name) if r["iteration"] <= iterations))
    return before


def put_back(texts):
    for path, text in texts.items():
        path.write_text(text)


def sender_of(run, library):
    (run / "trackers").mkdir(exist_ok=True)
    return Sender(TRACKERS.get(library)(), RunDirectory(run), Sent.read(run / f"trackers/{library}.json"))


def send_here(run, library):
    sender = sender_of(run, library)
    sender.send_new(follow=False)
    sender.close()
    return sender


@pytest.mark.parametrize("library", LIBRARIES)
def test_stored_once_and_whole_also_behind_a_save(library, run, offline):
    """Half of the rows, then all, then cut back to the half and written again: as by a run that was resumed."""
    add_sft(run)
    whole = shorten(run, HALF)
    said, failed = send(run, installed(library))
    assert not failed, said
    first = json.loads((run / f"trackers/{library}.json").read_text())["id"]
    put_back(whole)
    send_here(run, library)
    shorten(run, HALF)
    sender = sender_of(run, library)
    sender.send_new(follow=True)
    put_back(whole)
    sender.send_new(follow=True)
    sender.close()

    found, wanted = stored(library, offline, run), expected(run)
    assert twice(found) == []
    assert found.keys() == wanted.keys()
    assert wanted["sft/loss"] == {2: [0.5], 20: [0.05], 40: [0.5]}
    for name, steps in wanted.items():
        # Event files hold single precision.
        approximate = {k: [v if isinstance(v, list) else pytest.approx(v, rel=1e-6)] for k, (v,) in steps.items()}
        assert found[name] == approximate, name
    assert json.loads((run / f"trackers/{library}.json").read_text())["id"] == first
    places = (offline, Path(os.environ["TRACKIO_DIR"]))
    kept = [
        p
        for place in places
        for p in place.rglob("*")
        if p.is_file() and b"0123456789abcdef0123456789abcdef" in p.read_bytes()
    ]
    assert kept == [], "the API key was written down"
    assert "0123456789abcdef" not in "".join(said)


def test_tensorboard_replaces_what_comes_again(run, offline):
    send_here(run, installed("tensorboard"))
    whole = shorten(run, HALF)
    sender = sender_of(run, "tensorboard")
    sender.send_new(follow=True)
    put_back(whole)
    metrics = run / "metrics.jsonl"
    kept, again = metrics.read_text().splitlines(keepends=True)[:HALF], rows(run, "metrics")[HALF:]
    metrics.write_text("".join([*kept, *(json.dumps({**row, "success": 7.0}) + "\n" for row in again)]))
    sender.send_new(follow=True)
    sender.close()
    found = stored("tensorboard", offline, run)
    assert twice(found) == []
    success = {step: values[0] for step, values in found["episode/success_rate"].items()}
    assert success == {1: rows(run, "metrics")[0]["success"], 2: rows(run, "metrics")[1]["success"], 3: 7.0, 4: 7.0}


@pytest.mark.parametrize("library", ["trackio", "mlflow"])
def test_a_run_that_the_store_does_not_know_is_sent_whole(library, run, offline):
    installed(library)
    state = run / f"trackers/{library}.json"
    state.parent.mkdir()
    state.write_text(json.dumps({"id": "0" * 32, "sent": {"metrics": [3, ""], "evals/sampled": [4, ""]}}))
    sender = send_here(run, library)
    assert sender.rows == len(rows(run, "metrics")) + len(rows(run, "evals"))
    assert json.loads(state.read_text())["id"] != "0" * 32
