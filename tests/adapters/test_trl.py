"""Our environments in the form that TRL's trainer expects; `make test-ecosystem` lets TRL itself train on them."""

from __future__ import annotations

import inspect
import pickle

import pytest

from stapo.adapters.trl import TextEnvironment, environment, rows
from stapo.envs.sokoban.env import SokobanEnv
from stapo.errors import ConfigError, EnvError, UnknownNameError


def test_an_episode():
    build = pickle.loads(pickle.dumps(environment("sokoban", levels=20)))  # noqa: S301
    env, own = build(), SokobanEnv(levels=20)
    first = own.reset("train/000003")
    seen = env.reset(task_id="train/000003", prompt=[], unused=1)
    assert seen == f"Your task: {first.goal}\n\n{first.text}\n\nCommands that work now:\ndown\nleft\nright\nup"
    plan, paid = own.expert_plan(), 0.0
    for move in plan:
        seen, out = env.act(move), own.step(move)
        paid += out.reward
    assert seen.endswith("The task is solved.")
    assert env.get_reward() == pytest.approx(paid)
    with pytest.raises(EnvError, match="the episode is over"):
        env.act("up")
    env.reset(seed=23)
    assert env.get_reward() == 0.0
    for _ in range(15):
        seen = env.act("nothing")
    assert seen.endswith("The episode is over.")
    assert env.get_reward() == pytest.approx(-1.5)


def test_a_goal_that_is_seen_is_not_told_twice():
    seen = environment("alfworld", scenes="tiny", games_per_type=4, list_commands=False)().reset(seed=0)
    assert seen.count("Your task is to") == 1
    assert "Your task:" not in seen
    assert "Commands that work now" not in seen


def test_members_of_a_group_play_the_same_task():
    build = environment("sokoban", split="heldout", levels=20)
    one, other = build(), build()
    assert one.reset(seed=1) == other.reset(seed=3)
    with pytest.raises(ConfigError, match="neither a 'task_id' nor a 'seed'"):
        one.reset(prompt="x")
    data = rows("sokoban", split="heldout", levels=20)
    assert [r["task_id"] for r in data] == ["heldout/000000", "heldout/000001"]
    assert one.reset(**data[1]) == other.reset(seed=1)
    assert len(rows("sokoban", number=7, levels=20)) == 7


def test_the_tools_of_a_model_are_the_public_methods():
    public = [name for name, _ in inspect.getmembers(TextEnvironment, inspect.isfunction) if not name.startswith("_")]
    assert public == ["act", "get_reward", "reset"]
    assert "command:" in inspect.getdoc(TextEnvironment.act)


@pytest.mark.parametrize("wrong, error, said", [
    ({"name": "nowhere"}, UnknownNameError, "unknown environment"),
    ({"name": "sokoban", "boxs": 1}, ConfigError, "Did you mean 'boxes'"),
    ({"name": "sokoban", "split": "trian"}, UnknownNameError, "Did you mean 'train'"),
    ({"name": 3}, UnknownNameError, "unknown environment 3, which is int, not a text"),
])  # fmt: skip
def test_what_cannot_be_built_is_said_at_once(wrong, error, said):
    with pytest.raises(error, match=said.replace("?", r"\?")):
        environment(**wrong)


@pytest.mark.parametrize("number", [0, -1, 1.5, "5", True])
def test_a_number_of_rows_that_is_none_is_said(number):
    with pytest.raises(ConfigError, match=r"number is .*, expected a whole number of 1 or more"):
        rows("sokoban", number=number, levels=20)


@pytest.mark.parametrize("row, error, said", [
    ({"seed": "3"}, ConfigError, "the row's 'seed' is '3', expected a whole number of 0 or more"),
    ({"seed": -1}, ConfigError, "is -1, expected"),
    ({"task_id": 3}, UnknownNameError, "unknown task 3. Known: train/000000 to train/000019"),
    ({"task_id": "train/000020"}, UnknownNameError, "unknown task 'train/000020'. Known: train/000000 to train/000019"),
])  # fmt: skip
def test_a_row_that_names_no_task_is_said(row, error, said):
    with pytest.raises(error, match=said):
        environment("sokoban", levels=20)().reset(**row)
