"""`stapo play --agent`: a policy plays, and a person watches."""

from __future__ import annotations

import pytest

from stapo.cli.main import main
from stapo.config import load_config
from stapo.envs.registry import ENVIRONMENTS, default_preset
from stapo.errors import ConfigError, UnknownNameError


def shown(capsys, *argv):
    code = main(["play", *map(str, argv)])
    out, err = capsys.readouterr()
    return code, out, " ".join(err.split())


def test_a_run_plays_one_episode_to_its_end_where_nobody_is_at_the_terminal(toy_run, capsys):
    code, out, _ = shown(capsys, "--agent", toy_run, "--seed", 1)
    assert code == 0
    steps = [line for line in out.splitlines() if line.startswith("> ")]
    assert steps
    assert all("% sure)" in line for line in steps)
    assert sum(line.startswith(("Won in ", "Not won after ")) for line in out.splitlines()) == 1
    # The same seed shows the same episode, a checkpoint by its folder as well.
    assert shown(capsys, "--agent", toy_run / "checkpoints" / "final", "--seed", 1)[1] == out
    assert shown(capsys, "--agent", toy_run, "--seed", 2)[1] != out


def test_enter_shows_the_next_step_and_q_leaves(toy_run, capsys, monkeypatch):
    answers = iter(["", "", "q"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    code, out, _ = shown(capsys, "--agent", toy_run, "--seed", 1)
    assert code == 0
    assert sum(line.startswith("> ") for line in out.splitlines()) == 2
    assert next(answers, None) is None


def test_a_model_plays_with_the_settings_of_a_preset_that_is_named(toy_model, capsys):
    settings = ("--settings", "tiny", "--temperature", 0)
    code, out, _ = shown(capsys, "alfworld", "--agent", toy_model, *settings, "--seed", 1)
    assert code == 0
    assert "alfworld: " in out
    assert "> " in out


@pytest.mark.parametrize(
    "argv, said",
    [
        (("--agent", "nothing-here"), "nothing-here"),
        (("--temperature", "0"), "--temperature is for --agent WHO, which is not given"),
        (("--settings", "tiny"), "--settings is for --agent WHO, which is not given"),
    ],
)
def test_what_cannot_play_is_one_line(argv, said, capsys):
    code, out, err = shown(capsys, *argv)
    assert code
    assert said in err
    assert "Traceback" not in out + err


def test_a_run_of_another_environment_is_refused(toy_run, capsys):
    code, _, err = shown(capsys, "webshop", "--agent", toy_run)
    assert code
    assert "not 'webshop'. Leave webshop out" in err


@pytest.mark.parametrize("env", ["alfworld", "search", "sokoban", "webshop"])
@pytest.mark.parametrize("model", ["scratch", "pretrained"])
def test_the_presets_that_an_environment_names_play_it(env, model):
    assert load_config(default_preset(env, model)).env.name == env


def test_an_environment_of_another_package_names_a_preset(monkeypatch, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("extends: tiny\nenv: {name: mine}\n")
    known = {"mine": {"scratch": str(file)}, "odd": ["tiny"], "wrong": {"scratch": 3}, "none": {}}
    objects = {name: type(name, (), {"default_presets": presets}) for name, presets in known.items()}
    monkeypatch.setattr(ENVIRONMENTS, "_objects", {**objects, "bare": type("bare", (), {})})
    assert load_config("mine").env.name == "mine"
    assert load_config("mine").optim == load_config("tiny").optim
    for name in ("odd", "wrong"):
        with pytest.raises(ConfigError, match=f"environment '{name}' has the default_presets .*, expected a mapping"):
            load_config(name)
    for name in ("none", "bare", "nobody"):
        assert default_preset(name, "scratch") is None
        with pytest.raises(UnknownNameError, match="preset or file"):
            load_config(name)
