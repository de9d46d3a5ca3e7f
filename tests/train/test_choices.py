"""`model.dtype: auto` and `log.threads: auto` in runs: decided where a run begins, kept with it, checked elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import yaml

import stapo
from slow import slow_except
from stapo.cli import dry_run
from stapo.cli.main import main
from stapo.comparison.cells import Work, in_one_dtype, write_settings
from stapo.comparison.jobs import Job
from stapo.config.presets import load_config
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.errors import ConfigError, ModelError
from stapo.policy import hardware
from stapo.policy.hardware import Speed
from stapo.training import preflight
from stapo.training.callbacks import Callback, StopTraining
from stapo.training.resume import unfinished_twin
from toy_world import toy_settings

NATIVE = {"float32": Speed(650.0, 160.0), "bfloat16": Speed(1300.0, 240.0)}
EMULATED = {"float32": Speed(287.0, 90.0), "bfloat16": Speed(60.0, None)}


class Machine:
    """A machine with its speeds and cores, on which models of any size are timed."""

    def __init__(self, monkeypatch):
        self.speeds, self.cores, self.timed = NATIVE, 1, []
        for place in (hardware, dry_run):
            monkeypatch.setattr(place, "UNTIMED", 0)
        monkeypatch.setattr(hardware, "ONE_THREAD", 0)
        monkeypatch.setattr(hardware, "usable_cores", lambda: self.cores)
        monkeypatch.setattr(hardware, "time_layers", self.time)

    def time(self, config, device, threads):
        self.timed.append(threads)
        if isinstance(self.speeds, BaseException):
            raise self.speeds
        return self.speeds


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


class Ear(Callback):
    """Writes down what is said, when training begins, and the threads of torch; stops after an iteration if asked."""

    def __init__(self, stop=False):
        self.said, self.threads, self.stop = [], 0, stop

    def on_notice(self, message):
        self.said.append(message)

    def on_start(self, event):
        self.said.append("BEGIN")

    def on_update(self, event):
        self.threads = torch.get_num_threads()
        if self.stop:
            raise StopTraining("enough")

    def find(self, part):
        return [line for line in self.said if part in line]


def toy(model, **changes):
    data = toy_settings(model, **changes)
    data["log"] = {k: v for k, v in data.get("log", {}).items() if k != "threads"}
    return from_data(RunConfig, data)


def test_the_run_takes_the_faster_dtype_says_so_and_keeps_it(machine, toy_model, tmp_path):
    ear = Ear()
    run = stapo.train(toy(toy_model), tmp_path / "run", callbacks=[ear])
    assert (run.config.model.dtype, run.config.log.threads) == ("bfloat16", 1)
    (said,) = ear.find("chosen for this machine")
    for figure in ("650", "160", "1,300", "240", "tokens/s"):
        assert figure in said
    assert said in ear.said[: ear.said.index("BEGIN")]
    assert "1,300" in run.directory.info()["chosen"]["model.dtype"]
    assert run.policy().model.dtype == torch.bfloat16
    # An evaluation of the run loads it so, too, whatever this machine would choose.
    machine.speeds = EMULATED
    assert 0 <= stapo.evaluate(run, episodes=2, seeds=[0]).success <= 1


def test_memory_is_checked_for_the_dtype_that_was_chosen(machine, toy_model, tmp_path, monkeypatch):
    checked = []
    monkeypatch.setattr(preflight, "require_memory", lambda path, model, **needs: checked.append(model.dtype))
    for speeds in (NATIVE, EMULATED):
        machine.speeds = speeds
        stapo.train(toy(toy_model), tmp_path / str(len(checked)), callbacks=[Ear(stop=True)])
    assert checked == ["bfloat16", "float32"]


@pytest.mark.parametrize("again", slow_except(["train", "resume"], "resume"))
def test_elsewhere_it_goes_on_in_its_dtype_and_says_that_it_is_slow(machine, toy_model, tmp_path, again, capsys):
    machine.cores = 3
    config, first = toy(toy_model), Ear(stop=True)
    run = stapo.train(config, tmp_path / "run", callbacks=[first])
    assert (run.status, run.config.log.threads, first.threads) == ("stopped", 3, 3)
    machine.speeds, machine.cores, chosen = EMULATED, 2, run.directory.info()["chosen"]
    if again == "train":
        second = Ear()
        run = stapo.train(config, tmp_path / "run", callbacks=[second])
        said = "\n".join(second.said)
        assert second.threads == 2
    else:
        assert main(["resume", str(tmp_path / "run"), "--quiet"]) == 0
        said = " ".join("".join(capsys.readouterr()).split())
    assert run.status == "done"
    assert "model.dtype bfloat16 is slow on this machine" in said
    assert "287" in said
    assert "60 tokens/s" in said
    assert "log.threads 3 was chosen where the run began" in said
    assert (run.config.model.dtype, run.config.log.threads) == ("bfloat16", 3)
    assert run.directory.info()["chosen"] == chosen
    assert run.policy().model.dtype == torch.bfloat16


def test_a_chosen_float32_that_is_slow_elsewhere_is_said_too(machine, toy_model, tmp_path):
    machine.speeds = EMULATED
    run = stapo.train(toy(toy_model), tmp_path / "run", callbacks=[Ear(stop=True)])
    assert run.config.model.dtype == "float32"
    machine.speeds, ear = {"float32": Speed(300.0, 90.0), "bfloat16": Speed(2000.0, 600.0)}, Ear()
    stapo.train(toy(toy_model), tmp_path / "run", callbacks=[ear])
    assert ear.find("model.dtype float32 is slow on this machine")


@pytest.mark.parametrize("speeds, warned", [(EMULATED, 1), (NATIVE, 0), ({}, 0)])
def test_a_configured_bfloat16_that_is_slow_here_is_warned_of_before_training(
    machine, toy_model, tmp_path, speeds, warned
):
    machine.speeds, ear = speeds, Ear(stop=True)
    run = stapo.train(toy(toy_model, model__dtype="bfloat16"), tmp_path / "run", callbacks=[ear])
    found = [line for line in ear.said[: ear.said.index("BEGIN")] if "is slow on this machine" in line]
    assert len(found) == warned
    assert all("287" in line and "60" in line for line in found)
    assert run.config.model.dtype == "bfloat16"
    assert "model.dtype" not in run.directory.info().get("chosen", {})


def test_a_configured_float32_is_never_timed(machine, toy_model, tmp_path):
    ear = Ear(stop=True)
    run = stapo.train(toy(toy_model, model__dtype="float32"), tmp_path / "run", callbacks=[ear])
    assert (run.config.model.dtype, machine.timed) == ("float32", [])


def test_another_dtype_is_another_run(machine, toy_model, tmp_path):
    stapo.train(toy(toy_model), tmp_path / "run", callbacks=[Ear(stop=True)])
    with pytest.raises(ConfigError, match=r"model\.dtype: 'bfloat16' in the run, 'float32' now"):
        stapo.train(toy(toy_model, model__dtype="float32"), tmp_path / "run")
    machine.timed.clear()
    assert unfinished_twin(tmp_path, "run", toy(toy_model)) == tmp_path / "run"
    assert unfinished_twin(tmp_path, "run", toy(toy_model, model__dtype="float32")) is None
    assert machine.timed == []


def test_ctrl_c_while_it_is_timed_leaves_nothing(machine, toy_model, tmp_path):
    machine.speeds = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        stapo.train(toy(toy_model), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_small_model_is_as_before_and_nothing_is_said(monkeypatch, toy_model, tmp_path):
    monkeypatch.setattr(hardware, "time_layers", lambda *args: pytest.fail("timed"))
    auto, fixed = Ear(stop=True), Ear(stop=True)
    one = stapo.train(toy(toy_model), tmp_path / "auto", callbacks=[auto])
    changed = replace(toy(toy_model, model__dtype="float32"), log=replace(toy(toy_model).log, threads=1))
    other = stapo.train(changed, tmp_path / "fixed", callbacks=[fixed])
    assert one.config == other.config
    assert (one.config.model.dtype, one.config.log.threads, auto.threads) == ("float32", 1, 1)
    assert "chosen" not in one.directory.info()
    assert not auto.find("chosen")
    assert (one.path / "metrics.jsonl").read_bytes()[:400].split(b'"seconds"')[0] == (
        other.path / "metrics.jsonl"
    ).read_bytes()[:400].split(b'"seconds"')[0]


@pytest.mark.parametrize("name", ["tiny", "memory", "webshop-tiny", "search-tiny", "sokoban-tiny"])
def test_presets_from_scratch_resolve_to_float32_and_one_thread(name, monkeypatch):
    from stapo.training.choices import resolve_auto

    monkeypatch.setattr(hardware, "time_layers", lambda *args: pytest.fail("timed"))
    config, said = load_config(name), []
    found = resolve_auto(config, None, said.append)
    assert (found.config.model.dtype, found.config.log.threads, found.threads) == ("float32", 1, 1)
    assert said == []


def test_a_frozen_model_is_evaluated_in_the_faster_one(machine, toy_model):
    ear = Ear()
    stapo.evaluate(str(toy_model), config=toy(toy_model), episodes=2, seeds=[0], callbacks=[ear])
    assert len(ear.find("bfloat16 (float32: 650")) == 1


def test_a_dry_run_shows_the_choice_and_leaves_the_settings_open(machine, toy_model, tmp_path, capsys):
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump(to_data(toy(toy_model))))
    assert main(["train", str(mine), "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert yaml.safe_load(out)["model"]["dtype"] == "auto"
    err = " ".join(err.split())
    assert "model.dtype bfloat16 (float32: 650" in err
    assert f"{toy_model.name}, bfloat16" in err.replace("│", "")
    stapo.train(toy(toy_model), tmp_path / "run", callbacks=[Ear(stop=True)])
    machine.speeds = EMULATED
    assert main(["train", str(mine), "--dry-run", "--out", str(tmp_path / "run")]) == 0
    err = " ".join(capsys.readouterr()[1].split())
    assert "model.dtype bfloat16 is slow on this machine" in err
    assert main(["train", str(mine), "--dry-run", "--gpu", "h100"]) == 0
    assert "bfloat16 on h100" in " ".join(capsys.readouterr()[1].split())


def test_all_runs_of_a_comparison_have_one_dtype(machine, toy_model, tmp_path):
    def works():
        words = [("stapo", "train", str(tmp_path / "settings" / f"{n}.yaml")) for n in range(2)]
        jobs = [Job(str(n), (), tmp_path / "log", tmp_path / str(n)) for n in range(2)]
        return [Work(j, None, 0, 1, to_data(toy(toy_model)), w) for j, w in zip(jobs, words, strict=True)]

    found = in_one_dtype(works())
    assert [work.settings["model"]["dtype"] for work in found] == ["bfloat16", "bfloat16"]
    assert len(machine.timed) == 1
    write_settings(found, tmp_path)
    machine.speeds = EMULATED
    assert in_one_dtype(works()) == found


@pytest.mark.parametrize("value", ["many", -1, 5000, 1.5, True])
def test_threads_are_a_number_or_auto(value):
    with pytest.raises(ConfigError, match=r"log\.threads"):
        from_data(RunConfig, {"log": {"threads": value}})
    assert from_data(RunConfig, {"log": {"threads": 0}}).log.threads == 0


def test_threads_on_the_command_line(capsys):
    for given, found in (("auto", "auto"), ("2", 2)):
        assert main(["train", "tiny", "--log.threads", given, "--dry-run", "--gpu", "cpu"]) == 0
        assert yaml.safe_load(capsys.readouterr()[0])["log"]["threads"] == found


def test_a_model_that_is_not_there_is_one_error(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        stapo.train(toy(tmp_path / "nothing"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert json.dumps(to_data(toy(tmp_path / "nothing")))
