"""Who plays in the configured environment: any sampler, with the settings of a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from stapo.envs import Env, make
from stapo.rollout.collect import Collector
from stapo.rollout.encoding import Encoder
from stapo.rollout.pools import build_pool
from stapo.rollout.sampler import Sampler
from stapo.train.run_config import RunConfig


def env_factory(config: RunConfig) -> Callable[[], Env]:
    """Return a function that builds the configured environment."""
    return partial(make, config.env.name, **config.env.options)


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
    return Collector(
        make_env=env_factory(config),
        encoder=encoder,
        sampler=sampler,
        agent=config.agent,
        blind_mask=config.algorithm.selective.blind_mask,
        anchor=config.rollout.anchor,
        reward_scale=config.rollout.reward_scale,
        mark_parts=config.algorithm.outlier.tokens != "response",
        pool=build_pool(config.env.name, config.env.options, config.rollout),
        retries=config.rollout.retries,
        max_failures=config.rollout.max_failures,
    )
