"""1. Bitwise resume: a run that is cut off after any of its saves and resumed equals one that was not.

Equal are parameters, optimizer, random states, metrics, evaluations and the text of every rollout; for each way through
the trainer and each environment, and in a soak for each algorithm in each environment; and for each kind of weights,
all or adapters, float32 or half; and where the chat template writes the date. The cut is made by putting the folder
back to what it was right after a save.
"""

from __future__ import annotations

import json
import shutil

import pytest
from reliable import WEIGHTS, assert_same, cases, contents, copying, run, settings, train, weight_cases, write_settings

from dated import LLAMA, at
from slow import slow_except
from stapo.policy import ModelConfig, build_policy
from stapo.run import RunDirectory
from stapo.training.preparation import SFTStage
from toy_world import TEXTS

SMALL = {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32, "vocab_size": 300}


@pytest.mark.parametrize("environment, algorithm", slow_except(cases(), ("alfworld", "stapo-running")))
def test_every_save_leads_to_the_same_end(tmp_path, environment, algorithm):
    cut_off_and_gone_on_with(tmp_path, settings(environment, algorithm), every=1 if algorithm == "stapo" else 5)


@pytest.mark.slow  # tests/train/test_reference.py resumes a run with adapters.
@pytest.mark.parametrize("algorithm, kind", weight_cases())
def test_whatever_weights_are_trained(tmp_path, algorithm, kind):
    cut_off_and_gone_on_with(tmp_path, settings("alfworld", algorithm, **WEIGHTS[kind]), every=5)


def cut_off_and_gone_on_with(tmp_path, data, every):
    """Of the saves every one, or from the third on each `every`th."""
    source = write_settings(tmp_path, data)
    (tmp_path / "copies").mkdir()
    log = tmp_path / "log"
    argv = ["train", str(source), "--quiet", "--out", str(tmp_path / "whole")]
    assert run(argv, log, lambda: copying(tmp_path)) == 0, log.read_text()
    expected = contents(RunDirectory(tmp_path / "whole"))
    copies = sorted((tmp_path / "copies").iterdir())
    # SFT, start, evaluations, iterations: all of them for one algorithm, some for the others.
    assert len(copies) >= 9
    for copy in copies if every == 1 else copies[2::every]:
        assert run(["resume", str(copy), "--quiet"], log) == 0, log.read_text()
        assert_same(expected, contents(RunDirectory(copy)))
        shutil.rmtree(copy)


@pytest.mark.slow
def test_a_template_that_writes_the_date(tmp_path):
    """The run is stopped within SFT and within RL, and resumed on other days."""
    policy = build_policy(ModelConfig(device="cpu", **SMALL), TEXTS, 1300, 0)
    policy.tokenizer.chat_template = LLAMA
    policy.save(tmp_path / "model")
    data = settings("alfworld", "grpo", agent__max_prompt_tokens=1200)
    data["model"] = {"path": str(tmp_path / "model"), "device": "cpu"}
    data["sft"] |= {"steps": 20, "episodes": 6}
    data["env"]["options"]["max_steps"] = 2
    data["optim"]["iterations"] = 2
    data["eval"] = {"episodes": 2}
    log, source = tmp_path / "log", write_settings(tmp_path, data)
    (tmp_path / "copies").mkdir()

    def before():
        at("2026-01-31 23:50")()
        copying(tmp_path)

    assert run(["train", str(source), "--quiet", "--out", str(tmp_path / "whole")], log, before) == 0, log.read_text()
    expected = contents(RunDirectory(tmp_path / "whole"))
    copies = sorted((tmp_path / "copies").iterdir())
    stages = [json.loads((c / "saves" / c.name / "state.json").read_text())["stage"] for c in copies]
    for copy in (copies[0], copies[stages.index("rl")]):
        assert run(["resume", str(copy), "--quiet"], log, at("2026-02-03 00:10")) == 0, log.read_text()
        assert_same(expected, contents(RunDirectory(copy)))
    assert stages[0] == "sft"
    # The date does reach the numbers: another run, of another day, is another one.
    argv = ["train", str(source), "--quiet", "--out", str(tmp_path / "later"), "--optim.iterations", "0"]
    assert run(argv, log, at("2026-02-03 00:10")) == 0, log.read_text()
    later = contents(RunDirectory(tmp_path / "later"))
    assert len(later["sft"]) == len(expected["sft"])
    assert later["sft"] != expected["sft"]


def test_the_comparison_sees_a_difference(tmp_path):
    one, two = (
        contents(train(tmp_path, settings(seed=seed, optim__iterations=1), name=f"seed-{seed}")) for seed in (1, 2)
    )
    assert one.keys() == two.keys()
    same = {key for key in one if one[key] == two[key]}
    assert same <= {"failures", "status"}


def test_the_best_weights_of_sft_survive_a_cut(tmp_path):
    """Cut off before the best measurement, between it and the end, and at the end of SFT."""
    sft = {"steps": 6, "keep": "best", "probe_every": 2, "probe_episodes": 3, "probe_k": 2, "learning_rate": 0.05}
    data = settings("alfworld", "grpo")
    data["sft"] |= {**sft, "episodes": 6, "curriculum": 0.0}
    data["optim"]["iterations"] = 1
    data["eval"] = {"episodes": 2, "at_start": False, "greedy": False}
    source, log = write_settings(tmp_path, data), tmp_path / "log"
    (tmp_path / "copies").mkdir()
    argv = ["train", str(source), "--quiet", "--out", str(tmp_path / "whole")]

    def before():
        # However long a save takes, there is one after each step.
        SFTStage._cost = property(lambda stage: 0.0, lambda stage, seconds: None)
        copying(tmp_path)

    assert run(argv, log, before) == 0, log.read_text()
    expected = contents(RunDirectory(tmp_path / "whole"))
    copies = sorted((tmp_path / "copies").iterdir())
    states = [json.loads((c / "saves" / c.name / "state.json").read_text()) for c in copies]
    assert [s["sft_step"] for s in states if s["stage"] == "sft"] == [1, 2, 3, 4, 5]
    assert [len(s["sft_best"]) for s in states[:5]] == [0, 3, 3, 3, 3]
    for copy in (copies[0], copies[2], copies[4]):
        assert run(["resume", str(copy), "--quiet"], log) == 0, log.read_text()
        assert_same(expected, contents(RunDirectory(copy)))
