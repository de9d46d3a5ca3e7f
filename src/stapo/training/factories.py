"""Who plays in the configured environment: any sampler, with the settings of a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from stapo.config.environment import environments_of
from stapo.config.run_config import RunConfig
from stapo.envs import Env, make
from stapo.envs.worker_pool import build_pool
from stapo.rollout.collect import AsksPool, Collector
from stapo.rollout.continuous import ContinuousCollector
from stapo.rollout.encoding import Encoder
from stapo.rollout.faults import Attempts
from stapo.rollout.sampler import ContinuousSampler, Sampler


def env_factory(config: RunConfig) -> Callable[[], Env]:
    """Return a function that builds the configured environment."""
    return partial(make, config.env.name, **config.env.options)


def tasks_of_split(config: RunConfig, split: str) -> list[str]:
    """Task ids of a split of the configured environment, which is built for the question and closed."""
    env = env_factory(config)()
    try:
        return list(env.tasks_of(split))
    finally:
        env.close()


class RunEnv(AsksPool):
    """The environment of a run, asked about its tasks and for demonstrations: in a worker where rollouts have workers.

    Args:
        config: of the run.

    Attributes:
        config: of the run.
        pool: two slots, one for questions, and `PLAYED` for what is played before there is a policy.
        attempts: what failed there.

    Raises:
        UnknownNameError: no environment has the configured name.
        ConfigError: options that the environment does not have.
    """

    PLAYED = 1

    def __init__(self, config: RunConfig) -> None:
        rollout, workers = config.rollout, min(1, config.rollout.workers)
        self.config = config
        self.name = config.env.name
        self.in_worker = workers > 0
        self.pool = build_pool(config.env.name, config.env.options, workers, rollout.env_deadline)
        self.attempts = Attempts(rollout.retries, rollout.max_failures)

    def rest(self) -> None:
        """End a worker that is not needed for now; in this process the environment stays, for the games it has read."""
        if self.in_worker:
            self.pool.close()

    def close(self) -> None:
        """Close the environment."""
        self.pool.close()


class RunEnvs:
    """The environments of a run, each with the settings that are its own.

    Args:
        config: of the run.

    Attributes:
        envs: each by what it is called in the run.

    Raises:
        UnknownNameError, ConfigError: as `RunEnv` does.
    """

    def __init__(self, config: RunConfig) -> None:
        self.envs = {label: RunEnv(own) for label, own in environments_of(config).items()}
        self._several = bool(config.envs)

    def scores(self) -> bool:
        """Whether evaluations have a `task_score`: those of several environments have none in common.

        Raises:
            EnvError: the environment failed at the question every time.
        """
        return not self._several and all(env.about().scores for env in self.envs.values())

    def trained(self, config: RunConfig) -> dict[str, RunEnv]:
        """Those that are trained on."""
        weights = {label: entry.weight for label, entry in config.envs.items()}
        return {label: env for label, env in self.envs.items() if weights.get(label, 1.0)}

    def rest(self) -> None:
        """See `RunEnv.rest`."""
        for env in self.envs.values():
            env.rest()

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs.values():
            env.close()


def collector_of(config: RunConfig, encoder: Encoder, sampler: Sampler) -> Collector:
    """A collector that lets `sampler` play as the settings of a run say.

    Args:
        config: of the run.
        encoder: between prompts and what the sampler is given.
        sampler: answers prompts.

    Raises:
        UnknownNameError: no environment has the configured name.
        ConfigError: options that the environment does not have.
    """
    continuous = config.rollout.vllm.continuous and isinstance(sampler, ContinuousSampler)
    return (ContinuousCollector if continuous else Collector)(
        encoder=encoder,
        sampler=sampler,
        agent=config.agent,
        blind_mask=config.algorithm.selective.blind_mask,
        anchor=config.rollout.anchor,
        reward_scale=config.rollout.reward_scale,
        mark_parts=config.algorithm.outlier.tokens != "response",
        envs=build_pool(config.env.name, config.env.options, config.rollout.workers, config.rollout.env_deadline),
        retries=config.rollout.retries,
        max_failures=config.rollout.max_failures,
        limits=config.rollout.limits,
    )
