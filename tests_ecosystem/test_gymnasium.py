"""Gymnasium's own checker on our environments, and Gymnasium's environments under our protocol."""

from __future__ import annotations

import random
import warnings

import pytest

import stapo
from stapo.envs.registry import make
from stapo.errors import ConfigError, EnvError, UnknownNameError

gymnasium = pytest.importorskip("gymnasium")
from gymnasium import spaces  # noqa: E402
from gymnasium.utils.env_checker import check_env  # noqa: E402

import stapo.gym  # noqa: E402

OURS = {
    "alfworld": {"scenes": "tiny", "games_per_type": 20},
    "search": {},
    "sokoban": {"levels": 40},
    "webshop": {"size": "tiny", "catalog_products": 20},
}


@pytest.fixture(autouse=True)
def strict():
    """A warning of the checker is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*not able to test alternative render modes.*")
        warnings.filterwarnings("ignore", message=".*Not able to test alternative render modes.*")
        yield


@pytest.mark.parametrize("name", OURS)
def test_our_environments_pass_the_checker_of_gymnasium(name):
    check_env(stapo.gym.make(name, **OURS[name]))
    env = gymnasium.make(f"stapo.gym:stapo/{name}-v0", render_mode="ansi", **OURS[name])
    check_env(env.unwrapped)
    env.reset(seed=0)
    assert env.render()


def test_ends_by_the_world_and_by_the_limit_are_told_apart():
    env = stapo.gym.make("sokoban", split="heldout", levels=40, max_steps=9)
    _, info = env.reset(seed=1)
    assert info["task_id"] == "heldout/000001"
    for move in env.env.expert_plan():
        seen, reward, terminated, truncated, info = env.step(move)
    assert (terminated, truncated, info["won"], reward) == (True, False, True, pytest.approx(10.9))
    assert isinstance(seen, str)
    with pytest.raises(EnvError):
        env.step("up")
    _, info = env.reset(options={"task_id": "train/000003"})
    assert (info["task_id"], info["admissible_commands"]) == ("train/000003", ["down", "left", "right", "up"])
    for _ in range(9):
        *_, terminated, truncated, info = env.step("nothing")
    assert (terminated, truncated, info["won"], "truncated" in info) == (False, True, False, False)


def test_one_seed_is_one_task():
    env, other = (stapo.gym.make("sokoban", levels=40) for _ in range(2))
    assert env.reset(seed=43)[1]["task_id"] == other.reset(seed=43)[1]["task_id"] == "train/000003"
    drawn = [env.reset()[1]["task_id"] for _ in range(8)]
    assert drawn == [other.reset()[1]["task_id"] for _ in range(8)]
    assert len(set(drawn)) > 3
    with pytest.raises(UnknownNameError, match=r"unknown option of reset 'tsk_id'. Did you mean 'task_id'"):
        env.reset(options={"tsk_id": "x"})
    with pytest.raises(UnknownNameError, match="unknown split 'trian'"):
        stapo.gym.make("sokoban", split="trian")
    with pytest.raises(ConfigError, match="render_mode is 'human'"):
        stapo.gym.make("sokoban", render_mode="human")


def test_vector_environments():
    envs = gymnasium.vector.SyncVectorEnv([lambda: stapo.gym.make("sokoban", levels=40)] * 3)
    seen, _ = envs.reset(seed=[5, 5, 6])
    assert seen[0] == seen[1] != seen[2]
    assert envs.step(["nothing"] * 3)[1].tolist() == [-0.1] * 3


FROZEN = {"id": "FrozenLake-v1", "kwargs": {"is_slippery": False}, "actions": "left, down, right, up"}


@pytest.mark.parametrize("options", [
    FROZEN, {"id": "FrozenLake-v1"}, {"id": "stapo/alfworld-v0", "kwargs": OURS["alfworld"]},
    {"id": "stapo/sokoban-v0", "kwargs": {"levels": 40, "split": "heldout"}, "max_steps": 7},
])  # fmt: skip
def test_their_environments_follow_our_protocol(options):
    passed = stapo.check_env(make("gymnasium", **options))
    assert {"same actions, same episode", "episodes end", "the goal is hidden"} <= set(passed)


def test_a_finite_number_of_actions_has_names():
    env = make("gymnasium", **FROZEN, goal="Reach G.", max_steps=9)
    first = env.reset("train/000000")
    assert (first.text, first.goal) == ("[S]FFF\nFHFH\nFFFH\nHFFG", "Reach G.")
    assert first.admissible == ["down", "left", "right", "up"]
    nothing = env.step("jump")
    assert (nothing.text, nothing.info) == (first.text, {"truncated": False, "effect": False})
    for move in ("down", "DOWN", "right", "down", "right", " right "):
        out = env.step(move)
    assert (out.reward, out.won, out.done) == (1.0, True, True)


def test_a_goal_in_the_text_is_hidden_from_blind_prompts():
    env = make("gymnasium", id="stapo/alfworld-v0", kwargs=OURS["alfworld"])
    first = env.reset("train/000007")
    assert first.goal in first.text
    assert first.goal not in first.blind_text
    assert first.admissible


def test_an_episode_is_the_same_through_gymnasium():
    """Ours, by Gymnasium, as ours again."""
    around, own = make("gymnasium", id="stapo/sokoban-v0", kwargs={"levels": 40}), make("sokoban", levels=40)
    for number in range(10):
        task = f"train/{number:06d}"
        assert around.reset(task).text == own.reset(task).text
        rng, done = random.Random(number), False
        while not done:
            move = rng.choice(("up", "down", "left", "right"))
            expected, got = own.step(move), around.step(move)
            done = expected.done
            assert (got.text, got.reward, got.done, got.won) == (
                expected.text, expected.reward, expected.done, expected.won,
            )  # fmt: skip
            assert got.info["truncated"] == expected.info["truncated"]


@pytest.mark.parametrize("options, said", [
    ({"id": "CartPole-v1"}, "cannot render text; expected texts, a text_field"),
    ({"id": "Nowhere-v1"}, "Gymnasium cannot make 'Nowhere-v1'"),
    ({"id": ""}, "expected the name of an environment of Gymnasium"),
    ({"id": "FrozenLake-v1", "actions": "a,b"}, "actions has 2 names, expected 4 different ones"),
    ({"id": "FrozenLake-v1", "text_field": "x"}, "text_field is 'x', but the observations"),
    ({"id": "stapo/sokoban-v0", "actions": "up"}, "this environment takes any text; leave them out"),
    ({"id": "FrozenLake-v1", "goal": " "}, "goal is ' ', expected the task in a sentence"),
    ({"id": "FrozenLake-v1", "tasks": 0}, "tasks is 0, expected a whole number from 1 to"),
    ({"id": "FrozenLake-v1", "kwargs": "x"}, "kwargs is 'x', expected a mapping of options of FrozenLake-v1"),
    ({"id": "FrozenLake-v1", "kwargs": {3: 4}}, "expected a mapping of options"),
    ({"id": "FrozenLake-v1", "actions": 4}, "actions is 4, expected their names"),
    ({"id": "Careless-v0", "text_field": "number"}, "'number' of Careless-v0 is Discrete(3), expected a text"),
])  # fmt: skip
def test_what_cannot_be_played_is_said(options, said):
    with pytest.raises(ConfigError) as caught:
        make("gymnasium", **options)
    assert said in str(caught.value)


class Careless(gymnasium.Env):
    """Returns something else than it says."""

    observation_space = spaces.Dict({"text": spaces.Text(9), "number": spaces.Discrete(3)})
    action_space = spaces.Text(9)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"text": "a room", "number": 1}, {}

    def step(self, action):
        seen = {"text": None} if action == "none" else None
        return ("x", 1) if action == "two" else (seen, 0.0, False, False, {})


gymnasium.register("Careless-v0", entry_point=Careless, disable_env_checker=True, order_enforce=False)


@pytest.mark.parametrize("action, said", [
    ("none", "Careless-v0 returned None, expected a text"),
    ("two", "step() returned ('x', 1), expected (observation, reward, terminated, truncated, info)"),
    ("other", "Careless-v0 returned None, expected a text"),
])  # fmt: skip
def test_what_is_returned_instead_of_a_text_is_said(action, said):
    env = make("gymnasium", id="Careless-v0", text_field="text")
    assert env.reset("train/000000").text == "a room"
    with pytest.raises(EnvError) as caught:
        env.step(action)
    assert said in str(caught.value)
