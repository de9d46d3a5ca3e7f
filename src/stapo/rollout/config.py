"""Settings of a rollout."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from stapo.errors import ConfigError, did_you_mean

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
    """

    groups: int = 16
    group_size: int = 8
    temperature: float = 1.0
    reward_scale: float = 10.0
    anchor: AnchorKey = "observation"
    batch_tokens: int = 16_384

    def __post_init__(self) -> None:
        for field in ("groups", "group_size", "batch_tokens"):
            if getattr(self, field) < 1:
                raise ConfigError(f"rollout.{field} is {getattr(self, field)}, expected at least 1.")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"rollout.temperature is {self.temperature}, expected a number above 0.")
        if not 0 < self.reward_scale < math.inf:
            raise ConfigError(f"rollout.reward_scale is {self.reward_scale}, expected a number above 0.")
        if self.anchor not in get_args(AnchorKey):
            raise ConfigError(
                f"rollout.anchor is '{self.anchor}', expected one of {', '.join(get_args(AnchorKey))}."
                + did_you_mean(str(self.anchor), get_args(AnchorKey))
            )
