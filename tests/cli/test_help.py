"""Every command explains itself: on one screen, or with everything; and knows what an unknown flag was meant to be."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from importlib import import_module

import pytest

from stapo.cli.command import Command, flag_of, is_word, read
from stapo.cli.help import HEIGHT, WIDTH
from stapo.cli.main import _COMMANDS, main
from stapo.config import RunConfig
from stapo.config.describe import meanings, settings_of
from stapo.errors import ConfigError


def command_of(name):
    return import_module(f"stapo.cli.{name.replace('-', '_')}_command").COMMAND


def shown(capsys, *argv):
    assert main(list(argv)) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", _COMMANDS)
def test_the_help_is_one_screen(name, capsys):
    lines = shown(capsys, name, "--help")
    assert lines[0].startswith(f"usage: stapo {name}")
    assert len(lines) <= HEIGHT <= 45
    assert max(map(len, lines)) <= WIDTH <= 100
    assert shown(capsys, "help", name) == lines


@pytest.mark.parametrize("name", _COMMANDS)
def test_the_help_of_a_number_has_its_range(name):
    meant = meanings(command_of(name))
    numbers = [option.name for option in fields(command_of(name)) if re.search(r"\b(int|float)\b", str(option.type))]
    assert [n for n in numbers if not re.search(r"\d or more|above \d|\d to \d", meant[n])] == []


@pytest.mark.parametrize("name", ["train", "compare"])
def test_it_has_what_people_change_with_value_and_meaning(name, capsys):
    lines = shown(capsys, name, "--help")
    own = [flag_of(option) for option in fields(command_of(name)) if not is_word(option)]
    options = [line for line in lines if re.match(r"  --\S", line)]
    assert len(options) >= 20
    assert [line for line in options if line.split()[0] in own]
    rate = r"  --optim\.learning-rate 0\.001 +AdamW's peak learning rate; above 0, at most 1"
    assert [line for line in options if re.fullmatch(rate, line)]
    assert "examples:" in lines


def test_the_values_are_those_of_the_preset(capsys):
    tiny, large = ("\n".join(shown(capsys, "train", *source, "--help")) for source in ([], ["paper/alfworld-7b"]))
    assert "--rollout.groups 32 " in tiny
    assert "--rollout.groups 16 " in large


@pytest.mark.parametrize("name", ["train", "compare", "verl"])
def test_help_all_has_every_setting(name, capsys):
    lines = shown(capsys, name, "--help-all")
    found = {match[1].replace("-", "_") for line in lines if (match := re.match(r"  --([\w.-]+)", line))}
    assert {s.name for s in settings_of(RunConfig())} - {"env.options", "algorithm.name"} <= found


def test_help_all_of_an_evaluation_has_those_that_it_can_change(capsys):
    lines = shown(capsys, "eval", "RUN", "--help-all")
    assert [line for line in lines if line.startswith("  --agent.max-prompt-tokens 400 ")]
    assert not [line for line in lines if line.startswith("  --optim.")]


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_option_is_explained_and_unknown_ones_are_guessed(name, capsys):
    command = command_of(name)
    assert issubclass(command, Command)
    assert set(meanings(command)) == {option.name for option in fields(command)} or not fields(command)
    for option in fields(command):
        flag = flag_of(option)
        if not is_word(option):
            assert main([name, f"{flag[:-2]}{flag[-1]}{flag[-2]}x"]) == 2
            said = capsys.readouterr().err
            assert f"Did you mean '{flag}" in said or "Did you mean '--" in said
            assert said.count("\n") == 1


def test_a_setting_is_guessed_by_its_last_name(capsys):
    assert main(["train", "--learning-rate", "1"]) == 2
    said = capsys.readouterr().err
    for flag in ("--sft.learning-rate", "--optim.learning-rate", "--algorithm.critic.learning-rate"):
        assert flag in said


@pytest.mark.parametrize(
    "words, said",
    [
        (["RUN", "--json=yes"], "--json takes no value"),
        (["RUN", "--seeds", "0,1", "--seeds", "1"], "names a seed twice"),
        (["RUN", "-x"], "has no option '-x'"),
        (["RUN", "--episodes", "1_0"], "--episodes is '1_0', expected a whole number of 0 or more"),
        (["RUN", "--episodes", "9" * 30], "expected a whole number of 0 or more"),
        (["RUN", "--optim.iterations", "3"], "has no option '--optim.iterations'"),
    ],
)
def test_words_that_do_not_fit(words, said, capsys):
    assert main(["eval", *words]) == 2
    assert said in capsys.readouterr().err


def test_words_are_read_wherever_they_stand():
    eval_command = command_of("eval")
    wanted = ["--env.games", "DIR", "--agent.max_prompt_tokens=9"]
    for words in (
        ["RUN", "--seeds", "3", "4", "--json", *wanted],
        ["--json", "RUN", "--seeds=3,4", *wanted],
        ["--env.games", "DIR", "RUN", "--agent.max_prompt_tokens=9", "--seeds", "3", "--seeds", "4", "--json"],
    ):
        found, settings = read(eval_command, "eval", words)
        assert (found.source, found.seeds, found.json, found.episodes) == ("RUN", (3, 4), True, 0)
        assert settings == wanted
    with pytest.raises(ConfigError, match="--split needs the name of a split"):
        read(eval_command, "eval", ["RUN", "--split", "--json"])


def test_help_waits_for_nothing_heavy():
    code = "import sys; from stapo.cli.main import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    for argv in (["--help"], ["train", "--help-all"]):
        assert subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, timeout=300).returncode == 0
    # No model is here and no device is measured.
    planned = ["train", "paper/alfworld-1.5b", "--dry-run", "--gpu", "h100"]
    assert subprocess.run([sys.executable, "-c", code, *planned], capture_output=True, timeout=300).returncode == 0
    code = code.replace(
        "'torch' in sys.modules", "bool({'torch', 'tyro', 'stapo.envs', 'stapo.config'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, timeout=300).returncode == 0
