"""Settings of SFT, of the optimizer and of the loop around it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from stapo.checks import check_choices, check_least, check_number, check_numbers
from stapo.documents import shown
from stapo.errors import ConfigError, did_you_mean
from stapo.rollout.config import SamplingLimits

Schedule = Literal["constant", "linear", "cosine"]
KeptPolicy = Literal["last", "best"]
TaskSampler = Literal["uniform", "informative"]
_SET_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_METRIC = re.compile(r"success|task_score|pass@[1-9][0-9]{0,3}")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the optimizer updates the weights.

    Attributes:
        iterations: iterations of RL, each a rollout and an update; 0 or more.
        learning_rate: AdamW's peak learning rate; above 0, at most 1.
        schedule: decay of the learning rate over the iterations, down to `final_fraction` of the peak.
        final_fraction: share of the peak learning rate at the end of a decay, 0 to 1.
        warmup_iterations: iterations over which the learning rate rises linearly; 0 or more.
        mini_batch: step rows per optimizer step; 1 or more. If fewer than half a mini-batch remain at the end of an
            iteration, the last mini-batch takes them as well.
        epochs: passes over the rows of an iteration; 1 or more.
        micro_tokens: padded tokens per forward pass; 1 or more. Changes memory and speed, not the numbers.
        merge: read the rows of an episode as one sequence wherever a prompt extends the last prompt and response, token
            for token. Changes memory, speed and which rows share a mini-batch, not what a row counts.
        grad_clip: maximum norm of the gradients; above 0. Larger gradients are scaled down to it.
        skip_non_finite: optimizer steps in a row that may be skipped, with the weights unchanged, because a loss or
            gradient is not finite; 0 or more. One more stops the run.
        weight_decay: AdamW's decoupled weight decay, per step; 0 or more, 0 turns it off.
        beta1: AdamW's decay rate of the first moment, per step; 0 to below 1.
        beta2: AdamW's decay rate of the second moment, per step; 0 to below 1.
    """

    iterations: int = 150
    learning_rate: float = 1e-6
    schedule: Schedule = "constant"
    final_fraction: float = 0.1
    warmup_iterations: int = 0
    mini_batch: int = 256
    epochs: int = 1
    micro_tokens: int = 16_384
    merge: bool = True
    grad_clip: float = 1.0
    skip_non_finite: int = 0
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999

    def __post_init__(self) -> None:
        check_choices(self, "optim", schedule=Schedule)
        check_least(self, "optim", iterations=0, warmup_iterations=0, mini_batch=1, epochs=1, skip_non_finite=0)
        check_numbers(self, "optim", "learning_rate", low=0, high=1, open_low=True)
        check_numbers(self, "optim", "micro_tokens", "grad_clip", low=0, open_low=True)
        check_numbers(self, "optim", "weight_decay", low=0)
        check_numbers(self, "optim", "final_fraction", low=0, high=1)
        check_numbers(self, "optim", "beta1", "beta2", low=0, high=1, open_high=True)


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    """One of several evaluations that a run has under names of their own, each played in one way.

    Attributes:
        split: split whose tasks are played; the empty text takes that of `eval.split`.
        tasks: tasks of it that are played, evenly spaced; 0 or more, 0 takes all.
        episodes: episodes of every evaluation of this set; 0 or more, 0 plays each task once. As many times as there
            are tasks measure pass@k.
        temperature: sampling temperature; 0 or more, 0 is greedy.
        top_p: tokens are drawn from the most probable ones that together have this probability; above 0, at most 1.
        top_k: tokens are drawn from this many of the most probable ones; 0 or more, 0 takes all.
        min_p: tokens are drawn from those with at least this share of the largest probability, 0 to 1; 0 takes all.
    """

    split: str = ""
    tasks: int = 0
    episodes: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    @property
    def limits(self) -> SamplingLimits:
        """Which tokens may be drawn."""
        return SamplingLimits(self.top_p, self.top_k, self.min_p)

    def check(self, name: str) -> None:
        """Check the values; `name` is that of the set.

        Raises:
            ConfigError: one is out of its range.
        """
        group = f"eval.sets.{name}"
        check_least(self, group, tasks=0, episodes=0, top_k=0)
        check_numbers(self, group, "temperature", low=0)
        check_numbers(self, group, "top_p", low=0, high=1, open_low=True)
        check_numbers(self, group, "min_p", low=0, high=1)


@dataclass(frozen=True, kw_only=True)
class TasksConfig:
    """Which tasks are trained on when.

    Attributes:
        sampler: `uniform` shows every task once before any comes again. `informative` prefers tasks whose groups
            differed, because a group in which all attempts scored the same teaches nothing: the chance of a task goes
            by the share of its groups that differed, old ones counting less; a task that was never played counts as
            one of two. No task comes twice in an iteration as long as there are others.
        decay: under `informative`, what each group of a task counts beside its next one, 0 to 1; at 1 old groups count
            as much as new ones.
        floor: under `informative`, the part of the chances that is shared out evenly, 0 to 1, so that no task is never
            seen again.
    """

    sampler: TaskSampler = "uniform"
    decay: float = 0.8
    floor: float = 0.2

    def __post_init__(self) -> None:
        check_choices(self, "tasks", sampler=TaskSampler)
        check_numbers(self, "tasks", "decay", "floor", low=0, high=1)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How a policy is evaluated during and after training.

    Attributes:
        split: split whose tasks are played, each `episodes / tasks` times, in sorted order.
        episodes: episodes per evaluation; 0 or more, 0 plays each task once. Each mode plays as many, at the start and
            at the end.
        every: iterations between evaluations in training; 0 or more, 0 for none.
        quick_episodes: episodes of each evaluation during training; 1 or more.
        temperature: sampling temperature of evaluations; 0 or more, 0 is greedy.
        greedy: evaluate with temperature 0 as well.
        at_start: evaluate the policy before RL as well. Turn it off where that evaluation is known: runs of `stapo
            compare` that start from one policy need it once.
        batch: episodes of an evaluation played together, at most; 1 or more. On a CPU, fewer where
            `rollout.kept_keys_gib` does not hold the keys of as many.
        sets: evaluations by name, each with `split`, `tasks`, `episodes`, `temperature`, `top_p`, `top_k` and `min_p`.
            Where there are any, they are played at the start, every `every` iterations and at the end, in place of
            `episodes`, `quick_episodes`, `temperature` and `greedy`.
        keep_best: number by which the best policy is chosen: a set and `success`, `task_score` or `pass@K`, such as
            `seen.success`. The policy with the largest is kept as the checkpoint `best`; the empty text keeps none.
        stop_at: value of `keep_best` at which the run ends, 0 to 1, or null for none.
        patience: evaluations in a row without a new best after which the run ends; 0 or more, 0 never ends it so.
    """

    split: str = "heldout"
    episodes: int = 448
    every: int = 0
    quick_episodes: int = 120
    temperature: float = 1.0
    greedy: bool = True
    at_start: bool = True
    batch: int = 128
    sets: dict[str, EvalSet] = field(default_factory=dict)
    keep_best: str = ""
    stop_at: float | None = None
    patience: int = 0

    @property
    def chosen(self) -> tuple[str, str]:
        """The set and the metric of `keep_best`."""
        name, _, metric = self.keep_best.partition(".")
        return name, metric

    def played(self, tasks: int, *, final: bool) -> int:
        """Episodes of one evaluation, all modes or sets together, on splits of as many tasks."""
        if self.sets:
            return sum(s.episodes or s.tasks or tasks for s in self.sets.values())
        return ((self.episodes or tasks) if final else self.quick_episodes) * (
            1 + (self.greedy and self.temperature > 0)
        )

    def __post_init__(self) -> None:
        if not self.split:
            raise ConfigError("eval.split is empty, expected a split of the environment.")
        check_least(self, "eval", episodes=0, every=0, quick_episodes=1, batch=1)
        check_numbers(self, "eval", "temperature", low=0)
        for name, played in self.sets.items():
            if not _SET_NAME.fullmatch(name):
                raise ConfigError(
                    f"eval.sets names a set {shown(name)}; expected a name of letters, digits, '-' and '_'."
                )
            played.check(name)
        self._check_choice()

    def _check_choice(self) -> None:
        check_least(self, "eval", patience=0)
        if self.stop_at is not None:
            check_number("eval.stop_at", self.stop_at, 0, 1, null=True)
        if not self.keep_best:
            if self.stop_at is not None or self.patience:
                what = "patience" if self.stop_at is None else "stop_at"
                raise ConfigError(
                    f"eval.{what} is {getattr(self, what)}, and eval.keep_best names no number; give one, such as "
                    "seen.success for a set 'seen' of eval.sets."
                )
            return
        known = [f"{name}.{metric}" for name in self.sets for metric in ("success", "task_score", "pass@K")]
        name, metric = self.chosen
        if name not in self.sets or not _METRIC.fullmatch(metric):
            listed = f"expected one of {', '.join(known)}" if known else "and eval.sets names no set; name one first"
            raise ConfigError(
                f"eval.keep_best is {shown(self.keep_best)}, {listed}.{did_you_mean(self.keep_best, known)}"
            )


@dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """Supervised training on expert demonstrations.

    Attributes:
        steps: maximum optimizer steps of SFT; 0 or more, 0 skips SFT.
        data: file that SFT learns from in place of a demonstrator: episodes as `stapo export` and `stapo eval --record`
            write them, or chat messages, one JSON object on each line; the empty text takes the demonstrator.
        stop_at: sampled success rate on training tasks, 0 to 1, at which SFT stops after `anneal_steps` more steps; 1
            trains all `steps`. The number of steps that a small model needs varies with the seed by a factor of two, so
            a fixed number gives unequal starts.
        anneal_steps: optimizer steps over which the learning rate then falls to a tenth; 0 or more.
        keep: weights at the end of SFT. `last`: those of the last step. `best`: those that win the largest share of
            training tasks in at least one of `probe_k` attempts, measured every `probe_every` steps and at the end;
            ties go to the higher success, then to the earlier step.
        probe_every: optimizer steps between measurements for `stop_at` and `keep`; 1 or more.
        probe_episodes: training tasks that each measurement plays; 1 or more.
        probe_k: attempts at each of these tasks; 1 or more. RL reinforces what a policy sometimes does, so the best
            start is not always the one that succeeds most often.
        episodes: demonstrated episodes, spread evenly over the task types; 1 or more.
        scarce_types: task types that get only `scarce_fraction` of their share of episodes.
        scarce_fraction: share of their episodes that `scarce_types` keep, 0 to 1.
        wander: share of steps, 0 to 1, at which the demonstrator takes a random offered command. Such a step is played
            but not imitated, so the policy learns to recover from it.
        blind_fraction: share of steps, 0 to 1, whose blind prompt is also imitated. A model trained from scratch
            otherwise never sees a blind prompt, and its KL against the full prompt would mean nothing.
        curriculum: share of the optimizer steps, 0 to 1, that come first and use short prompts (no history).
        batch_size: demonstrated steps per optimizer step; 1 or more.
        micro_tokens: padded tokens per forward pass; 0 or more, 0 reads a batch in one pass. Changes memory and speed,
            and the numbers only by rounding.
        learning_rate: AdamW's peak learning rate; above 0, at most 1. Linear warmup, then cosine decay to a tenth;
            constant with `stop_at`, because the end is not known in advance.
        warmup_steps: optimizer steps over which the learning rate rises linearly; 0 or more.
        weight_decay: AdamW's decoupled weight decay, per step; 0 or more, 0 turns it off.
    """

    steps: int = 0
    data: str = ""
    stop_at: float = 1.0
    anneal_steps: int = 300
    keep: KeptPolicy = "last"
    probe_every: int = 200
    probe_episodes: int = 128
    probe_k: int = 1
    episodes: int = 1200
    scarce_types: tuple[str, ...] = ()
    scarce_fraction: float = 0.1
    wander: float = 0.0
    blind_fraction: float = 0.1
    curriculum: float = 0.5
    batch_size: int = 64
    micro_tokens: int = 0
    learning_rate: float = 4e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        shares = ("stop_at", "scarce_fraction", "wander", "blind_fraction", "curriculum")
        check_numbers(self, "sft", *shares, low=0, high=1)
        check_least(self, "sft", steps=0, anneal_steps=0, warmup_steps=0, micro_tokens=0)
        check_least(self, "sft", probe_every=1, probe_episodes=1, probe_k=1, episodes=1, batch_size=1)
        check_choices(self, "sft", keep=KeptPolicy)
        check_numbers(self, "sft", "learning_rate", low=0, high=1, open_low=True)
        check_numbers(self, "sft", "weight_decay", low=0)
