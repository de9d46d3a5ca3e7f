"""Settings of a rollout."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from stapo.errors import ConfigError, did_you_mean
from stapo.rollout.faults import OnFailure

AnchorKey = Literal["observation", "observation_and_admissible"]


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How many episodes an iteration plays and how.

    Attributes:
        groups: task groups per iteration.
        group_size: trajectories per group, N; all start from the same initial state.
        temperature: sampling temperature of training rollouts.
        reward_scale: environment rewards are multiplied by this; 1 and 10 are both in use in the field.
        anchor: what makes two states of one task the same. `observation` is the field's key; with
            `observation_and_admissible` the offered commands count too, which keeps "Nothing happens." in the kitchen
            apart from "Nothing happens." at the fridge.
        batch_tokens: prompt tokens generated together, padding included.
        workers: processes that play the environments; 0 plays them in this process. Workers are for environments that
            block, crash, leak or are slow: one that hangs or dies there costs one episode. Numbers do not depend on it.
        env_deadline: seconds that a worker's environment may take for one answer; then its worker is replaced.
        retries: how often an episode that failed (by its environment, say; not by its policy) is played again from the
            start in a fresh environment. The same random streams are used, so that a passing fault leaves no trace.
        on_failure: what happens when retries are used up. `shrink` leaves the episode out of its group, `drop` leaves
            its whole group out.
        max_failures: failed episodes in a row, without one that ended normally in between, that stop the run.
    """

    groups: int = 16
    group_size: int = 8
    temperature: float = 1.0
    reward_scale: float = 10.0
    anchor: AnchorKey = "observation"
    batch_tokens: int = 16_384
    workers: int = 0
    env_deadline: float = 60.0
    retries: int = 1
    on_failure: OnFailure = "shrink"
    max_failures: int = 16

    def __post_init__(self) -> None:
        for field in ("groups", "group_size", "batch_tokens", "max_failures"):
            if getattr(self, field) < 1:
                raise ConfigError(f"rollout.{field} is {getattr(self, field)}, expected at least 1.")
        for field in ("workers", "retries"):
            if getattr(self, field) < 0:
                raise ConfigError(f"rollout.{field} is {getattr(self, field)}, expected at least 0.")
        for field in ("temperature", "reward_scale", "env_deadline"):
            if not 0 < getattr(self, field) < math.inf:
                raise ConfigError(f"rollout.{field} is {getattr(self, field)}, expected a number above 0.")
        for field, values in (("anchor", get_args(AnchorKey)), ("on_failure", get_args(OnFailure))):
            if getattr(self, field) not in values:
                raise ConfigError(
                    f"rollout.{field} is '{getattr(self, field)}', expected one of {', '.join(values)}."
                    + did_you_mean(str(getattr(self, field)), values)
                )
