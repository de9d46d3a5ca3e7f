"""A preset for models from scratch with a pretrained model: settings are chosen for it, said, and may be overridden."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml

import stapo
from slow import slow_except
from stapo import load_config as public_load_config
from stapo.api import pretrained
from stapo.cli.main import main
from stapo.config.presets import load_config
from stapo.config.run_config import EnvConfig
from stapo.config.schema import to_data
from stapo.envs.registry import ENVIRONMENTS
from stapo.errors import ConfigError, StapoError

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
    """Settings and messages of a dry run; that for another device takes no measurement."""
    assert main(["train", *map(str, argv), "--dry-run", "--no-probe"]) == 0
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
    found, _ = resolved(capsys, "alfworld", "--model.path", models / "large", "--model.lora.rank", 16, "--gpu=h100")
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


PRESETS = ["tiny", "alfworld-tiny", "memory", "webshop-tiny", "search-tiny", "sokoban-tiny"]


@pytest.mark.parametrize("preset", slow_except(PRESETS, "tiny", "search-tiny"))
def test_without_a_model_presets_are_what_they_were(capsys, preset):
    found, said = resolved(capsys, preset)
    assert found == to_data(load_config(preset))
    assert "chosen" not in said


@pytest.mark.parametrize("preset", ["paper/alfworld-1.5b", "webshop-1000", "search-r1", "sokoban-6x6"])
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
    own = {"sft": {"steps": 9, "learning_rate": 1e-4}}
    found = public_load_config(own, **{"model.path": str(models / "small")})
    assert (found.sft.steps, found.sft.learning_rate) == (9, 1e-4)
    assert [str(w.message) for w in recwarn] == []


REFUSED = {
    "a file without a model": ("sft: {steps: 3800, learning_rate: 3.0e-3}", "sft.learning_rate 0.003"),
    "a file that extends a preset": ("extends: tiny\nmodel: {path: MODEL}", "optim.learning_rate 0.001"),
    "the default of SFT": ("model: {path: MODEL}\nsft: {steps: 9}", "sft.learning_rate 0.004"),
}


@pytest.mark.parametrize("text, said", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("command", ["train", "dry run", "compare", "python"])
def test_a_rate_that_nobody_gave_for_the_model_is_refused_everywhere(models, capsys, tmp_path, text, said, command):
    model = str(models / "small")
    (tmp_path / "mine.yaml").write_text(text.replace("MODEL", model))
    given = () if "MODEL" in text else ("--model.path", model)
    if command == "python":
        for source in (str(tmp_path / "mine.yaml"), yaml.safe_load((tmp_path / "mine.yaml").read_text())):
            with pytest.raises(ConfigError, match=said):
                public_load_config(source, **({"model.path": model} if given else {}))
        return
    words = {"train": ["train"], "dry run": ["train", "--dry-run"], "compare": ["compare", "--algorithms", "grpo"]}
    out = ("--out", str(tmp_path / "out"))
    assert main([words[command][0], str(tmp_path / "mine.yaml"), *words[command][1:], *given, *out]) == 2
    _, err = capsys.readouterr()
    assert said in err
    assert "paper/…" in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_python_trains_no_pretrained_model_at_the_rates_of_settings_made_without_it(models, tmp_path):
    path = {"model.path": str(models / "small")}
    with pytest.raises(ConfigError, match=r"optim.learning_rate 0.001"):
        public_load_config(public_load_config("tiny"), **path)
    with pytest.raises(ConfigError, match=r"optim.learning_rate 0.001"):
        stapo.train({"extends": "tiny", "model": {"path": path["model.path"]}}, tmp_path / "run")
    # Rates of a configuration that is built by hand are the user's own.
    config = public_load_config("tiny")
    config = replace(config, model=replace(config.model, path=path["model.path"]))
    told = pytest.warns(UserWarning, match=r"warning: optim.learning_rate 0.001, sft.learning_rate 0.003")
    with told, pytest.raises(StapoError):  # a shape without weights
        stapo.train(config, tmp_path / "run")


@pytest.mark.parametrize(
    "text, given",
    [
        ("extends: tiny\nmodel: {path: MODEL}\nsft: {learning_rate: 1.0e-3}\noptim: {learning_rate: 2.0e-3}", ()),
        ("extends: tiny\nmodel: {path: MODEL}", ("--sft.learning-rate=1e-3", "--optim.learning_rate", "2e-3")),
        ("extends: tiny", ("--model.path", "MODEL", "--sft.learning-rate", "1e-3", "--optim.learning-rate=2e-3")),
    ],
)
def test_rates_that_the_user_gives_win_and_are_warned_of(models, capsys, tmp_path, text, given):
    (tmp_path / "mine.yaml").write_text(text.replace("MODEL", str(models / "small")))
    found, said = resolved(
        capsys, tmp_path / "mine.yaml", "--gpu=h100", *(g.replace("MODEL", str(models / "small")) for g in given)
    )
    assert (found["sft"]["learning_rate"], found["optim"]["learning_rate"]) == (1e-3, 2e-3)
    assert "warning: optim.learning_rate 0.002, sft.learning_rate 0.001: meant for a small model from scratch" in said


def test_rates_that_are_not_used_are_not_asked_for(models, capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"extends: tiny\nmodel: {{path: {models / 'small'}}}")
    found, said = resolved(
        capsys, tmp_path / "mine.yaml", "--gpu=h100", "--sft.steps", 0, "--optim.learning-rate", "1e-5"
    )
    assert (found["sft"]["steps"], found["optim"]["learning_rate"]) == (0, 1e-5)
    assert "warning" not in said


def test_rates_that_a_comparison_varies_are_given(models, capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"extends: tiny\nmodel: {{path: {models / 'small'}}}")
    argv = ["compare", str(tmp_path / "mine.yaml"), "--algorithms", "grpo", "--dry-run", "--sft.steps", "0"]
    assert main([*argv, "--vary", "optim.learning_rate=1e-5,1e-4"]) == 0
    assert main(argv) == 2
    assert "optim.learning_rate 0.001" in capsys.readouterr().err


def test_a_model_that_was_built_here_goes_on_with_the_settings_of_its_kind(toy_model, capsys, tmp_path, recwarn):
    expected = to_data(load_config("tiny"))
    expected["model"]["path"] = str(toy_model)
    found, said = resolved(capsys, "tiny", "--model.path", toy_model, "--gpu=h100")
    assert found == expected
    assert "chosen" not in said
    assert "warning" not in said
    (tmp_path / "mine.yaml").write_text(f"extends: tiny\nmodel: {{path: {toy_model}}}")
    assert resolved(capsys, tmp_path / "mine.yaml", "--gpu=h100")[0] == expected
    assert to_data(public_load_config("tiny", **{"model.path": str(toy_model)})) == expected
    assert [str(w.message) for w in recwarn] == []


def test_a_comparison_chooses_the_same(models, capsys):
    argv = ["compare", "alfworld", "--algorithms", "grpo", "gigpo", "--seeds", "0", "--dry-run", "--model.path"]
    assert main([*argv, str(models / "small")]) == 0
    _, err = capsys.readouterr()
    assert err.count("settings chosen for a pretrained model") == 1
    assert "sft.steps 200" in err
