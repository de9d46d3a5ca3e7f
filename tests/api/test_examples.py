"""The scripts in examples/ run, here on few steps, and do what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from slow import slow_except
from toy_world import register_toy

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FAST = {
    "model": {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32, "vocab_size": 400},
    "sft": {"steps": 3, "episodes": 20, "batch_size": 4},
    "rollout": {"groups": 2, "group_size": 2},
    "optim": {"iterations": 1, "mini_batch": 16},
    "eval": {"episodes": 4, "quick_episodes": 2, "at_start": False},
    "env.options.max_steps": 3,
}


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_run_here():
    assert sorted(p.stem for p in EXAMPLES.glob("*.py")) == [
        "expert_iteration", "own_algorithm", "own_environment", "own_prompt", "rejection_sampling", "sft_from_file",
        "stapo_advantages_elsewhere", "train_from_python",
        "train_with_trl",  # tests_ecosystem runs it
    ]  # fmt: skip
    assert all(len(p.read_text().splitlines()) <= 130 for p in EXAMPLES.glob("*.py"))


# The README trains from Python as the first does, and its example is run.
TRAINING = ["train_from_python", "own_environment", "own_algorithm", "own_prompt", "sft_from_file"]


@pytest.mark.parametrize("name", slow_except(TRAINING, *TRAINING[1:]))
def test_an_example_trains(name, tmp_path, capsys):
    run = example(name).main(str(tmp_path / "run"), **FAST)
    assert run.status == "done"
    assert len(run.metrics) == 1
    assert run.report.is_file()
    assert capsys.readouterr().out
    expected = {
        "train_from_python": (run.config.algorithm.name, "gigpo"),
        "own_environment": (run.config.env.name, "buttons"),
        "own_algorithm": (run.config.algorithm.advantage.episode, "median"),
        "own_prompt": (run.config.agent.prompt, "terse"),
        "sft_from_file": (run.config.sft.data, str(tmp_path / "run-demonstrations.jsonl")),
    }
    found, wanted = expected[name]
    assert found == wanted


@pytest.mark.parametrize("name", slow_except(["rejection_sampling", "expert_iteration"], "expert_iteration"))
def test_an_example_learns_from_what_was_won(name, toy_model, tmp_path, capsys):
    """In the toy world, where a policy with random weights wins about half of its episodes."""
    changes = {
        "env": {"name": "toy", "options": {}},
        "model": {"path": str(toy_model)},
        "sft": {"steps": 0},
        "optim": {"mini_batch": 16},
        "eval": FAST["eval"],
    }
    register_toy()
    run = example(name).main(str(tmp_path / "run"), rounds=2, tasks=4, k=4, steps=2, **changes)
    assert run.status == "done"
    assert run.path.name == "round-2"
    assert Path(run.config.sft.data).is_file()
    assert capsys.readouterr().out.count("success") >= 2


def test_the_own_environment_follows_the_protocol():
    import stapo

    assert len(stapo.check_env(example("own_environment").Buttons())) >= 5


def test_advantages_of_another_trainers_rows():
    rows = example("stapo_advantages_elsewhere").main()
    by_task = {task: [row["advantage"] for row in rows if row["task"] == task] for task in "ab"}
    # The episode that was paid is above the one that was not, in both tasks.
    assert min(by_task["a"][:2]) > max(by_task["a"][2:])
    assert by_task["b"][1] == pytest.approx(-by_task["b"][0])
    assert by_task["b"][1] > 0
    assert sum(row["flagged"] for row in rows) <= 1
