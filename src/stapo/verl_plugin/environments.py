"""Environments of one of verl's processes."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from stapo.config.run_config import RunConfig
from stapo.rollout.pools import build_pool
from stapo.verl_plugin.play import EnvCache


class Shelves:
    """One shelf of environments for each configuration that this process plays."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[RunConfig, EnvCache]] = {}

    def of(self, run: RunConfig) -> EnvCache:
        """The shelf of a configuration; with `rollout.workers` above 0 each environment has a process of its own."""
        if id(run) not in self._of:
            rollout = replace(run.rollout, workers=min(1, run.rollout.workers))
            self._of[id(run)] = run, EnvCache(lambda: build_pool(run.env.name, run.env.options, rollout))
        return self._of[id(run)][1]


@lru_cache(maxsize=1)
def shelves() -> Shelves:
    """Those of this process."""
    return Shelves()
