"""The environment under its public protocol."""

from __future__ import annotations

import pickle

import pytest
from tiny_games import kitchen, put, write_jsonl

from stapo.envs import Env, check_env, make
from stapo.envs.alfworld.env import AlfworldEnv
from stapo.envs.alfworld.generator import GeneratedGames
from stapo.envs.alfworld.sources import chosen_types, types_named
from stapo.errors import ConfigError, EnvError, UnknownNameError


@pytest.fixture
def env(tmp_path):
    games = [
        kitchen(goal=put("spoon", "desk"), goal_text="put a spoon in desk.").game("train/spoon"),
        kitchen().game("valid_seen/mug", "valid_seen"),
    ]
    return AlfworldEnv(games=write_jsonl(tmp_path / "games.jsonl", games), max_steps=5)


def test_the_registry_builds_it(tmp_path):
    path = write_jsonl(tmp_path / "games.jsonl", [kitchen().game()])
    made = make("alfworld", games=path, max_steps=7, grammar="put")
    assert isinstance(made, Env)
    assert made.max_steps == 7


def test_tasks_splits_and_families(env):
    assert env.tasks == ["train/spoon", "valid_seen/mug"]
    assert env.splits == ("train", "valid_seen")
    assert env.tasks_of("valid_seen") == ["valid_seen/mug"]
    assert env.task_type("train/spoon") == "pick_and_place_simple"
    with pytest.raises(UnknownNameError, match=r"unknown split 'valid_sen'\. Did you mean 'valid_seen'"):
        env.tasks_of("valid_sen")
    for call in (env.reset, env.task_type):
        with pytest.raises(UnknownNameError, match="Did you mean 'train/spoon'"):
            call("train/spon")


def test_the_first_observation_and_its_blind_version(env):
    first = env.reset("train/spoon")
    assert first.text.endswith("and a sinkbasin 1.\n\nYour task is to: put a spoon in desk.")
    assert first.goal == "put a spoon in desk."
    assert first.text == f"{first.blind_text}\n\nYour task is to: {first.goal}"
    assert "task" not in first.blind_text
    assert first.admissible == sorted(first.admissible)


def test_a_won_episode(env):
    env.reset("train/spoon")
    results = [env.step(command) for command in env.expert_plan()]
    assert [r.reward for r in results] == [0.0, 0.0, 0.0, 1.0]
    assert [r.done for r in results] == [False, False, False, True]
    assert results[-1].won
    assert results[-1].info == {"truncated": False, "effect": True}
    with pytest.raises(EnvError, match=r"after the episode ended; call reset\(task_id\)"):
        env.step("look")


def test_the_step_limit_truncates(env):
    env.reset("train/spoon")
    results = [env.step("look") for _ in range(5)]
    assert [r.done for r in results] == [False] * 4 + [True]
    assert [r.info["truncated"] for r in results] == [False] * 4 + [True]
    assert not results[-1].won
    env.reset("train/spoon")
    assert not env.step("look").done


def test_winning_with_the_last_allowed_step_is_no_truncation(env):
    env.max_steps = 4
    env.reset("train/spoon")
    last = [env.step(command) for command in env.expert_plan()][-1]
    assert (last.won, last.done, last.info["truncated"]) == (True, True, False)


def test_effect_tells_changes_from_looking(env):
    env.reset("train/spoon")
    effects = [
        env.step(command).info["effect"]
        for command in (
            "look",
            "go to drawer 2",
            "examine drawer 2",
            "close drawer 2",
            "close drawer 2",
        )
    ]
    assert effects == [False, True, False, True, False]


@pytest.mark.parametrize("text", ["", "\x00", "\ud800", "a" * 100_000, None, 7, b"look", ["look"]])
def test_no_action_raises(env, text):
    env.reset("train/spoon")
    result = env.step(text)
    assert result.text == "Nothing happens."
    assert result.info["effect"] is False


def test_the_state_key_follows_the_state(env):
    env.reset("train/spoon")
    start = env.state_key()
    env.step("look")
    assert env.state_key() == start
    env.step("go to drawer 2")
    assert env.state_key() != start
    env.reset("train/spoon")
    assert env.state_key() == start


def test_a_fork_plays_on_its_own(env):
    env.reset("train/spoon")
    env.step("go to drawer 2")
    twin = env.fork()
    before = env.state_key()
    for command in twin.expert_plan():
        last = twin.step(command)
    assert last.won
    assert env.state_key() == before
    assert env.expert_plan()[0] == "take spoon 1 from drawer 2"
    assert not env.step("look").done


def test_the_expert_when_there_is_nothing_to_do(env):
    env.reset("valid_seen/mug")
    assert env.expert_plan() == []


@pytest.mark.parametrize("use", ["step", "expert_plan", "state_key"])
def test_using_it_before_reset(env, use):
    with pytest.raises(EnvError, match=r"call reset\(task_id\) first"):
        getattr(env, use)(*(["look"] if use == "step" else []))


def test_closing_ends_the_episode_and_not_the_environment(env):
    env.reset("train/spoon")
    env.close()
    env.close()
    with pytest.raises(EnvError, match="before reset"):
        env.step("look")
    assert env.reset("train/spoon").goal == "put a spoon in desk."


@pytest.mark.parametrize(
    "options, message",
    [
        ({"grammar": "puts"}, r"grammar must be 'move' .* found 'puts'. Did you mean 'put'"),
        ({"grammar": None}, "found None"),
        ({"max_steps": 0}, "max_steps is 0, expected a whole number of 1 or more"),
        ({"max_steps": 2.5}, "max_steps is 2.5, expected"),
        ({"max_steps": True}, "max_steps is True, expected"),
        ({"games_per_type": 0}, "games_per_type is 0, expected a whole number from 1 to"),
        ({"task_types": ["pick_and_place"]}, "not a family. Did you mean 'pick_and_place_simple'"),
        ({"task_types": [7]}, "names 7, which is not a family"),
        ({"task_types": []}, "task_types is empty"),
        ({"task_types": 1.5}, "must be a list of families"),
        ({"task_types": "1, pick"}, "names 'pick', which is not a family"),
        ({"demonstrator_memory": -1}, "demonstrator_memory is -1, expected a whole number of 0 or more"),
        ({"demonstrator_habit": 1.0}, "demonstrator_habit is 1.0, expected a number from 0 to below 1"),
        ({"demonstrator_forgets": 2}, "demonstrator_forgets is 2, expected a number from 0 to 1"),
        ({"demonstrator_forgets": 0.5, "demonstrator_habit": 0.5}, "expected one of them"),
    ],
)
def test_options_that_cannot_be_used(options, message):
    with pytest.raises(ConfigError, match=message):
        AlfworldEnv(**options)


def test_chosen_families_by_name_and_by_the_number_of_the_original():
    by_name = make("alfworld", games_per_type=3, task_types=["look_at_obj_in_light", "pick_and_place_simple"])
    by_number = make("alfworld", games_per_type=3, task_types=[1, 2])
    everything = make("alfworld", games_per_type=3)
    for text in ("1,2", "pick_and_place_simple, 2"):
        assert list(make("alfworld", games_per_type=3, task_types=text).tasks) == list(by_name.tasks)
    assert len(make("alfworld", games_per_type=3, task_types=1).tasks) == len(by_name.tasks) / 2
    assert list(by_name.tasks) == list(by_number.tasks)
    chosen = {"look_at_obj_in_light", "pick_and_place_simple"}
    assert {by_name.task_type(t) for t in by_name.tasks} == chosen
    assert list(by_name.tasks) == [t for t in everything.tasks if everything.task_type(t) in chosen]


def test_families_are_chosen_once_for_all_environments():
    source = GeneratedGames(scenes="tiny", games_per_type=3)
    one, other = chosen_types(source, types_named([1, 2])), chosen_types(source, types_named("2, 1"))
    assert one is other
    assert one.ids("train") is not chosen_types(source, types_named(1)).ids("train")
    envs = [make("alfworld", scenes="tiny", games_per_type=4, task_types=[1, 3]) for _ in range(2)]
    assert envs[0]._source is envs[1]._source is not make("alfworld", scenes="tiny", games_per_type=4)._source


def test_an_unknown_option_is_named():
    with pytest.raises(ConfigError, match=r"no option 'max_step'\. Did you mean 'max_steps'"):
        make("alfworld", max_step=3)


def test_validation_names_every_game_that_cannot_be_won(tmp_path):
    stuck = kitchen(goal=put("plate", "drawer")).fact("holds", "agent1", "Roll_bar_98")
    stuck.thing("roll 1").refuses |= {(kind, "roll") for kind in stuck.kinds["receptacle"]}
    games = [
        kitchen().game("train/sound"),
        kitchen(goal=put("pillow", "desk")).game("train/unplayable"),
        stuck.game("valid_seen/stuck", "valid_seen"),
    ]
    env = AlfworldEnv(games=write_jsonl(tmp_path / "games.jsonl", games))
    problems = env.validate()
    assert list(problems) == ["train/unplayable", "valid_seen/stuck"]
    assert "needs a 'pillowtype'" in problems["train/unplayable"]
    assert problems["valid_seen/stuck"] == "no sequence of actions reaches the goal"
    assert list(env.validate("train")) == ["train/unplayable"]


def test_it_passes_the_conformance_check(env, shared):
    assert len(check_env(env)) == 12
    assert len(check_env(AlfworldEnv(games=shared / "data" / "alfworld", grammar="put"))) == 12


def test_it_can_be_pickled_for_worker_processes(env):
    env.reset("train/spoon")
    env.step("go to drawer 2")
    twin = pickle.loads(pickle.dumps(env))  # noqa: S301
    assert twin.state_key() == env.state_key()
    assert twin.step("look") == env.step("look")


@pytest.mark.slow
def test_opening_all_unseen_games_stays_small(shared):
    import tracemalloc

    tracemalloc.start()
    env = AlfworldEnv(games=shared / "data" / "alfworld" / "games_valid_unseen.jsonl.xz")
    envs = [env.fork() for _ in env.tasks]
    for one, task in zip(envs, env.tasks, strict=True):
        one.reset(task)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(envs) == 134
    assert used < 40e6
