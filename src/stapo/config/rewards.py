"""Settings of named rewards."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import get_args

from stapo.algo.rewards import RewardNorm
from stapo.checks import check_choice, check_number
from stapo.documents import shown
from stapo.errors import ConfigError, did_you_mean

ENV = "env"
COSTS = ("tokens", "turns")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
_TARGET = re.compile(r"(?:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*|[^\n:]+\.py):[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, kw_only=True)
class RewardsConfig:
    """What training rewards: named rewards, their weights, and how they are put together.

    Attributes:
        weights: weight of each reward by name, as a mapping. `env` is the environment's own (1 unless given), `tokens`
            and `turns` cost the sampled tokens and the steps of an episode, times the share of its group that was won;
            other names are those of `functions` and what the environment pays under `info["rewards"]`. Weight 0
            measures a reward. All are in the environment's unit: `rollout.reward_scale` multiplies them.
        functions: reward functions of yours by the reward's name, as a mapping: `module:function` or
            `FILE.py:function`. Training imports and calls them with your rights; nothing else does.
        per_step: names of those functions that are called for each step, as `f(step, trajectory)`. All others are
            called once per episode, as `f(trajectory)`, and pay at its last step.
        normalize: `sum` adds the weighted rewards before advantages are normalized; `each` normalizes every reward
            apart, then adds, then divides by the standard deviation over the batch (GDPO).
    """

    weights: dict[str, float] = field(default_factory=lambda: {ENV: 1.0})
    functions: dict[str, str] = field(default_factory=dict)
    per_step: tuple[str, ...] = ()
    normalize: RewardNorm = "sum"

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", {ENV: 1.0, **self.weights})
        check_choice("rewards.normalize", self.normalize, get_args(RewardNorm))
        for setting in ("weights", "functions"):
            for name in getattr(self, setting):
                if not isinstance(name, str) or not _NAME.fullmatch(name):
                    raise ConfigError(
                        f"rewards.{setting} has the name {shown(name)}; expected a letter, then letters, digits, _ "
                        "and -, 40 at most."
                    )
        for name, weight in self.weights.items():
            check_number(f"rewards.weights.{name}", weight)
        if not any(self.weights.values()):
            raise ConfigError("rewards.weights are all 0; expected one that is not, or nothing is learned.")
        for name, target in self.functions.items():
            self._check_function(name, target)
        for name in self.per_step:
            if name not in self.functions:
                raise ConfigError(
                    f"rewards.per_step names {shown(name)}, which is not one of rewards.functions."
                    + did_you_mean(str(name)[:80], self.functions)
                )

    def _check_function(self, name: str, target: object) -> None:
        if name in (ENV, *COSTS):
            raise ConfigError(f"rewards.functions.{name} has a name that means another reward; choose another one.")
        if not isinstance(target, str) or not _TARGET.fullmatch(target):
            raise ConfigError(
                f"rewards.functions.{name} is {shown(target)}; expected module:function, or FILE.py:function."
            )
        if name not in self.weights:
            raise ConfigError(
                f"rewards.functions.{name} has no weight; give one in rewards.weights.{name}, 0 to measure it alone."
            )

    @property
    def plain(self) -> bool:
        """Whether the environment's own reward is all there is, as it is paid."""
        return dict(self.weights) == {ENV: 1.0} and not self.functions
