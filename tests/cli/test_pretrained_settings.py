"""A preset for models from scratch with a pretrained model: settings are chosen for it, said, and may be overridden."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml

from stapo import load_config as public_load_config
from stapo.api import pretrained
from stapo.cli.main import main
from stapo.config.presets import load_config
from stapo.config.run_config import EnvConfig
from stapo.config.schema import to_data
from stapo.envs.registry import ENVIRONMENTS

SIZES = {"model_type": "llama", "num_attention_heads": 8, "num_key_value_heads": 8, "tie_word_embeddings": True}


@pytest.fixture
def models(tmp_path):
    """Folders with shapes of 4 million and of 1.6 billion weights; a dry run reads no more."""
    for name, hidden, inner, layers, vocabulary in (("small", 128, 512, 4, 1000), ("large", 2048, 8192, 24, 1000)):
        (tmp_path / name).mkdir()
        sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
        (tmp_path / name / "config.json").write_text(json.dumps({**SIZES, **sizes, "vocab_size": vocabulary}))
    return tmp_path


def resolved(capsys, *argv):
    assert main(["train", *map(str, argv), "--dry-run"]) == 0
    out, err = capsys.readouterr()
    return yaml.safe_load(out), " ".join(err.split())


@pytest.mark.parametrize("preset", ["alfworld", "webshop-tiny", "search"])
def test_a_small_pretrained_model_gets_settings_of_its_own(models, capsys, preset):
    found, said = resolved(capsys, preset, "--model.path", models / "small", "--model.device", "cpu")
    scratch = to_data(load_config(preset))
    warm = found["sft"]
    assert (warm["steps"], warm["learning_rate"], warm["stop_at"]) == (200, 1e-4, 1.0)
    assert found["optim"]["learning_rate"] == 1e-5
    assert found["agent"]["max_prompt_tokens"] >= 1024
    assert found["agent"]["prompt"] == scratch["agent"]["prompt"]
    assert found["rollout"]["groups"] == 4
    assert (found["model"]["dtype"], found["log"]["threads"]) == ("auto", "auto")
    assert found["env"] == scratch["env"]
    assert "settings chosen for a pretrained model:" in said
    assert "sft.steps 200" in said


@pytest.mark.parametrize("more, style", [({"chat_settings": {"prompt": "webshop"}}, "webshop"), ({}, "compact")])
def test_an_environment_of_another_package_says_what_suits_a_large_one(models, monkeypatch, more, style):
    monkeypatch.setattr(ENVIRONMENTS, "_objects", {"mine": type("Mine", (), more)})
    preset = replace(load_config("tiny"), env=EnvConfig(name="mine"))
    chosen = pretrained.pretrained_settings("tiny", preset, {"model.path": str(models / "large")})
    assert chosen["agent"].get("prompt", preset.agent.prompt) == style


def test_a_large_one_begins_with_rl_by_the_published_prompts(models, capsys):
    found, _ = resolved(capsys, "alfworld", "--model.path", models / "large")
    assert found["sft"]["steps"] == 0
    assert found["optim"]["learning_rate"] == 1e-6
    assert (found["agent"]["prompt"], found["agent"]["response"]) == ("standard", "think_action")
    found, _ = resolved(capsys, "alfworld", "--model.path", models / "large", "--model.lora.rank", 16)
    assert found["optim"]["learning_rate"] == pytest.approx(1e-5)
    found, _ = resolved(capsys, "webshop", "--model.path", models / "large")
    assert found["agent"]["prompt"] == "webshop"


def test_what_the_user_gives_wins_and_is_not_said(models, capsys):
    given = ["--sft.steps", 7, "--optim.learning_rate=3e-4", "--model.dtype", "float32", "--eval.greedy"]
    found, said = resolved(capsys, "alfworld", f"--model.path={models / 'small'}", *given)
    assert (found["sft"]["steps"], found["optim"]["learning_rate"]) == (7, 3e-4)
    assert (found["model"]["dtype"], found["eval"]["greedy"]) == ("float32", True)
    said = said.partition("Each can be set")[0]
    for name in ("sft.steps", "optim.learning_rate", "model.dtype", "eval.greedy"):
        assert name not in said


@pytest.mark.parametrize("preset", ["tiny", "alfworld-tiny", "memory", "webshop-tiny", "search-tiny"])
def test_without_a_model_presets_are_what_they_were(capsys, preset):
    found, said = resolved(capsys, preset)
    assert found == to_data(load_config(preset))
    assert "chosen" not in said


@pytest.mark.parametrize("preset", ["paper/alfworld-1.5b", "webshop-1000", "search-r1"])
def test_presets_for_pretrained_models_stay(models, capsys, preset):
    found, said = resolved(capsys, preset, "--model.path", models / "large", "--gpu", "h100")
    expected = to_data(load_config(preset))
    expected["model"]["path"] = str(models / "large")
    assert found == expected
    assert "chosen" not in said


@pytest.mark.parametrize("preset, size", [("alfworld", "small"), ("webshop-tiny", "large")])
def test_python_chooses_as_the_command_line_does(models, capsys, preset, size):
    given = {"model": {"path": str(models / size), "device": "cpu"}, "sft.steps": 7, "algorithm": "gigpo"}
    with pytest.warns(UserWarning, match="settings chosen for a pretrained model: ") as caught:
        found = to_data(public_load_config(preset, **given))
    argv = ("--model.path", models / size, "--model.device", "cpu", "--sft.steps", 7, "--algorithm", "gigpo")
    expected, said = resolved(capsys, preset, *argv)
    assert found == expected
    assert found["sft"]["steps"] == 7
    assert next(str(w.message) for w in caught) in said
    with pytest.warns(UserWarning, match="settings chosen"):
        adapted = public_load_config(preset, **given, **{"model.lora.rank": 4})
    assert adapted.optim.learning_rate == pytest.approx(10 * found["optim"]["learning_rate"])


def test_python_leaves_the_users_own_settings_as_they_are(models, recwarn):
    own = public_load_config({"sft": {"steps": 9}}, **{"model.path": str(models / "small")})
    again = public_load_config(public_load_config("tiny"), **{"model.path": str(models / "small")})
    assert (own.sft.steps, again.sft.steps) == (9, public_load_config("tiny").sft.steps)
    assert [str(w.message) for w in recwarn] == []


def test_a_file_of_the_users_own_stands_and_is_warned_of(models, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("sft: {steps: 3800, learning_rate: 3.0e-3}")
    found, said = resolved(capsys, "mine.yaml", "--model.path", models / "small")
    assert found["sft"]["steps"] == 3800
    assert "warning: 3800 supervised steps at a learning rate of 0.003 are meant for a small model from scratch" in said


def test_a_comparison_chooses_the_same(models, capsys):
    argv = ["compare", "alfworld", "--algorithms", "grpo", "gigpo", "--seeds", "0", "--dry-run", "--model.path"]
    assert main([*argv, str(models / "small")]) == 0
    _, err = capsys.readouterr()
    assert err.count("settings chosen for a pretrained model") == 1
    assert "sft.steps 200" in err
