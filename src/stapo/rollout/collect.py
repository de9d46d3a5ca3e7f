"""Playing a batch of episodes: all that are still running generate together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stapo.agent import AgentConfig, BlindMask
from stapo.envs import Env
from stapo.rollout.config import AnchorKey
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.episode import Episode
from stapo.rollout.sampler import Sampler
from stapo.rollout.types import Trajectory


@dataclass
class RolloutTimes:
    """Seconds spent in generation and in environment, prompts and parsing."""

    generation: float = 0.0
    environment: float = 0.0


@dataclass
class Collector:
    """Plays groups of episodes with one sampler.

    Attributes:
        make_env: builds a fresh environment; instances are kept and reused between calls.
        encoder: prompt text to ids and back.
        sampler: answers prompts.
        agent: prompt style, response format, memory.
        blind_mask: which part of the trajectory the blind prompt hides.
        anchor: what makes two states the same.
        reward_scale: factor on environment rewards.
        mark_parts: find the tokens of thought and action in every response; costs milliseconds a step.
        times: seconds spent so far.
    """

    make_env: Callable[[], Env]
    encoder: PromptEncoder
    sampler: Sampler
    agent: AgentConfig
    blind_mask: BlindMask = "goal_history"
    anchor: AnchorKey = "observation"
    reward_scale: float = 1.0
    mark_parts: bool = False
    times: RolloutTimes = field(default_factory=RolloutTimes)
    _envs: list[Env] = field(default_factory=list)

    def collect(
        self,
        tasks: Sequence[str],
        group_size: int,
        temperature: float,
        stream: tuple[int, ...],
        progress: Callable[[int, int], None] | None = None,
        first_group: int = 0,
    ) -> list[Trajectory]:
        """Play `group_size` episodes of each task.

        Args:
            tasks: task ids, one per group.
            group_size: episodes per task, N.
            temperature: sampling temperature; 0 is greedy.
            stream: name of the random stream, e.g. (seed, iteration). Every response is drawn from the stream
                (*stream, group, member, step), so the order of play does not matter.
            progress: called with (finished, all) episodes after every turn.
            first_group: number of the first group, where a longer list of tasks is played in parts.

        Returns:
            trajectories ordered by group, then member.
        """
        started = time.perf_counter()
        while len(self._envs) < len(tasks) * group_size:
            self._envs.append(self.make_env())
        episodes: list[Episode] = []
        for group, task in enumerate(tasks, start=first_group):
            for member in range(group_size):
                env = self._envs[len(episodes)]
                trajectory = Trajectory(task, env.task_type(task), "", group, member)
                episodes.append(
                    Episode(
                        env,
                        self.encoder,
                        self.agent,
                        trajectory,
                        blind_mask=self.blind_mask,
                        anchor=self.anchor,
                        reward_scale=self.reward_scale,
                        mark_parts=self.mark_parts,
                    )
                )
        self.times.environment += time.perf_counter() - started
        active = episodes
        while active:
            started = time.perf_counter()
            prompted = [(e, ids) for e in active if (ids := e.prompt()) is not None]
            asked = time.perf_counter()
            samples = self.sampler.sample(
                [ids for _, ids in prompted],
                [(*stream, e.trajectory.group, e.trajectory.member, len(e.trajectory.steps)) for e, _ in prompted],
                temperature,
            )
            answered = time.perf_counter()
            for (episode, _), sample in zip(prompted, samples, strict=True):
                episode.act(sample)
            active = [e for e in active if not e.done]
            self.times.generation += answered - asked
            self.times.environment += (asked - started) + (time.perf_counter() - answered)
            if progress is not None:
                progress(len(episodes) - len(active), len(episodes))
        return [e.trajectory for e in episodes]

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()
        self._envs.clear()
