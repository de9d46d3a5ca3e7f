"""The judge of household episodes names each fault at the step where it happens, and at no other."""

from __future__ import annotations

import pytest
from tiny_games import Tiny, kitchen, put, write_jsonl

from stapo.envs import check_env, make
from stapo.envs.alfworld import env as env_module
from stapo.envs.alfworld.env import AlfworldEnv
from stapo.envs.protocol import Judge
from stapo.errors import EnvError


def environment(tmp_path, tiny):
    return AlfworldEnv(games=write_jsonl(tmp_path / "games.jsonl", [tiny.game("train/one")]))


def judged(env, commands):
    """The faults of each command of a new episode."""
    env.reset("train/one")
    judge, found = env.judge(), []
    for command in commands:
        judge.before(command)
        found.append(judge.after(env.step(command)))
    return found


SCRIPT = [
    ("look", set()),
    ("look", {"repeated"}),
    ("fly", {"invalid"}),
    ("fly", {"invalid", "repeated"}),
    ("go to desk 1", set()),  # four commands to go before and after: looking around is free
    ("look", set()),  # another state than in the middle of the room
    ("go to drawer 1", set()),  # drawer 2 with the spoon stands at the same place
    ("open drawer 1", set()),
    ("go to desk 1", {"detour", "revisit"}),
    ("go to drawer 2", set()),
    ("take spoon 1 from drawer 2", set()),
    ("close drawer 2", set()),  # nothing is needed from it any more
    ("go to fridge 1", set()),  # closed: not searched yet
    ("go to drawer 2", {"revisit"}),
    ("go to fridge 1", set()),  # still not searched
    ("go to desk 1", set()),  # back to a searched place, and nearer to the goal
    ("move spoon 1 to desk 1", set()),
]


def test_each_fault_at_its_step(tmp_path):
    env = environment(tmp_path, kitchen(goal=put("spoon", "desk"), goal_text="put a spoon in desk."))
    found = judged(env, [command for command, _ in SCRIPT])
    for (command, expected), faults in zip(SCRIPT, found, strict=True):
        assert faults == expected, command
    assert env._won


def test_doors_and_needless_burdens_are_detours(tmp_path):
    env = environment(tmp_path, kitchen(goal=put("apple", "desk"), goal_text="put an apple in desk."))
    script = [
        ("go to fridge 1", set()),
        ("open fridge 1", set()),
        ("open fridge 1", {"invalid"}),  # it is open already
        ("close fridge 1", {"detour"}),
        ("open fridge 1", set()),
        ("take egg 1 from fridge 1", {"detour"}),
        ("move egg 1 to fridge 1", set()),
        ("take apple 1 from fridge 1", set()),
        ("go to desk 1", set()),
        ("move apple 1 to desk 1", set()),
    ]
    found = judged(env, [command for command, _ in script])
    assert [set(f) for f in found] == [expected for _, expected in script]


def test_a_dead_end_is_a_detour_and_then_nothing_is_longer(tmp_path):
    tiny = Tiny(goal=put("mug", "desk"), refuses={("desk", "plate"), ("shelf", "plate")})
    tiny = tiny.at("desk 1", 1).at("shelf 1", 2, "mug 1", "plate 1")
    env = environment(tmp_path, tiny)
    found = judged(env, ["go to shelf 1", "take plate 1 from shelf 1", "go to desk 1", "go to shelf 1"])
    assert [set(f) for f in found] == [set(), {"detour"}, set(), {"revisit"}]


def test_plans_are_found_once_per_state(tmp_path, monkeypatch):
    env = environment(tmp_path, kitchen(goal=put("spoon", "desk"), goal_text="put a spoon in desk."))
    searched = []
    plan = env_module.shortest_plan
    monkeypatch.setattr(env_module, "shortest_plan", lambda *args: searched.append(1) or plan(*args))
    commands = ["look", "go to desk 1", "look", "go to fridge 1"]
    judged(env, commands)
    assert len(searched) == 3
    judged(env, commands)
    assert len(searched) == 3
    assert env.remaining() == len(env.expert_plan())


def test_it_follows_the_protocol_and_needs_an_episode():
    env = make("alfworld")
    with pytest.raises(EnvError, match="before reset"):
        env.judge()
    env.reset(env.tasks[0])
    assert isinstance(env.judge(), Judge)
    assert "judging" in check_env(make("alfworld"))
