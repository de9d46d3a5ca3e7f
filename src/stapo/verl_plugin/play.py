"""One episode at a time, with a sampler that is awaited: what verl's agent loop runs in each of its tasks.

The episode itself is `stapo.rollout.episode.Episode`, so prompts, memory, parsing and rows are those of the embedded
engine. Only who asks whom differs.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import lru_cache

from stapo.config.run_config import RunConfig
from stapo.envs import StepResult
from stapo.envs.guard import EnvFailure, EpisodeLost, Started
from stapo.envs.pool import EnvPool
from stapo.envs.worker_pool import build_pool
from stapo.rollout import StopReason, Trajectory
from stapo.rollout.episode import Episode
from stapo.rollout.faults import Attempts, Outcome
from stapo.rollout.sampler import Sample

Generate = Callable[[list[int]], Awaitable[Sample]]
"""Answers one prompt."""


class EnvCache:
    """Environments of one process that wait for their next episode, each in a pool with one slot."""

    def __init__(self, build: Callable[[], EnvPool]) -> None:
        self.build = build
        self._idle: list[EnvPool] = []

    def take(self) -> EnvPool:
        """Hand out a pool that nobody else has."""
        if self._idle:
            return self._idle.pop()
        pool = self.build()
        pool.grow(1)
        return pool

    def put_back(self, pool: EnvPool) -> None:
        """Take a pool back."""
        self._idle.append(pool)


async def play_episode(
    make_episode: Callable[[Trajectory], Episode],
    pool: EnvPool,
    generate: Generate,
    start: Trajectory,
    *,
    retries: int,
) -> Trajectory:
    """Play one task to its end; an episode that fails is played again from the start.

    Environments are called in threads, so that one that waits for a search engine does not hold up the others.

    Args:
        make_episode: builds the episode that a fresh trajectory grows in.
        pool: one slot with an environment.
        generate: answers a prompt.
        start: names the task, group and member; stays as it is.
        retries: how often a failed episode is played again.

    Returns:
        the finished trajectory; of one that failed for good the steps before the failure, with the stop reason "error".

    Raises:
        ConfigError: or another settings error, if the environment cannot be built.
    """
    # verl plays episodes side by side, so none fails "in a row".
    attempts, attempt = Attempts(retries, sys.maxsize), 1
    while True:
        trajectory = Trajectory(start.task_id, start.task_type, "", start.group, start.member, attempts=attempt)
        out = await _attempt(make_episode(trajectory), pool, generate)
        if out is None:
            return trajectory
        failure = attempts.note(out, start.task_id, start.group, start.member, len(trajectory.steps), attempt)
        if failure.taints_environment:
            pool.discard(0)
        if failure.outcome is Outcome.LEFT_OUT:
            trajectory.failure, trajectory.stop_reason = failure, StopReason.ERROR
            return trajectory
        attempt += 1


async def _attempt(episode: Episode, pool: EnvPool, generate: Generate) -> EnvFailure | EpisodeLost | None:
    task = episode.trajectory.task_id
    started = (await asyncio.to_thread(pool.reset, [(0, task)]))[0]
    if not isinstance(started, Started):
        return started
    episode.trajectory.task_type = started.task_type
    episode.begin(started.observation, started.shapes)
    while not episode.done:
        ids = episode.prompt()
        if ids is None:
            break
        action = episode.answer(await generate(ids))
        if isinstance(action, EnvFailure):
            return action
        out = (await asyncio.to_thread(pool.step, [(0, action)]))[0]
        if not isinstance(out, StepResult):
            return out
        episode.observe(out)
    return None


class EnvCaches:
    """A cache of environments for each configuration that this process plays."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[RunConfig, EnvCache]] = {}

    def of(self, run: RunConfig) -> EnvCache:
        """The cache of a configuration; with `rollout.workers` above 0 each environment has a process of its own."""
        if id(run) not in self._of:
            name, options, workers = run.env.name, run.env.options, min(1, run.rollout.workers)
            deadline = run.rollout.env_deadline
            self._of[id(run)] = run, EnvCache(lambda: build_pool(name, options, workers, deadline))
        return self._of[id(run)][1]


@lru_cache(maxsize=1)
def env_caches() -> EnvCaches:
    """Those of this process."""
    return EnvCaches()
