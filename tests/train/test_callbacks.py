"""What callbacks are told, and that no callback changes or ends a run unless it says so."""

from __future__ import annotations

import dataclasses

import pytest

from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data
from stapo.errors import ConfigError
from stapo.run import RunDirectory
from stapo.training.callbacks import Callback, Callbacks, StopTraining
from stapo.training.interrupt import RunInterrupted
from stapo.training.pipeline import train_run
from toy_world import toy_settings


def go(model, out, *callbacks, **changes):
    config = from_data(RunConfig, toy_settings(model, eval__greedy=False, **changes))
    return train_run(config, out, ["test"], Callbacks(callbacks)).run


def rows(run, name="metrics"):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.rows(name)]


@pytest.fixture(scope="module")
def undisturbed(toy_model, tmp_path_factory):
    return go(toy_model, tmp_path_factory.mktemp("undisturbed") / "run")


class Noting(Callback):
    """Notes every event, and spoils whatever of it can be changed."""

    def __init__(self):
        self.events = []

    def note(self, name, event):
        self.events.append((name, event))
        for field in dataclasses.fields(event):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(event, field.name, None)

    def on_start(self, event):
        self.note("start", event)
        event.config.env.options["fatal"] = "e"

    def on_rollout(self, event):
        self.note("rollout", event)

    def on_batch(self, event):
        self.note("batch", event)
        with pytest.raises(ValueError):
            event.advantage_b[0] = 9.0

    def on_update(self, event):
        self.note("update", event)
        self.success = event.metrics["success"]
        event.metrics.clear()

    def on_evaluation(self, event):
        self.note("evaluation", event)
        event.metrics.clear()

    def on_save(self, event):
        self.note("save", event)

    def on_end(self, event):
        self.note("end", event)


def test_events_come_in_order_and_hold_what_was_logged(toy_model, tmp_path, undisturbed):
    noting = Noting()
    run = go(toy_model, tmp_path / "run", noting)
    names = [name for name, _ in noting.events]
    iteration = ["rollout", "batch", "update", "save"]
    assert names == ["start", "save", "evaluation", "save", *iteration, *iteration, "evaluation", "save", "end"]
    events = dict(noting.events)
    assert (events["start"].path, events["start"].iteration, events["start"].save) == (run.path, 0, "")
    assert events["start"].config.seed == 0
    metrics = run.rows("metrics")[-1]
    assert noting.success == metrics["success"]
    episodes = events["rollout"].episodes
    assert len(episodes) == 8
    assert sum(e.won for e in episodes) / 8 == metrics["success"]
    assert {e.group for e in episodes} == {0, 1}
    assert all(len(e.actions) == len(e.responses) == 3 for e in episodes)
    batch = events["batch"]
    assert len(batch.entropy_b) == len(batch.flagged_b) == len(batch.scored_b) == 24
    assert batch.entropy_b.mean() == pytest.approx(metrics["entropy"]["mean"])
    assert batch.flagged_b.dtype == bool
    assert events["save"].iteration == 2
    assert (run.path / "saves" / events["save"].path.name) == events["save"].path
    assert (events["end"].status, events["end"].reason) == ("done", "")
    # Nothing that a callback does to its events reaches the run.
    assert rows(run) == rows(undisturbed)
    assert rows(run, "evals") == rows(undisturbed, "evals")


class Broken(Callback):
    def __init__(self, error):
        self.calls = 0
        self.error = error

    def on_rollout(self, event):
        self.calls += 1
        raise self.error


@pytest.mark.parametrize("error", [ValueError("no\nluck"), SystemExit(3)], ids=lambda e: type(e).__name__)
def test_a_callback_that_raises_is_named_once_and_dropped(toy_model, tmp_path, undisturbed, error):
    broken = Broken(error)
    with pytest.warns(RuntimeWarning, match=f"callback Broken raised {type(error).__name__} in on_rollout") as said:
        run = go(toy_model, tmp_path / "run", broken)
    assert len([w for w in said if "Broken" in str(w.message)]) == 1
    assert broken.calls == 1
    assert run.info()["status"] == "done"
    assert rows(run) == rows(undisturbed)


def test_who_hears_notices_is_told_of_a_broken_callback(toy_model, tmp_path):
    said = []

    class Hearing(Callback):
        def on_notice(self, text):
            said.append(text)

    go(toy_model, tmp_path / "run", Broken(ValueError("no luck")), Hearing(), optim__iterations=1)
    (warning,) = [text for text in said if "Broken" in text]
    assert "no luck" in warning


def test_a_callback_may_stop_the_run_with_everything_saved(toy_model, tmp_path, undisturbed):
    class Enough(Callback):
        ended = None

        def on_update(self, event):
            raise StopTraining("it is enough")

        def on_end(self, event):
            self.ended = event

    enough = Enough()
    with pytest.raises(RunInterrupted) as stop:
        go(toy_model, tmp_path / "run", enough)
    assert stop.value.signum is None
    run = RunDirectory.open(tmp_path / "run")
    assert len(run.rows("metrics")) == 1
    assert run.info()["status"] == enough.ended.status == "stopped"
    assert "Enough stopped it: it is enough" in enough.ended.reason
    resumed = Noting()
    run = go(toy_model, tmp_path / "run", resumed)
    start = resumed.events[0][1]
    assert (start.iteration, start.save != "") == (1, True)
    assert rows(run) == rows(undisturbed)


@pytest.mark.parametrize("method", ["on_start", "on_save"])
def test_a_stop_before_the_first_iteration_trains_nothing(toy_model, tmp_path, method):
    def stop(self, event):
        raise StopTraining

    early = type("Early", (Callback,), {method: stop})()
    with pytest.raises(RunInterrupted):
        go(toy_model, tmp_path / "run", early)
    run = RunDirectory.open(tmp_path / "run")
    assert (run.info()["status"], run.rows("metrics")) == ("stopped", [])
    assert "Early stopped it" in run.info()["reason"]
    assert go(toy_model, tmp_path / "run").info()["status"] == "done"


@pytest.mark.parametrize("given, hint", [(Noting, "Noting()"), ("bar", "'bar'"), (None, "None")])
def test_what_is_not_a_callback_is_named(given, hint):
    with pytest.raises(ConfigError, match="instances of") as said:
        Callbacks([given])
    assert hint in str(said.value)
