"""Playing a batch of episodes without turns: each goes on as soon as its own response is there.

In turns, all episodes wait for the longest response of the turn, and the sampler's batch runs empty meanwhile. Here
the environment of a finished response takes its step, and the next prompt joins the batch, while others are generated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from stapo.envs import StepResult
from stapo.envs.guard import EnvFailure, EpisodeLost, Started
from stapo.envs.pool import EnvPool, LocalPool
from stapo.rollout.collect import Collector, stream_of, tasks_of
from stapo.rollout.config import SamplingLimits
from stapo.rollout.episode import Episode
from stapo.rollout.sampler import ContinuousSampler

_Actions = Sequence[tuple[int, str]]
_Outs = tuple[list[Started | EnvFailure | EpisodeLost], list[StepResult | EnvFailure | EpisodeLost]]


class ContinuousCollector(Collector):
    """Plays groups of episodes with a sampler that takes prompts while it answers others.

    Environments in worker processes step while responses are generated; those in this process step in between. With
    workers the clock decides which prompts are answered together, which changes the numbers by rounding.
    """

    def _play(
        self,
        episodes: list[Episode],
        temperature: float,
        stream: tuple[int, ...],
        progress: Callable[[int, int], None],
        limits: SamplingLimits,
    ) -> None:
        sampler = self.sampler
        assert isinstance(sampler, ContinuousSampler)
        starting, actions = list(range(len(episodes))), list[tuple[int, str]]()
        answering = 0
        began, generating = time.perf_counter(), 0.0
        environments = _Environments(self.pool)
        try:
            while starting or actions or answering or environments.busy:
                if (starting or actions) and not environments.busy:
                    environments.ask(tasks_of(episodes, sorted(starting)), actions)
                    starting, actions = [], []
                if environments.busy and (environments.ready or not answering):
                    asked, taken, (starts, steps) = environments.answers()
                    slots = [slot for slot, _ in asked]
                    again = self._started(episodes, slots, starts) + self._stepped(episodes, taken, steps)
                    starting += again
                    going = sorted({*slots, *(slot for slot, _ in taken)} - set(again))
                    for slot, ids in self._prompts(episodes, [slot for slot in going if not episodes[slot].done]):
                        sampler.put(slot, ids, stream_of(stream, episodes[slot]), temperature, limits)
                        answering += 1
                    progress(sum(episode.done for episode in episodes), len(episodes))
                if answering:
                    at = time.perf_counter()
                    answers = sampler.advance()
                    generating += time.perf_counter() - at
                    answering -= len(answers)
                    acted, again = self._actions(episodes, answers)
                    actions += acted
                    starting += again
        finally:
            environments.close()
            sampler.abandon()
            self.times.generation += generating
            self.times.environment += time.perf_counter() - began - generating


class _Environments:
    """One batch of requests to a pool at a time, in a thread of its own where its environments are elsewhere.

    Attributes:
        busy: whether a batch has been asked for and its answers have not been taken.
    """

    def __init__(self, pool: EnvPool) -> None:
        self._pool = pool
        # Environments in this process may change what belongs to the whole of it: they have it to themselves.
        self._beside = None if isinstance(pool, LocalPool) else ThreadPoolExecutor(1, "stapo-environments")
        self._asked: tuple[_Actions, _Actions] = [], []
        self._outs: Future[_Outs] | None = None

    @property
    def busy(self) -> bool:
        return self._outs is not None

    @property
    def ready(self) -> bool:
        """Whether the answers are there."""
        return self._outs is not None and self._outs.done()

    def ask(self, starts: _Actions, actions: _Actions) -> None:
        """Ask for starts (slot and task) and steps (slot and action)."""
        self._asked = starts, actions
        if self._beside is not None:
            self._outs = self._beside.submit(self._exchange, starts, actions)
        else:
            self._outs = Future()
            self._outs.set_result(self._exchange(starts, actions))

    def answers(self) -> tuple[_Actions, _Actions, _Outs]:
        """What was asked, and what became of it; waits for that."""
        assert self._outs is not None
        outs = self._outs.result()
        self._outs = None
        return *self._asked, outs

    def close(self) -> None:
        """Wait for what is still asked: calls have deadlines, and nobody else may use the pool before."""
        if self._beside is not None:
            self._beside.shutdown(wait=True)

    def _exchange(self, starts: _Actions, actions: _Actions) -> _Outs:
        return self._pool.reset(starts) if starts else [], self._pool.step(actions) if actions else []
