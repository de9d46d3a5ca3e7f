"""Episodes that are awaited: the same rows as the collector's, retries, and what an episode that fails leaves."""

from __future__ import annotations

import asyncio

import pytest

from stapo.agent import AgentConfig
from stapo.envs.pool import LocalPool
from stapo.rollout import StopReason, Trajectory
from stapo.rollout.collect import Collector
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.episode import Episode
from stapo.rollout.faults import Boundary
from stapo.rollout.sampler import HFSampler, Sample
from stapo.verl_plugin.play import EnvCache, play_episode
from toy_world import ToyEnv, small_policy

AGENT = AgentConfig(prompt="compact", response="action", history_length=1, max_prompt_tokens=200, max_response_tokens=6)
STREAM = (0, 1, 1)


@pytest.fixture(scope="module")
def policy():
    return small_policy()


def play(policy, generate, make_env=ToyEnv, retries=1):
    encoder, pool = PromptEncoder(policy.tokenizer), LocalPool(make_env)
    pool.grow(1)

    def begin(trajectory: Trajectory) -> Episode:
        return Episode(encoder, AGENT, trajectory, blind_mask="goal_history", anchor="observation", reward_scale=10.0)

    start = Trajectory("toy/train/red", "", "", 0, 0)
    return asyncio.run(play_episode(begin, pool, generate, start, retries=retries))


def test_same_episode_as_the_collector(policy):
    sampler = HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, 6)
    steps = iter(range(3))

    async def generate(ids):
        return sampler.sample([ids], [(*STREAM, 0, 0, next(steps))], 1.0)[0]

    collector = Collector(ToyEnv, PromptEncoder(policy.tokenizer), sampler, AGENT, reward_scale=10.0)
    (wanted,) = collector.collect(["toy/train/red"], 1, 1.0, STREAM)
    assert play(policy, generate) == wanted


class BrokenOnce(ToyEnv):
    broken = 1

    def step(self, action):
        if type(self).broken:
            type(self).broken -= 1
            raise RuntimeError("out of order")
        return super().step(action)


async def same_answer(ids):
    return Sample([5, 6], [-1.0, -1.0], [0.5, 0.5], True)


def test_a_failed_episode_is_played_again(policy):
    BrokenOnce.broken = 1
    played = play(policy, same_answer, BrokenOnce)
    assert (played.attempts, played.failure, len(played.steps)) == (2, None, 3)


def test_what_fails_for_good(policy):
    BrokenOnce.broken = 9
    played = play(policy, same_answer, BrokenOnce, retries=2)
    assert played.stop_reason is StopReason.ERROR
    assert played.failure is not None
    assert (played.failure.boundary, played.failure.attempt) == (Boundary.ENVIRONMENT, 3)
    assert "out of order" in played.failure.error


def test_a_server_that_answers_with_nothing(policy):
    async def nothing(ids):
        return Sample([], [], [], False)

    played = play(policy, nothing, retries=0)
    assert played.failure is not None
    assert played.failure.boundary is Boundary.MODEL


def test_the_cache_hands_out_each_environment_once():
    built = []

    def build():
        built.append(LocalPool(ToyEnv))
        return built[-1]

    cache = EnvCache(build)
    one, two = cache.take(), cache.take()
    assert one is not two
    cache.put_back(one)
    assert cache.take() is one
    assert len(built) == 2
