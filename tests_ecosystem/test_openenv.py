"""OpenEnv's generic client on our server."""

from __future__ import annotations

import asyncio
import random

import pytest

pytest.importorskip("openenv.core", reason="openenv-core is in an environment of its own: make test-ecosystem")
from openenv.core import GenericEnvClient


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
