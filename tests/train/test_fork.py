"""`stapo train --from RUN`: a run that begins where another one stands, under other settings.

1. It has the policy, optimizer, critic and reference of the save, and counts from 1.
2. Differences are listed; what cannot differ is refused before anything is written.
3. It is resumed like any run, and a start that was not written is not taken for a new run.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import stapo
from slow import slow_except
from stapo.cli.main import main
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.errors import ConfigError, RunDirectoryError, SaveError
from stapo.run import RunDirectory
from stapo.training.callbacks import Callback, Callbacks
from stapo.training.fork import KEY, plan_fork
from stapo.training.pipeline import train_run
from toy_world import toy_settings


@pytest.fixture(scope="module")
def origin(tmp_path_factory, toy_model):
    """A finished run of two iterations."""
    path = tmp_path_factory.mktemp("origin") / "run"
    train_run(config_of(toy_model), path, ["test"])
    return path


def config_of(model, **changes):
    return from_data(RunConfig, toy_settings(model, **{"eval__episodes": 2, "eval__greedy": False, **changes}))


class Listening(Callback):
    def __init__(self):
        self.said = []

    def on_notice(self, text):
        self.said.append(text)


def save_of(path, number=0):
    return RunDirectory.open(path).saves.complete()[number]


# -- 1 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", slow_except([0, 2], 2))
def test_an_iteration_of_a_fork_is_the_next_iteration(toy_model, tmp_path, rank):
    """With nothing changed but the length, weights and moments go on: the same gradient gives the same step.

    Samples of a fork have names of their own iterations, so it is its start that is compared.
    """
    lora = {"model__lora": {"rank": rank}} if rank else {}
    source = tmp_path / "source"
    train_run(config_of(toy_model, **lora), source, ["test"])
    config = config_of(toy_model, optim__iterations=1, log__keep_saves=10, **lora)
    fork = train_run(config, tmp_path / "fork", ["test"], fork=source).run
    first, before = sorted(fork.saves.complete())[0], save_of(source)
    names = ["optimizer.safetensors", f"policy/{'adapter_model' if rank else 'model'}.safetensors"]
    names += [f"reference/{f.name}" for f in (before / "reference").glob("*.safetensors")]
    assert any("reference" in name for name in names)
    for name in names:
        one, two = load_file(before / name), load_file(first / name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert [row["iteration"] for row in fork.rows("metrics")] == [1]
    # The moments count on: two iterations of the source, then one.
    steps = {name: [t for key, t in load_file(save / "optimizer.safetensors").items() if key.startswith("step/")]
             for name, save in (("before", before), ("after", save_of(fork.path)))}  # fmt: skip
    assert steps["after"][0] > steps["before"][0] > 0
    assert fork.info()[KEY]["iteration"] == 2


def test_tasks_go_on_unless_they_are_others(origin, toy_model, tmp_path):
    """Two groups an iteration: the source has played four tasks."""
    same = train_run(config_of(toy_model, optim__iterations=1), tmp_path / "same", ["test"], fork=origin).run
    other = train_run(config_of(toy_model, optim__iterations=1, seed=5), tmp_path / "other", ["test"], fork=origin).run
    positions = [plan_fork(run.path, config_of(toy_model)).state.task_position for run in (same, other)]
    assert positions == [4 + 2, 2]


def test_a_reference_that_the_source_did_not_have_is_its_policy(toy_model, tmp_path):
    plain = {"algorithm": {"name": "gigpo", "loss": {"beta": 0.0}}}
    train_run(config_of(toy_model, **plain), tmp_path / "source", ["test"])
    config = config_of(toy_model, optim__iterations=1)
    fork = train_run(config, tmp_path / "fork", ["test"], fork=tmp_path / "source").run
    policy = load_file(save_of(tmp_path / "source") / "policy" / "model.safetensors")
    reference = load_file(save_of(fork.path) / "reference" / "model.safetensors")
    assert all(torch.equal(policy[name], reference[name]) for name in policy)


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_differences_are_listed_and_kept(origin, toy_model, tmp_path):
    listening = Listening()
    config = config_of(toy_model, optim__learning_rate=0.001, optim__iterations=1, rollout__temperature=0.9)
    run = train_run(config, tmp_path / "fork", ["test"], Callbacks([listening]), fork=origin).run
    changes = [
        "optim.iterations: 2 -> 1", "optim.learning_rate: 0.01 -> 0.001", "rollout.temperature: 1.0 -> 0.9",
    ]  # fmt: skip
    assert run.info()[KEY]["changes"] == changes
    (told,) = [text for text in listening.said if text.startswith("forked from")]
    assert all(change in told for change in changes)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"model__lora": {"rank": 2}}, r"model\.lora\.rank: 0 in the run, 2 now"),
        ({"sft__steps": 3}, r"sft\.steps: 0 in the run, 3 now"),
        ({"algorithm": "ppo"}, "algorithm 'ppo' has a critic, and the run in .* has trained none"),
    ],
)
def test_what_cannot_differ_is_refused_before_anything_is_written(origin, toy_model, tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        stapo.train(config_of(toy_model, **changes), tmp_path / "fork", fork=origin)
    assert not (tmp_path / "fork").exists()


def test_what_is_no_run_or_has_no_save(toy_model, tmp_path):
    config = config_of(toy_model)
    with pytest.raises(RunDirectoryError):
        plan_fork(tmp_path / "nothing", config)
    RunDirectory.create(tmp_path / "empty", to_data(config), ["test"])
    with pytest.raises(SaveError, match="has no save to begin from"):
        plan_fork(tmp_path / "empty", config)


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_from_the_command_line_and_on(origin, tmp_path, capsys, monkeypatch):
    """Settings are those of the run, changed by flags; the same command again finds the fork finished."""
    monkeypatch.chdir(tmp_path)
    command = ["train", "--from", str(origin), "--optim.iterations", "1", "--algorithm.loss.beta", "0.05", "--quiet",
               "--out", "fork"]  # fmt: skip
    assert main(command) == 0
    said = "".join(capsys.readouterr())
    assert "algorithm.loss.beta: 0.01 -> 0.05" in said
    config = from_data(RunConfig, RunDirectory.open(Path("fork")).config())
    assert (config.algorithm.loss.beta, config.env.name, config.optim.iterations) == (0.05, "toy", 1)
    assert main(command) == 0
    assert "finished already" in "".join(capsys.readouterr())
    assert main(["resume", "fork", "--iterations", "2"]) == 0
    assert len(RunDirectory.open(Path("fork")).rows("metrics")) == 2
    assert main(["train", "webshop-tiny", "--from", str(origin)]) == 2
    assert "give changes as flags, without 'webshop-tiny'" in capsys.readouterr().err


def test_a_fork_without_its_start_is_not_taken_for_a_new_run(origin, toy_model, tmp_path):
    config = config_of(toy_model)
    run = RunDirectory.create(tmp_path / "fork", to_data(config), ["test"])
    run.write_info({**run.info(), KEY: {"run": str(origin)}})
    with pytest.raises(SaveError, match="Give the command with --from again"):
        train_run(config, run.path, ["test"])
    again = train_run(config, run.path, ["test"], fork=origin).run
    assert again.info()["status"] == "done"
