"""Which pool of environments a rollout uses."""

from __future__ import annotations

from functools import partial
from typing import Any

from stapo.envs import make
from stapo.envs.pool import EnvPool, LocalPool
from stapo.envs.worker_pool import WorkerPool
from stapo.rollout.config import RolloutConfig


def build_pool(name: str, options: dict[str, Any], rollout: RolloutConfig) -> EnvPool:
    """The pool that the settings of a rollout ask for.

    Args:
        name: a registered environment.
        options: its keyword arguments.
        rollout: `workers` and `env_deadline` count here.

    Raises:
        UnknownNameError: no environment has this name.
        ConfigError: an environment or options that cannot be handed to a worker.
    """
    if rollout.workers == 0:
        return LocalPool(partial(make, name, **options), name)
    return WorkerPool(name, options, rollout.workers, rollout.env_deadline)
