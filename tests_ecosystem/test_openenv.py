"""OpenEnv's generic client on our server, and our environment on a server of OpenEnv's package."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading

import pytest

import stapo
from stapo.envs.registry import make
from stapo.errors import EnvServerError

pytest.importorskip("openenv.core", reason="openenv-core is in an environment of its own: make test-ecosystem")
import uvicorn
from openenv.core import GenericEnvClient
from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app

from toy_world import small_policy, toy_settings


async def played(address, seed, least, command_of):
    """Plays whole episodes until there were so many steps; returns steps, episodes that were won, and all rewards."""
    rng, steps, won, rewards = random.Random(seed), 0, 0, []
    async with GenericEnvClient(base_url=f"http://{address}") as env:
        while steps < least:
            result = await env.reset(seed=seed)
            before = 0
            while not result.done:
                result = await env.step({"command": command_of(rng, result.observation)})
                rewards.append(result.reward)
                before += 1
            state = await env.state()
            assert (state["step_count"], state["done"]) == (before, True)
            steps, won = steps + before, won + result.observation["won"]
    return steps, won, rewards


def offered(rng, observation):
    return rng.choice(observation["admissible"])


@pytest.mark.parametrize("argv", [
    ("alfworld", "--env.scenes", "tiny", "--env.games_per_type", "8"),
    ("webshop", "--env.size", "tiny", "--env.catalog_products", "20"),
    ("sokoban", "--env.levels", "80"),
])  # fmt: skip
def test_sixty_four_sessions_play_whole_episodes_at_once(served, argv):
    address = served(*argv)

    async def all_of_them():
        def command(rng, observation):
            chosen = offered(rng, observation)
            return "search[mug]" if "<" in chosen else chosen

        return await asyncio.gather(*(played(address, seed, 10, command) for seed in range(64)))

    found = asyncio.run(all_of_them())
    assert sum(steps for steps, _, _ in found) >= 640


def test_a_group_plays_the_same_task(served):
    address = served("sokoban", "--env.levels", "80")

    async def group():
        return await asyncio.gather(*(played(address, 3, 1, lambda rng, seen: "nothing") for _ in range(8)))

    assert asyncio.run(group()) == [(15, 0, [-0.1] * 15)] * 8


# -- a server of theirs, and our environment around it -----------------------------------------------------------------


class Guess(Action):
    guess: str


class Hint(Observation):
    text: str
    admissible: list[str]


class Guessing(Environment):
    """Find the number that the seed has chosen."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self):
        super().__init__()
        self.secret, self.steps = 0, 0

    def reset(self, seed=None, episode_id=None, **more):
        self.secret, self.steps = random.Random(seed).randrange(5), 0
        return Hint(text="Which number?", admissible=[str(number) for number in range(5)])

    def step(self, action, timeout_s=None, **more):
        self.steps += 1
        won = action.guess.strip() == str(self.secret)
        text = "That is it." if won else f"Not {action.guess[:20]}."
        return Hint(text=text, admissible=[str(number) for number in range(5)], reward=float(won), done=won)

    @property
    def state(self):
        return State(step_count=self.steps)


@pytest.fixture
def theirs():
    """The address of a server made with OpenEnv's package."""
    app = create_fastapi_app(Guessing, Guess, Hint, max_concurrent_envs=64)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="websockets-sansio"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(60)


def test_their_server_under_our_protocol(theirs):
    options = {"url": theirs, "action_field": "guess", "goal": "Find the number.", "max_steps": 6}
    assert "same actions, same episode" in stapo.check_env(make("openenv", **options))
    env = make("openenv", **options)
    first = env.reset("train/000003")
    assert (first.text, first.goal) == ("Which number?", "Find the number.")
    assert first.admissible == ["0", "1", "2", "3", "4"]
    won = [env.reset("train/000003") and env.step(str(number)).won for number in range(5)]
    assert sum(won) == 1
    wrong = make("openenv", url=theirs, action_field="gess")
    wrong.reset("train/000000")
    with pytest.raises(EnvServerError, match="VALIDATION_ERROR"):
        wrong.step("1")


def test_a_run_trains_on_their_server(theirs, tmp_path):
    small_policy().save(tmp_path / "model")
    changes = {"optim__iterations": 2, "eval__episodes": 4, "agent__history_length": 0, "rollout__group_size": 8}
    options = {"url": theirs, "action_field": "guess", "goal": "Find the number.", "max_steps": 4}
    settings = {**toy_settings(tmp_path / "model", **changes), "env": {"name": "openenv", "options": options}}
    stapo.train(settings, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2]
    assert not (tmp_path / "run" / "failures.jsonl").exists() or not (tmp_path / "run" / "failures.jsonl").read_text()
