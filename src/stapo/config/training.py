"""Settings of the warm start, of the optimizer and of the loop around it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from stapo.errors import ConfigError

Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights move.

    Attributes:
        iterations: rollout-and-update rounds.
        learning_rate: of AdamW, at its peak.
        schedule: decay over the iterations: `constant`, `linear` or `cosine`, down to `final_fraction` of the peak.
        final_fraction: see `schedule`.
        warmup_iterations: linear rise at the start.
        mini_batch: step rows per optimizer step; the last one of an iteration takes what is left when that is less
            than half of it.
        epochs: passes over the rows of an iteration.
        micro_tokens: padded tokens per forward pass. Changes memory and speed, not the numbers.
        grad_clip: the gradient norm is clipped here.
        skip_non_finite: optimizer steps in a row that are left out, with the weights as they were, when a loss or a
            gradient is not finite; one more stops the run. 0 stops at the first.
        weight_decay: of AdamW.
        beta1, beta2: of AdamW.
    """

    iterations: int = 150
    learning_rate: float = 1e-6
    schedule: Schedule = "constant"
    final_fraction: float = 0.1
    warmup_iterations: int = 0
    mini_batch: int = 256
    epochs: int = 1
    micro_tokens: int = 16_384
    grad_clip: float = 1.0
    skip_non_finite: int = 0
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999

    def __post_init__(self) -> None:
        if self.schedule not in get_args(Schedule):
            raise ConfigError(f"optim.schedule is '{self.schedule}', expected one of {', '.join(get_args(Schedule))}.")
        for field, least in (
            ("iterations", 0),
            ("warmup_iterations", 0),
            ("mini_batch", 1),
            ("epochs", 1),
            ("skip_non_finite", 0),
        ):
            if getattr(self, field) < least:
                raise ConfigError(f"optim.{field} is {getattr(self, field)}, expected at least {least}.")
        if not 0 < self.learning_rate <= 1:
            raise ConfigError(f"optim.learning_rate is {self.learning_rate}, expected a number above 0, at most 1.")
        for field in ("micro_tokens", "grad_clip"):
            if not 0 < getattr(self, field) < math.inf:
                raise ConfigError(f"optim.{field} is {getattr(self, field)}, expected a number above 0.")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"optim.weight_decay is {self.weight_decay}, expected a number of 0 or more.")
        if not 0 <= self.final_fraction <= 1:
            raise ConfigError(f"optim.final_fraction is {self.final_fraction}, expected a share from 0 to 1.")
        for field in ("beta1", "beta2"):
            if not 0 <= getattr(self, field) < 1:
                raise ConfigError(f"optim.{field} is {getattr(self, field)}, expected a number from 0 to below 1.")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How a policy is evaluated during and after training.

    Attributes:
        split: tasks to play; every task of the split is played `episodes / tasks` times, in sorted order.
        episodes: episodes per evaluation and mode at the start and at the end; 0 plays each task once.
        every: iterations between evaluations in training; 0 evaluates at the start and the end only.
        quick_episodes: episodes of those in between.
        temperature: of sampled evaluation.
        greedy: evaluate with temperature 0, too.
        at_start: evaluate the policy before RL, too. Off where its evaluation is known already: runs that start from
            one policy, as those of `stapo compare`, need it once.
        batch: episodes played together.
    """

    split: str = "heldout"
    episodes: int = 448
    every: int = 0
    quick_episodes: int = 120
    temperature: float = 1.0
    greedy: bool = True
    at_start: bool = True
    batch: int = 128

    def __post_init__(self) -> None:
        if not self.split:
            raise ConfigError("eval.split is empty, expected a split of the environment.")
        for field, least in (("episodes", 0), ("every", 0), ("quick_episodes", 1), ("batch", 1)):
            if getattr(self, field) < least:
                raise ConfigError(f"eval.{field} is {getattr(self, field)}, expected at least {least}.")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"eval.temperature is {self.temperature}, expected 0 (greedy) or more.")


@dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """Supervised training on expert demonstrations.

    Attributes:
        steps: optimizer steps at most; 0 skips the warm start.
        stop_at: once the sampled success on training tasks reaches this, stop after `anneal_steps` more; 1 trains all
            `steps`. When small models understand a task varies with the seed by a factor of two in steps, so a fixed
            number of steps would give very unequal starts.
        anneal_steps: steps over which the learning rate then falls to a tenth.
        probe_every: steps between measurements for `stop_at`.
        probe_episodes: training tasks that each measurement plays.
        episodes: demonstrated episodes, spread evenly over the task types.
        scarce_types: task types that get only `scarce_fraction` of their share of episodes.
        scarce_fraction: see `scarce_types`.
        wander: share of steps at which the demonstrator takes a random offered command instead; such a step is played
            but not imitated, so that the policy learns to go on from it.
        blind_fraction: share of the steps whose blind prompt is imitated, too. A model trained from scratch has never
            seen a blind prompt otherwise, and its KL against the full prompt would mean nothing.
        curriculum: share of the steps spent on short prompts (no history) first.
        batch_size: steps per optimizer step.
        learning_rate: peak; linear warm-up over 100 steps. Then cosine to a tenth, or constant with `stop_at`, whose
            end is not known beforehand.
        weight_decay: of AdamW.
    """

    steps: int = 0
    stop_at: float = 1.0
    anneal_steps: int = 300
    probe_every: int = 200
    probe_episodes: int = 128
    episodes: int = 1200
    scarce_types: tuple[str, ...] = ()
    scarce_fraction: float = 0.1
    wander: float = 0.0
    blind_fraction: float = 0.1
    curriculum: float = 0.5
    batch_size: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        for field in ("stop_at", "scarce_fraction", "wander", "blind_fraction", "curriculum"):
            if not 0 <= getattr(self, field) <= 1:
                raise ConfigError(f"warm_start.{field} is {getattr(self, field)}, expected a share from 0 to 1.")
        for field, least in (
            ("steps", 0),
            ("anneal_steps", 0),
            ("probe_every", 1),
            ("probe_episodes", 1),
            ("episodes", 1),
            ("batch_size", 1),
        ):
            if getattr(self, field) < least:
                raise ConfigError(f"warm_start.{field} is {getattr(self, field)}, expected at least {least}.")
        if not 0 < self.learning_rate <= 1:
            raise ConfigError(
                f"warm_start.learning_rate is {self.learning_rate}, expected a number above 0, at most 1."
            )
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"warm_start.weight_decay is {self.weight_decay}, expected a number of 0 or more.")
