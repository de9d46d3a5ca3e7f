"""`stapo envs`: the list with broken packages in it, and one environment explained."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from stapo import registry
from stapo.cli.envs_command import argument_meanings
from stapo.cli.main import main
from stapo.envs.registry import ENVIRONMENTS


class Needy:
    """Cannot be built without a path. [bold]

    Args:
        path (str): where the data lie;
            several lines explain it.
        depth: how deep: very.
        mode: [red]odd[/red] value.

    Raises:
        ValueError: never.
    """

    def __init__(self, path: str, depth: int = 3, mode: tuple = (1, 2)) -> None:
        raise AssertionError("built without a path")


@pytest.fixture
def packages(monkeypatch):
    """Entry points of imaginary packages: one breaks on import, one points nowhere, one is fine."""
    points = [
        EntryPoint("explodes", "stapo_test_exploding:Env", ENVIRONMENTS.group),
        EntryPoint("nowhere", "stapo_no_such_module:Env", ENVIRONMENTS.group),
        EntryPoint("needy", f"{__name__}:Needy", ENVIRONMENTS.group),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == ENVIRONMENTS.group else [])


@pytest.fixture
def exploding(tmp_path, monkeypatch):
    (tmp_path / "stapo_test_exploding.py").write_text("raise RuntimeError('[no] license')\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_the_list_shows_a_broken_package_with_its_error(packages, exploding, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["envs"]) == 0
    out = capsys.readouterr().out
    assert "RuntimeError: [no] license" in out
    assert "No module named 'stapo_no_such_module'" in out
    assert "Cannot be built without a path. [bold]" in out
    assert "alfworld" in out
    assert "stapo.envs.alfworld.env:AlfworldEnv" in out


def test_the_list_as_json(packages, exploding, capsys):
    assert main(["envs", "--json"]) == 0
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert found["alfworld"]["error"] is None
    assert "license" in found["explodes"]["error"]
    assert found["needy"]["from"].endswith(":Needy")


def test_one_environment(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["envs", "alfworld", "--env.games_per_type", "3"]) == 0
    out = capsys.readouterr().out
    assert "--env.scenes" in out
    assert "which rooms the generator uses" in out
    assert "pick_two_obj_and_place" in out
    assert "episodes end after 50 steps" in out
    assert "example: " in out


def test_one_environment_as_json(capsys):
    assert main(["envs", "alfworld", "--json", "--env.games_per_type", "3", "--env.max_steps=7"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["max_steps"] == 7
    assert facts["splits"]["train"]["tasks"] == 18
    assert set(facts["splits"]["heldout"]["by_type"].values()) == {3}
    options = {o["name"]: o for o in facts["options"]}
    assert options["max_steps"] == {
        "name": "max_steps",
        "required": False,
        "default": 50,
        "meaning": "actions after which an episode ends.",
    }
    assert facts["example"]["task_id"].startswith("generated-small/train/")
    assert facts["example"]["goal"].endswith(".")


def test_options_are_shown_even_where_the_tasks_cannot_be(packages, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["envs", "needy"]) == 2
    out = capsys.readouterr().out
    assert "required" in out
    assert "where the data lie; several lines explain it." in out
    assert "[red]odd[/red] value." in out
    assert "tasks cannot be listed" in out
    assert "path" in out
    assert main(["envs", "needy", "--json"]) == 2
    facts = json.loads(capsys.readouterr().out)
    assert "path" in facts["error"]
    assert facts["options"][2]["default"] == "(1, 2)"


@pytest.mark.parametrize(
    "argv, said",
    [
        (["alfwrld"], "Did you mean 'alfworld'"),
        (["alfworld", "--env.scense", "x"], "Did you mean 'scenes'"),
        (["alfworld", "extra"], "found 'alfworld' 'extra'"),
        (["--jsn"], "Did you mean '--json'"),
    ],
)
def test_wrong_input_is_one_line(capsys, argv, said):
    assert main(["envs", *argv]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_broken_package_explained_by_name_is_an_error_line(packages, capsys):
    assert main(["envs", "nowhere"]) == 2
    assert "cannot be imported" in capsys.readouterr().err


def test_meanings_from_a_docstring():
    doc = "Does it.\n\nArgs:\n    a: one\n        more.\n    **kw: rest: all\n\nReturns:\n    b: no\n"
    assert argument_meanings(doc) == {"a": "one more.", "**kw": "rest: all"}
    assert argument_meanings("Nothing here.") == {}


def test_the_list_does_not_wait_for_torch():
    code = "import sys; from stapo.cli.main import main; main(['envs']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=600).returncode == 0


def test_help(capsys):
    assert main(["envs", "--help"]) == 0
    assert "--json" in capsys.readouterr().out
