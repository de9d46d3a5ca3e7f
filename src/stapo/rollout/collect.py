"""Playing a batch of episodes: all that are still running generate together.

An episode that fails costs itself: it is played again from the start, and left out when that fails as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any

from stapo.agent import AgentConfig, BlindMask
from stapo.envs import Env, StepResult
from stapo.envs.guard import EnvFailure, EpisodeLost, Started
from stapo.envs.pool import EnvPool, LocalPool, about, insist
from stapo.envs.slot import About
from stapo.rollout.config import NO_LIMITS, AnchorKey, LimitsConfig, SamplingLimits
from stapo.rollout.constraints import Grammars
from stapo.rollout.encoding import Encoder
from stapo.rollout.episode import Episode
from stapo.rollout.faults import Attempts, Failure, Outcome
from stapo.rollout.kept_keys import KeepsKeys
from stapo.rollout.sampler import OwnWeights, Sample, Sampler
from stapo.rollout.types import StopReason, Trajectory

_UNKNOWN_TYPE = "unknown"


@dataclass
class RolloutTimes:
    """Seconds spent in generation and in environment, prompts and parsing."""

    generation: float = 0.0
    environment: float = 0.0


class AsksPool:
    """Asks the environments of a pool what they are, in its first slot.

    Attributes:
        pool: the environments.
        attempts: counts failures, and says what is tried again.
    """

    pool: EnvPool
    attempts: Attempts

    def tasks_of(self, split: str) -> list[str]:
        """Sorted task ids of a split.

        Raises:
            UnknownNameError: there is no such split.
            EnvError: the environment failed at it every time.
            ConfigError: or another settings error, if the environment cannot be built.
        """
        self.pool.grow(1)
        return list(insist(self.pool, 0, "tasks", split, self.attempts.retries))

    def about(self) -> About:
        """What the environment is.

        Raises:
            EnvError: it failed at the question every time.
        """
        self.pool.grow(1)
        return about(self.pool, 0, self.attempts.retries)


@dataclass(eq=False, repr=False)
class Collector(AsksPool):
    """Plays groups of episodes with one sampler.

    Args:
        envs: a pool of environments, which is kept between calls; or what builds them in this process.
        encoder: prompt text to ids and back.
        sampler: answers prompts.
        agent: prompt style, response format, memory.
        blind_mask: which part of the trajectory the blind prompt hides.
        anchor: what makes two states the same.
        reward_scale: factor on environment rewards.
        mark_parts: find the tokens of thought and action in every response; costs milliseconds a step.
        masks: further prompts to encode at every step, by what they leave out; for those who measure what it does.
        retries: how often a failed episode is played again from the start.
        max_failures: this many failed episodes in a row stop the run.
        limits: what ends an episode beside its environment; left out, nothing does.

    Raises:
        ConfigError: decoding is constrained, and the encoder is that of a model behind a server.

    Attributes:
        pool: the environments that are played.
        times: seconds spent so far.
        attempts: counts failures, and says what is tried again.
    """

    envs: InitVar[Callable[[], Env] | EnvPool]
    encoder: Encoder
    sampler: Sampler
    agent: AgentConfig
    blind_mask: BlindMask = "goal_history"
    anchor: AnchorKey = "observation"
    reward_scale: float = 1.0
    mark_parts: bool = False
    masks: Sequence[BlindMask] = ()
    retries: InitVar[int] = 1
    max_failures: InitVar[int] = 16
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    def __post_init__(self, envs: Callable[[], Env] | EnvPool, retries: int, max_failures: int) -> None:
        self.pool = LocalPool(envs) if callable(envs) else envs
        self.attempts = Attempts(retries, max_failures)
        self.times = RolloutTimes()
        self.grammars = Grammars(self.encoder, self.agent) if self.agent.constrained else None
        self._task_types: dict[str, str] = {}

    def collect(
        self,
        tasks: Sequence[str],
        group_size: int,
        temperature: float,
        stream: tuple[int, ...],
        progress: Callable[[int, int], None] | None = None,
        first_group: int = 0,
        limits: SamplingLimits = NO_LIMITS,
    ) -> list[Trajectory]:
        """Play `group_size` episodes of each task.

        Args:
            tasks: task ids, one per group.
            group_size: episodes per task, N.
            temperature: sampling temperature; 0 is greedy.
            stream: name of the random stream, e.g. (seed, iteration). Every response is drawn from the stream
                (*stream, group, member, step), so neither the order of play nor a retry matters.
            progress: called with (finished, all) episodes after every turn.
            first_group: number of the first group, where a longer list of tasks is played in parts.
            limits: which tokens may be drawn; all of them in training.

        Returns:
            trajectories ordered by group, then member. Failed ones are among them, with the stop reason "error";
            `stapo.rollout.drop_failed` takes them out.

        Raises:
            FailureLimitError: too many episodes in a row failed.
            ConfigError: or another settings error, if the environment cannot be built.
        """
        episodes = [
            self.episode(Trajectory(task, "", "", group, member))
            for group, task in enumerate(tasks, start=first_group)
            for member in range(group_size)
        ]
        self.pool.grow(len(episodes))
        self._forget()
        self._play(episodes, temperature, stream, progress or (lambda finished, total: None), limits)
        self._forget()
        trajectories = [e.trajectory for e in episodes]
        for t in trajectories:
            t.task_type = t.task_type or self._task_types.get(t.task_id, _UNKNOWN_TYPE)
        return trajectories

    def _play(
        self,
        episodes: list[Episode],
        temperature: float,
        stream: tuple[int, ...],
        progress: Callable[[int, int], None],
        limits: SamplingLimits,
    ) -> None:
        """Play the episodes to their ends, turn by turn; see `collect`."""
        starting, active = list(range(len(episodes))), list[int]()
        while starting or active:
            started = time.perf_counter()
            again = self._started(episodes, starting, self.pool.reset(tasks_of(episodes, starting)) if starting else [])
            waiting = set(again)
            active = sorted(active + [slot for slot in starting if slot not in waiting and not episodes[slot].done])
            prompted = self._prompts(episodes, active)
            asked = answered = time.perf_counter()
            if prompted:
                samples = self.ask(
                    [(episodes[slot], ids) for slot, ids in prompted],
                    [stream_of(stream, episodes[slot]) for slot, _ in prompted],
                    temperature,
                    limits,
                )
                answered = time.perf_counter()
                answers = [(slot, sample) for (slot, _), sample in zip(prompted, samples, strict=True)]
                actions, failed = self._actions(episodes, answers)
                again += failed + self._stepped(episodes, actions, self.pool.step(actions))
            starting, waiting = sorted(again), set(again)
            active = [slot for slot in active if slot not in waiting and not episodes[slot].done]
            self.times.generation += answered - asked
            self.times.environment += (asked - started) + (time.perf_counter() - answered)
            progress(len(episodes) - len(active) - len(starting), len(episodes))

    def take_failures(self) -> list[Failure]:
        """Every failure since this was last called, those cured by a retry included, in the order they were seen."""
        taken, self.attempts.failures = self.attempts.failures, []
        return taken

    def close(self) -> None:
        """Close every environment, and a sampler that holds weights of its own."""
        self.pool.close()
        if isinstance(self.sampler, OwnWeights):
            self.sampler.close()

    def _forget(self) -> None:
        if isinstance(self.sampler, KeepsKeys):
            self.sampler.forget()

    def ask(
        self,
        prompted: Sequence[tuple[Episode, list[int]]],
        streams: Sequence[tuple[int, ...]],
        temperature: float,
        limits: SamplingLimits = NO_LIMITS,
    ) -> Sequence[Sample | EnvFailure]:
        """Sample a response for each episode under its prompt; see `Sampler.sample`."""
        sample_of: Callable[..., Sequence[Sample | EnvFailure]] = self.sampler.sample
        # Samplers that know of no constraints and no limits are called as ever.
        bound: dict[str, Any] = {"limits": limits} if limits else {}
        if self.grammars is not None:
            bound["constraints"] = [episode.grammar for episode, _ in prompted]
        return sample_of([ids for _, ids in prompted], streams, temperature, **bound)

    def episode(self, trajectory: Trajectory) -> Episode:
        """An episode that is still to begin, by the settings of this collector."""
        return Episode(
            self.encoder,
            self.agent,
            trajectory,
            blind_mask=self.blind_mask,
            anchor=self.anchor,
            reward_scale=self.reward_scale,
            mark_parts=self.mark_parts,
            masks=self.masks,
            grammars=self.grammars,
            limits=self.limits,
        )

    def _prompts(self, episodes: list[Episode], slots: Sequence[int]) -> list[tuple[int, list[int]]]:
        """The slots that have a prompt, with it; the others have ended for want of one."""
        prompted: list[tuple[int, list[int]]] = []
        for slot in slots:
            ids = episodes[slot].prompt()
            if ids is None:
                self.attempts.went_well()
            else:
                prompted.append((slot, ids))
        return prompted

    def _actions(
        self, episodes: list[Episode], answers: Sequence[tuple[int, Sample | EnvFailure]]
    ) -> tuple[list[tuple[int, str]], list[int]]:
        """The actions that responses hold, and the slots that have to be begun again."""
        actions: list[tuple[int, str]] = []
        again: list[int] = []
        for slot, sample in answers:
            action = sample if isinstance(sample, EnvFailure) else episodes[slot].answer(sample)
            if not isinstance(action, EnvFailure):
                actions.append((slot, action))
            elif self._play_again(episodes, slot, action):
                again.append(slot)
        return actions, again

    def _started(
        self, episodes: list[Episode], slots: Sequence[int], outs: Sequence[Started | EnvFailure | EpisodeLost]
    ) -> list[int]:
        """Take in what became of the starts; returns the slots that have to be begun again."""
        again: list[int] = []
        for slot, out in zip(slots, outs, strict=True):
            if isinstance(out, Started):
                trajectory = episodes[slot].trajectory
                trajectory.task_type = self._task_types[trajectory.task_id] = out.task_type
                episodes[slot].begin(out.observation, out.shapes)
            elif self._play_again(episodes, slot, out):
                again.append(slot)
        return again

    def _stepped(
        self,
        episodes: list[Episode],
        actions: Sequence[tuple[int, str]],
        outs: Sequence[StepResult | EnvFailure | EpisodeLost],
    ) -> list[int]:
        """Take in what became of the actions; returns the slots that have to be begun again."""
        again: list[int] = []
        for (slot, _), out in zip(actions, outs, strict=True):
            if isinstance(out, StepResult):
                episodes[slot].observe(out)
                if episodes[slot].done:
                    self.attempts.went_well()
            elif self._play_again(episodes, slot, out):
                again.append(slot)
        return again

    def _play_again(self, episodes: list[Episode], slot: int, out: EnvFailure | EpisodeLost) -> bool:
        """Prepare an episode that failed to be played again, or end it where its retries are used up.

        Raises:
            FailureLimitError: it ends, and is one too many.
        """
        episode = episodes[slot]
        old = episode.trajectory
        retried, attempt = True, old.attempts
        if isinstance(out, EnvFailure):
            failure = self.attempts.note(out, old.task_id, old.group, old.member, len(old.steps), attempt)
            retried, attempt = failure.outcome is Outcome.RETRIED, attempt + 1
            if failure.taints_environment:
                self.pool.discard(slot)
            if not retried:
                old.failure, old.stop_reason, episode.done = failure, StopReason.ERROR, True
                self.attempts.give_up(failure, out)
        if retried:
            fresh = Trajectory(old.task_id, old.task_type, "", old.group, old.member, attempts=attempt)
            episodes[slot] = self.episode(fresh)
        return retried


def stream_of(stream: tuple[int, ...], episode: Episode) -> tuple[int, ...]:
    """Name of the random stream of an episode's next response."""
    t = episode.trajectory
    return (*stream, t.group, t.member, len(t.steps))


def tasks_of(episodes: list[Episode], slots: Sequence[int]) -> list[tuple[int, str]]:
    """Slots with the tasks that their episodes play."""
    return [(slot, episodes[slot].trajectory.task_id) for slot in slots]
