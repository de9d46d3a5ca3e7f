"""8. Other settings, other run: refused with every difference named; what may change is listed, and does."""

from __future__ import annotations

import pytest
from reliable import assert_same, contents, run, settings, train, write_settings

from slow import slow_except
from stapo.run import RunDirectory
from stapo.training.resume import MAY_CHANGE


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return train(folder, settings(optim__iterations=1)), folder


FORBIDDEN = {
    "model": ("--model.hidden-size 32", "model.hidden_size: 16 in the run, 32 now"),
    "seed": ("--seed 4", "seed: 3 in the run, 4 now"),
    "group size": ("--rollout.group-size 4", "rollout.group_size: 3 in the run, 4 now"),
    "algorithm": ("--algorithm gigpo", "algorithm.name: 'stapo' in the run, 'gigpo' now"),
    "setting": ("--algorithm.selective.alpha 0.5", "algorithm.selective.alpha: 0.1 in the run, 0.5 now"),
    "environment": ("--env.max_steps 6", "env.options.max_steps: 5 in the run, 6 now"),
    "new option": ("--env.grammar put", "env.options.grammar: None in the run, 'put' now"),
    "learning rate": ("--optim.learning-rate 1e-3", "optim.learning_rate: 0.005 in the run, 0.001 now"),
    "fewer iterations": ("--optim.iterations 0", "has done 1 iteration, and optim.iterations is 0"),
}


ENOUGH = [FORBIDDEN[name] for name in ("model", "algorithm", "new option", "fewer iterations")]


@pytest.mark.parametrize("flags, said", slow_except(FORBIDDEN.values(), *ENOUGH), ids=FORBIDDEN)
def test_refused_with_the_difference(made, tmp_path, flags, said):
    run_, folder = made
    before = {p: p.read_bytes() for p in run_.path.rglob("*") if p.is_file() and p.name != ".lock"}
    argv = ["train", str(folder / "settings.yaml"), "--quiet", "--out", str(run_.path), *flags.split()]
    assert run(argv, tmp_path / "log") == 2
    text = (tmp_path / "log").read_text()
    assert said in text
    assert "Traceback" not in text
    assert {p: p.read_bytes() for p in run_.path.rglob("*") if p.is_file() and p.name != ".lock"} == before


def test_all_differences_at_once_and_what_may_change(made, tmp_path):
    run_, folder = made
    argv = ["train", str(folder / "settings.yaml"), "--out", str(run_.path), "--seed", "8", "--rollout.groups", "5"]
    assert run(argv, tmp_path / "log") == 2
    text = (tmp_path / "log").read_text()
    assert ": rollout.groups: 2 in the run, 5 now; seed: 3 in the run, 8 now; " in text
    for name in MAY_CHANGE:
        assert name in text
    assert f"stapo resume {run_.path}" in text


def test_other_tasks_are_refused(tmp_path):
    """The settings are the same, the games they find are not."""
    run_ = train(tmp_path, settings(optim__iterations=1))

    def fewer_games():
        from stapo.envs.alfworld.env import AlfworldEnv

        tasks_of = AlfworldEnv.tasks_of
        AlfworldEnv.tasks_of = lambda self, split: list(tasks_of(self, split))[:-1]

    assert run(["resume", str(run_.path), "--iterations", "2", "--quiet"], tmp_path / "log", fewer_games) == 1
    assert "was saved by a run on other tasks" in (tmp_path / "log").read_text()


STEADY = settings(optim__schedule="constant", eval__every=0, optim__iterations=2)


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    data = {**STEADY, "optim": {**STEADY["optim"], "iterations": 4}}
    return contents(train(tmp_path_factory.mktemp("longer"), data))


@pytest.mark.parametrize("command", slow_except(["resume", "train"], "resume"))
def test_more_iterations(longer, tmp_path, command):
    """Extended by either command; what a constant rate does first is what it would have done in the longer run."""
    part = train(tmp_path, STEADY)
    source = str(write_settings(tmp_path, STEADY))
    argv = {
        "resume": ["resume", str(part.path), "--iterations", "4", "--quiet"],
        "train": ["train", source, "--optim.iterations", "4", "--quiet", "--out", str(part.path)],
    }[command]
    assert run(argv, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert "optim.iterations: 2 -> 4" in (tmp_path / "log").read_text()
    found = contents(part)
    for key in ("metrics", "checkpoints/final/model.safetensors", "iteration-00004.jsonl", "sft"):
        assert found[key] == longer[key], key
    assert part.checkpoints() == ["start", "iteration-00002", "final"]
    assert [r["iteration"] for r in part.rows("evals") if r["mode"] == "greedy"] == [0, 2, 4]
    assert part.config()["optim"]["iterations"] == 4
    assert part.info()["resumed"][-1]["iteration"] == 2


def test_what_may_change_does(tmp_path):
    data = settings(optim__iterations=1)
    whole = train(tmp_path, data, name="whole")
    part = train(tmp_path, {**data, "log": {**data["log"], "keep_saves": 1}}, name="part", expect=0)
    log = tmp_path / "log"
    argv = ["train", str(write_settings(tmp_path, data)), "--quiet", "--out", str(part.path), "--log.keep-saves", "3"]
    assert run(argv, log) == 0
    assert_same(contents(whole), contents(RunDirectory(part.path)))
    assert "finished already" in log.read_text()
