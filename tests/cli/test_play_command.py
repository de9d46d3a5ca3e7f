"""`stapo play` with piped answers, on a small environment of its own and on the real one."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from stapo.cli.main import main
from stapo.cli.play_command import task_order
from stapo.envs.protocol import CommandShapes, Observation, StepResult
from stapo.envs.registry import ENVIRONMENTS
from stapo.errors import ConfigError, EnvError, UnknownNameError


class Corridor:
    """Walk to the end.

    Args:
        length: cells to the exit.
    """

    name = "corridor"
    max_steps = 5
    tasks = ("a/1", "a/2", "b/1")
    splits = ("a", "b")

    def __init__(self, length: int = 2) -> None:
        self.length = length
        self.at = self.steps = 0

    def tasks_of(self, split):
        return [t for t in self.tasks if t.startswith(split)]

    def task_type(self, task_id):
        return "[red]walk"

    def reset(self, task_id):
        self.at = self.steps = 0
        return Observation("[bold]You[/bold] stand at :smile: 0.\x1b[2J", f"reach {self.length}", self._offered())

    def step(self, action):
        self.steps += 1
        self.at += action == "go on"
        won = self.at >= self.length
        done = won or self.steps >= self.max_steps
        return StepResult(f"At {self.at}.", self._offered(), 2.0 * won, done, won, {"truncated": done and not won})

    def close(self):
        self.closed = True

    def expert_plan(self):
        return ["go on"] * (self.length - self.at)

    def _offered(self):
        return ["go on", "hint", "wait [x]"]


class Free:
    """Takes any text and knows no expert."""

    name = "free"
    max_steps = 3
    tasks = ("only",)
    splits = ()

    def tasks_of(self, split):
        raise AssertionError

    def task_type(self, task_id):
        return "any"

    def reset(self, task_id):
        return Observation("Say something. [/]", "Say something.")

    def step(self, action):
        return StepResult(f"You said {action}.", None, 0.0, action == "7", False)

    def close(self):
        pass


class Breaking(Corridor):
    """Fails in the way that its split or the command names."""

    def reset(self, task_id):
        if task_id.startswith("b"):
            raise ValueError("no such\nroom")
        return super().reset(task_id)

    def step(self, action):
        if action == "exit":
            raise SystemExit(7)
        if action == "bad":
            return "a text"
        if action == "ours":
            raise EnvError("the lamp is out.")
        raise ValueError("the floor\ngave way")

    def expert_plan(self):
        raise ValueError("no plan")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(ENVIRONMENTS._objects, "breaking", Breaking)
    monkeypatch.setitem(ENVIRONMENTS._objects, "corridor", Corridor)
    monkeypatch.setitem(ENVIRONMENTS._objects, "free", Free)


@pytest.fixture
def play(monkeypatch, capsys):
    def run(text: str, *argv: str) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        assert main(["play", *argv]) == 0
        return capsys.readouterr().out

    return run


def test_win_and_compare_with_the_expert(play):
    out = play("go on\nwait\ngo on\n", "corridor", "--seed", "0")
    assert "At 2." in out
    assert "Won in 3 steps." in out
    assert "Reward 2." in out
    assert "The expert's plan from the start has 2 steps." in out


def test_the_step_limit_ends_it_and_nothing_more_is_played(play):
    out = play("wait\n" * 5 + "go on\n", "corridor")
    assert "Not won: the step limit ended it after 5 steps." in out
    assert "The episode is over: restart, next or quit." in out


def test_question_mark_lists_and_numbers_play(play):
    out = play("?\n1\n9\n0\n1\n", "corridor")
    assert "  1 go on\n  2 hint\n  3 wait [x]\n" in out
    assert "There is no command 9; ? lists 1 to 3. No turn was used." in out
    assert "There is no command 0" in out
    assert "Won in 2 steps." in out


def test_words_of_the_world_win_over_ours_and_a_slash_reaches_ours(play):
    out = play("hint\n/hint\nquit\ngo on\n", "corridor")
    assert "1/5> " in out  # 'hint' is a command of this world and used a turn
    assert "The expert would: go on" in out
    assert "At 1." not in out


def test_restart_and_next(play):
    out = play("go on\nrestart\ngo on\nnext\nnext\n", "corridor", "--task", "a/2")
    assert out.count("task a/2") == 3  # the split has two tasks, so the second `next` comes back
    assert out.count("task a/1") == 1
    assert out.count("0/5> ") == 4


def test_text_of_the_game_is_never_markup(play):
    out = play("[red]\n", "corridor")
    assert "[bold]You[/bold] stand at :smile: 0.\\u{1b}[2J" in out
    assert "[red]walk" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("text", ["", "\n\n", "go on"])
def test_the_end_of_the_input_is_a_clean_exit(play, text):
    assert "reach 2" in play(text, "corridor")


def test_an_environment_with_free_text_and_without_expert(play):
    out = play("?\nhint\nhello\n7\n", "free")
    assert "takes free text" in out
    assert "has no expert" in out
    assert "You said hello." in out
    assert "Not won: lost after 2 steps." in out


class Kiosk(Corridor):
    """Buttons and a search bar; played right by its short forms."""

    name = "kiosk"
    command_shapes = CommandShapes(separator=" [SEP] ")

    def step(self, action):
        self.steps += 1
        over = self.steps >= 5
        return StepResult(f"Back [SEP] You did {action}", self._offered(), 0.0, over, False, {"task_score": 0.625})

    def _offered(self):
        return ["click[8]", "click[Red]", "click[next >]", "search[<your query>]"]


def test_short_forms_of_bracket_commands(play, monkeypatch):
    monkeypatch.setitem(ENVIRONMENTS._objects, "kiosk", Kiosk)
    out = play("?\nred\nsearch  a mug\nclick 8\nnext >\n4\nred mug\n", "kiosk")
    for done in ("click[Red]", "search[a mug]", "click[8]", "click[next >]", "red mug"):
        assert f"\nYou did {done}\n" in out
    assert "  4 search[<your query>]" in out
    assert "Type search[<your query>] with words of your own. No turn was used." in out
    assert "[SEP]" not in out
    assert "Score 0.62 of 1." in out


def test_a_number_stays_a_number(play, monkeypatch):
    monkeypatch.setitem(ENVIRONMENTS._objects, "kiosk", Kiosk)
    out = play("1\n8\n", "kiosk")
    assert "You did click[8]" in out
    assert "There is no command 8; ? lists 1 to 4." in out


def test_options_reach_the_environment(play):
    assert "Won in 1 step." in play("go on\n", "corridor", "--env.length", "1")


def test_the_seed_fixes_the_order():
    env = Corridor()
    assert task_order(env, None, "a", 1) == task_order(env, None, "a", 1)
    assert sorted(task_order(env, None, None, 1)) == ["a/1", "a/2"]
    assert task_order(env, "b/1", None, 1) == ["b/1"]
    assert task_order(env, "b/1", "a", 1)[0] == "b/1"
    assert task_order(Free(), None, None, None) == ["only"]
    with pytest.raises(UnknownNameError, match="Did you mean 'a/1'"):
        task_order(env, "a1", None, 1)
    env.tasks_of = lambda split: []
    with pytest.raises(ConfigError, match="no task to play in split 'b'"):
        task_order(env, None, "b", 1)


@pytest.mark.parametrize(
    "argv, said",
    [
        (["coridor"], "Did you mean 'corridor'"),
        (["corridor", "--sed", "1"], "Did you mean '--seed'"),
        (["corridor", "--seed", "x"], "--seed is 'x', expected a whole number"),
        (["corridor", "--env.lenght", "1"], "Did you mean 'length'"),
        (["corridor", "free"], "found 'corridor' 'free'"),
        (["corridor", "--task"], "--task needs a task id"),
    ],
)
def test_wrong_input_is_one_line(capsys, argv, said):
    assert main(["play", *argv]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_an_expert_that_fails_costs_its_line_only(play, monkeypatch):
    def broken(self):
        raise EnvError("no")

    monkeypatch.setattr(Corridor, "expert_plan", broken)
    out = play("go on\ngo on\n", "corridor")
    assert "Won in 2 steps." in out
    assert "expert's plan" not in out


def test_help(capsys):
    assert main(["play", "--help"]) == 0
    assert "the number of a command plays it" in capsys.readouterr().out


def test_the_real_environment_through_a_pipe():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "stapo.cli.main", "play", "--seed", "1", "--env.max_steps", "2"],
        input="?\nhint\n1\nnonsense\n",
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
        check=True,
    )
    assert "Your task is to: " in done.stdout
    assert "The expert would: " in done.stdout
    assert "Nothing happens." in done.stdout
    assert "the step limit ended it after 2 steps" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("typed, argv, said", [
    ("go on\n", [], "the episode ended in its environment: step('go on') raised ValueError: the floor gave way."),
    ("exit\n", [], "the episode ended in its environment: step('exit') raised SystemExit: 7."),
    ("bad\n", [], "the episode ended in its environment: step('bad') returned 'a text', expected a StepResult."),
    ("ours\n", [], "the lamp is out."),
    ("", ["--split", "b"], "task 'b/1' could not begin: reset('b/1') raised ValueError: no such room."),
])  # fmt: skip
def test_an_environment_that_fails_is_one_line(typed, argv, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert main(["play", "breaking", *argv]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


class Listless(Corridor):
    """Cannot say which tasks and splits it has."""

    @property
    def splits(self):
        raise ValueError("no\nsplits")

    tasks = splits


@pytest.mark.parametrize("command, code, said", [
    ("play", 2, "error: the environment failed: listing its tasks raised ValueError: no splits."),
    ("envs", 2, "its tasks cannot be listed: the environment failed: listing its tasks raised ValueError: no splits."),
    ("serve-env", 2, "error: the environment failed: listing its splits raised ValueError: no splits."),
    ("check-env", 3, "error runtime.seed_control tasks raised ValueError: no splits. List the tasks, sorted."),
])  # fmt: skip
def test_an_environment_that_cannot_list_its_tasks_is_one_line(command, code, said, monkeypatch, capsys):
    monkeypatch.setitem(ENVIRONMENTS._objects, "listless", Listless)
    assert main([command, "listless", *(["--port", "0"] if command == "serve-env" else [])]) == code
    out, err = capsys.readouterr()
    assert said in " ".join((out + err).split())


def test_an_expert_that_fails_costs_nothing(play):
    assert "The expert failed: expert_plan() raised ValueError: no plan" in play("/hint\n", "breaking")


def test_a_task_that_cannot_begin_hides_no_options(capsys, monkeypatch):
    monkeypatch.setattr(Breaking, "splits", ("b", "a"))
    assert main(["envs", "breaking"]) == 2
    assert "its tasks cannot be listed: task 'b/1' could not begin" in " ".join(capsys.readouterr().out.split())
