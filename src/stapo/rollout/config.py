"""Settings of a rollout."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stapo.checks import check_choices, check_integer, check_least, check_number, check_numbers
from stapo.errors import ConfigError
from stapo.rollout.types import OnFailure


@dataclass(frozen=True, slots=True)
class SamplingLimits:
    """Limits that go together: of what `top_k` and `min_p` leave, the most probable tokens up to `top_p`.

    Attributes:
        top_p: the most probable ones that together have at least this probability; 1 leaves all.
        top_k: this many of the most probable ones; 0 leaves all.
        min_p: those with at least this share of the largest probability; 0 leaves all.
    """

    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    def __bool__(self) -> bool:
        return (self.top_p, self.top_k, self.min_p) != (1.0, 0, 0.0)

    def __str__(self) -> str:
        given = (("top_p", self.top_p, 1.0), ("top_k", self.top_k, 0), ("min_p", self.min_p, 0.0))
        return "".join(f", {name} {value:g}" for name, value, off in given if value != off)


NO_LIMITS = SamplingLimits()


AnchorKey = Literal["observation", "observation_and_admissible"]
Engine = Literal["transformers", "vllm"]
AtLimit = Literal["keep", "zero", "mask"]
RolloutCorrection = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]

MAX_TEMPERATURE = 2.0
"""The highest temperature that vLLM samples at."""

MOST_PROCESSES = 4096
"""Worker processes or threads that one machine may be asked for."""


@dataclass(frozen=True, kw_only=True)
class VllmConfig:
    """How vLLM shares the machine with the trainer; the longest sequence and the dtype are those of the run.

    Attributes:
        gpu_memory: share of the GPU's memory for vLLM's copy of the weights and its KV cache; above 0, below 1.
        cpu_cache_gib: memory for vLLM's KV cache where it runs on a CPU, in GiB; 1 or more.
        enforce_eager: run without CUDA graphs: starts faster, needs less memory, generates slower. On a CPU always.
        sleep: while weights are updated, put vLLM's copy of them into the CPU's memory and drop its KV cache.
        continuous: each episode goes on as soon as its own response is there. Otherwise all wait for the longest
            response of a turn. The numbers change only by rounding.
    """

    gpu_memory: float = 0.4
    cpu_cache_gib: int = 1
    enforce_eager: bool = False
    sleep: bool = False
    continuous: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, "rollout.vllm", "gpu_memory", low=0, high=1, open_low=True, open_high=True)
        check_numbers(self, "rollout.vllm", "cpu_cache_gib", low=1)


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """What ends an episode beside its environment, and what training pays then.

    Attributes:
        tokens: sampled tokens after which an episode ends; 1 or more, or null for no limit. The response that reaches
            the limit is played.
        seconds: seconds after which an episode ends, by the clock since it began; above 0, or null for no limit. They
            are looked at after each step, include the steps of episodes that are played beside it, and make the numbers
            of a run depend on the machine.
        reward: what training pays an episode that ended at a limit: one of these, the environment's step limit or
            `agent.max_prompt_tokens`. `keep` pays what it has earned until then; `zero` pays nothing, and costs stay;
            `mask` also pays what it has earned, for the advantages of its group, and leaves its steps out of the loss.
    """

    tokens: int | None = None
    seconds: float | None = None
    reward: AtLimit = "keep"

    def __post_init__(self) -> None:
        if self.tokens is not None:
            check_integer("rollout.limits.tokens", self.tokens, 1)
        if self.seconds is not None:
            check_number("rollout.limits.seconds", self.seconds, 0, open_low=True, null=True)
        check_choices(self, "rollout.limits", reward=AtLimit)


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How many episodes an iteration plays and how.

    Attributes:
        groups: task groups played per iteration; 1 or more.
        group_size: episodes per group, all from one initial state; 1 or more.
        tasks: tasks of the split to train on, drawn by the seed; 0 or more, 0 trains on all. A few tasks in many passes
            show whether a policy can learn at all.
        temperature: sampling temperature of training episodes; above 0.
        reward_scale: factor on the environment's rewards; above 0. Both 1 and 10 are common.
        anchor: which states of one task count as the same. `observation` compares observations;
            `observation_and_admissible` also compares the offered commands, which separates "Nothing happens." in the
            kitchen from "Nothing happens." at the fridge.
        batch_tokens: prompt tokens that one pass reads, padding included; 1 or more.
        decode_tokens: prompt tokens of the episodes whose responses are generated together, padding included; 1 or
            more. Their keys and values are in memory together: 28 KB per token of a Qwen2.5-1.5B in bfloat16, 1.9 GB at
            the default. On a GPU, more is faster, if there are enough episodes.
        kept_keys_gib: memory, in GiB, for keys and values kept between the turns of a rollout; 0 or more, 0 keeps
            nothing. If each prompt extends the last one, a turn then reads only its new tokens. Episodes that find no
            room read their prompts from the start. Prompts that are written anew at each step keep nothing, and vLLM
            has its own cache. The numbers change only by rounding.
        workers: processes that play the environments, 0 to 4,096; 0 plays them in this process. Workers are for
            environments that block, crash, leak or are slow: one that hangs or dies there costs one episode. The
            numbers do not depend on it.
        env_deadline: seconds that a worker's environment may take for one response; above 0. A worker that takes longer
            is replaced.
        retries: times that a failed episode is played again from the start in a fresh environment; 0 or more. Failures
            are those of the environment, for example, never the policy's. The same random streams are used, so a
            transient fault leaves no trace.
        on_failure: what happens when no retries are left. `shrink` leaves the episode out of its group, `drop` leaves
            out the whole group.
        max_failures: failed episodes in a row, without one that ended normally in between, that stop the run; 1 or
            more.
        limits: what ends an episode beside its environment.
        engine: what generates in training. `transformers` shares the trainer's weights; `vllm` (extra `vllm`, on an
            NVIDIA GPU or a CPU) keeps its own copy, which is renewed before every rollout.
        vllm: how vLLM shares the machine; without effect under another engine.
        correction: importance weights in the policy loss for the difference between the sampler and the trainer. `none`
            takes the sampler's log-probabilities for those of the old policy. The others take the old policy's from a
            pass of the trainer, as entropies and flags then are, and weigh the loss of each token by the ratio of the
            two (`token_`), or by their product over the response of a step (`sequence_`). A ratio above the threshold
            becomes the threshold (`_truncate`) or 0 (`_mask`).
        correction_threshold: largest ratio that is left as it is, above 0; without effect under `none`.
    """

    groups: int = 16
    group_size: int = 8
    tasks: int = 0
    temperature: float = 1.0
    reward_scale: float = 10.0
    anchor: AnchorKey = "observation"
    batch_tokens: int = 16_384
    decode_tokens: int = 65_536
    kept_keys_gib: float = 2.0
    workers: int = 0
    env_deadline: float = 60.0
    retries: int = 1
    on_failure: OnFailure = "shrink"
    max_failures: int = 16
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    engine: Engine = "transformers"
    vllm: VllmConfig = field(default_factory=VllmConfig)
    correction: RolloutCorrection = "none"
    correction_threshold: float = 2.0

    def __post_init__(self) -> None:
        check_least(self, "rollout", groups=1, group_size=1, batch_tokens=1, decode_tokens=1, max_failures=1)
        check_least(self, "rollout", tasks=0, retries=0)
        check_integer("rollout.workers", self.workers, 0, MOST_PROCESSES)
        check_numbers(self, "rollout", "kept_keys_gib", low=0)
        above = ("temperature", "reward_scale", "env_deadline", "correction_threshold")
        check_numbers(self, "rollout", *above, low=0, open_low=True)
        check_choices(
            self, "rollout", anchor=AnchorKey, on_failure=OnFailure, engine=Engine, correction=RolloutCorrection
        )
        if self.engine == "vllm" and self.temperature > MAX_TEMPERATURE:
            raise ConfigError(
                f"rollout.temperature is {self.temperature}, and vLLM samples at {MAX_TEMPERATURE:g} at most."
            )
