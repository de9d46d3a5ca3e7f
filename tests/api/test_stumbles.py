"""Where people who build on this package stumbled: each of these once cost somebody an hour."""

from __future__ import annotations

import pytest
import yaml

import stapo
from stapo.cli.main import main
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data
from stapo.training.preflight import tasks_of_run
from stapo.training.tasks import training_stream
from toy_world import ToyEnv, register_toy, toy_settings


class Sayer:
    def action(self):
        return "even"

    def played(self, action, effect):
        pass


class TaughtEnv(ToyEnv):
    """The toy world with a demonstrator."""

    def demonstrator(self, rng):
        return Sayer()


stapo.register_environment("taught", TaughtEnv)
SMALL = [
    "--model.hidden-size", "16", "--model.layers", "1", "--model.heads", "2", "--model.vocab-size", "300",
    "--sft.steps", "2", "--sft.episodes", "6", "--rollout.groups", "2", "--rollout.group-size", "2",
    "--optim.iterations", "1", "--eval.episodes", "2", "--eval.every", "0", "--eval.no-greedy",
]  # fmt: skip


def test_another_environment_is_trained_in_with_the_default_preset(tmp_path, capsys):
    assert main(["train", "--env.name", "taught", "--dry-run", "--no-probe", *SMALL]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["env"] == {"name": "taught", "split": "train", "options": {}}
    assert (
        main(["train", "--env.name", "taught", "--env.reward", "2", "--quiet", "--out", f"{tmp_path}/run", *SMALL]) == 0
    )
    run = stapo.Run(tmp_path / "run")
    assert (run.status, run.config.env.options) == ("done", {"reward": 2})


def test_a_file_that_extends_a_preset_takes_none_of_its_options_to_another_environment(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: tiny\nenv: {name: taught}\n")
    assert stapo.load_config(tmp_path / "mine.yaml").env.options == {}
    (tmp_path / "same.yaml").write_text("extends: tiny\nenv: {options: {max_steps: 4}}\n")
    assert stapo.load_config(tmp_path / "same.yaml").env.options["scenes"] == "tiny"


@pytest.mark.parametrize(
    "args, said",
    [
        (["--env.name", "toy"], "--model.path MODEL --sft.steps 0"),
        (["--env.name", "taught", "--eval.split", "heldot"], "heldout"),
        (["--env.name", "taught", "--env.empty", "train"], "holds no task"),
        (["--env.name", "taught", "--rollout.tasks", "7"], "rollout.tasks is 7"),
    ],
)
def test_the_dry_run_refuses_what_training_refuses(args, said, tmp_path, capsys):
    register_toy()
    out = ["--out", str(tmp_path / "run")]
    found = []
    for mode in (["--dry-run", "--no-probe"], ["--quiet"]):
        assert main(["train", *args, *SMALL, *mode, *out]) == 2
        found.append(capsys.readouterr().err.splitlines()[-1])
    assert found[0] == found[1]
    assert said in found[0]
    assert not (tmp_path / "run").exists()


def test_an_estimate_for_another_machine_needs_no_files_here(tmp_path, capsys):
    games = ["--env.games", str(tmp_path / "nowhere")]
    assert main(["train", "tiny", *games, "--dry-run", "--gpu", "h100"]) == 0
    assert main(["train", "tiny", *games, "--dry-run"]) == 2
    assert "nowhere" in capsys.readouterr().err.splitlines()[-1]


class Early(stapo.Callback):
    def on_start(self, event):
        raise stapo.StopTraining("not yet")


def test_a_folder_in_which_nothing_was_trained_takes_other_settings(toy_model, tmp_path):
    def settings(**changes):
        return toy_settings(toy_model, eval__greedy=False, optim__iterations=1, **changes)

    out = tmp_path / "run"
    assert stapo.train(settings(seed=1), out, callbacks=[Early()]).status == "stopped"
    with pytest.raises(stapo.StapoError, match="failed"):
        stapo.train(settings(seed=2, env__options={"reward": "much"}, rollout__max_failures=1), out)
    assert stapo.Run(out).status == "failed"
    run = stapo.train(settings(seed=3), out)
    assert (run.status, run.config.seed) == ("done", 3)
    with pytest.raises(stapo.ConfigError, match="seed"):
        stapo.train(settings(seed=4), out)


def test_the_tasks_that_are_trained_on_are_those_that_are_checked(toy_model):
    config = from_data(RunConfig, toy_settings(toy_model, rollout__tasks=2, optim__iterations=50))
    env = ToyEnv()
    trained = set(training_stream(env.tasks_of("train"), config).tasks)
    assert len(trained) == 2
    checked = tasks_of_run(config, env)
    assert {task for task in checked if task in env.tasks_of("train")} == trained
