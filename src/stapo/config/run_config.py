"""The configuration of one run: a tree of frozen dataclasses, each checked when it is built."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stapo.agent import AgentConfig
from stapo.algo import AlgorithmConfig, get_algorithm
from stapo.checks import check_choices, check_integer, check_least, check_numbers
from stapo.config.environment import EnvConfig, MixedEnvConfig, check_envs, texts_in
from stapo.config.rewards import RewardsConfig
from stapo.config.schema import check_values, from_data
from stapo.config.training import EvalConfig, OptimConfig, SFTConfig, TasksConfig
from stapo.errors import ConfigError, UnknownNameError
from stapo.policy import ModelConfig
from stapo.rollout.config import MOST_PROCESSES, RolloutConfig
from stapo.run import RunDirectory
from stapo.texts import secret_in_address

OnSaveError = Literal["stop", "continue"]
Threads = int | Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What a run records.

    Attributes:
        transcript_every: iterations between transcripts; 0 or more, 0 writes none. The first and the last iteration
            always have one.
        transcript_groups: task groups per transcript; 0 or more. Whole groups are written, so you can compare attempts
            at one task.
        tokens: whether transcripts hold entropy, log-probability and, where a blind pass ran, KL full to blind of each
            response token, in half precision; at most 11 bytes per token. It changes no number of the training.
        gradient_ratio_every: iterations between measurements of `update.selective_gradient_ratio`; 0 or more, 0 never
            measures. Each costs a second backward pass through the flagged sequences of the first mini-batch.
        checkpoint_every: iterations between checkpoints to evaluate; 0 or more, 0 keeps only the start and the end.
        save_every: iterations between saves, the states to resume from; 1 or more. At most this much work is lost, and
            is done again with the same numbers.
        keep_saves: newest saves that are kept; 1 or more.
        save_seconds: seconds between saves during SFT; 0 or more. Slow saves come less often, after ten times their own
            duration at the earliest. A stop by SIGTERM or SIGINT saves at once.
        on_save_error: `stop` the run when its state cannot be saved (a full disk, for example), or `continue` and try
            again at the next save.
        grace: seconds that an iteration in progress may take after SIGTERM or SIGINT; 0 or more. Then it is abandoned.
        threads: CPU threads of torch, 0 to 4,096, or `auto`; 0 keeps torch's default. `auto` takes 1 for models of
            fewer than 20 million weights, which run fastest that way, and every physical core for larger ones; the run
            keeps the number.
        trackers: trackers that receive the rows of metrics.jsonl and evals.jsonl: tensorboard, wandb, trackio, mlflow,
            or one of an installed package. `stapo track` sends a finished run later.
    """

    transcript_every: int = 10
    transcript_groups: int = 2
    tokens: bool = True
    gradient_ratio_every: int = 1
    checkpoint_every: int = 0
    save_every: int = 1
    keep_saves: int = 2
    save_seconds: float = 30.0
    on_save_error: OnSaveError = "stop"
    grace: float = 20.0
    threads: Threads = "auto"
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_least(self, "log", transcript_every=0, transcript_groups=0, gradient_ratio_every=0, checkpoint_every=0)
        check_least(self, "log", save_every=1, keep_saves=1)
        if self.threads != "auto" and not (isinstance(self.threads, int) and 0 <= self.threads <= MOST_PROCESSES):
            raise ConfigError(f"log.threads is {self.threads!r}, expected auto, or 0 to {MOST_PROCESSES:,}.")
        check_numbers(self, "log", "save_seconds", "grace", low=0)
        check_choices(self, "log", on_save_error=OnSaveError)
        if not all(self.trackers):
            raise ConfigError("log.trackers holds an empty name, expected names such as tensorboard.")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run.

    Attributes:
        seed: seed of tasks, sampling and initial weights; 0 or more. Same seed, same machine: same run.
        env: environment and its options.
        envs: several environments in its stead, each by a name for this run, with a weight and settings of its own;
            empty for one. What an entry leaves out is as in the run's own `agent`, `rollout`, `sft` and `eval`.
        tasks: which tasks are trained on when.
        agent: prompts, memory, response format.
        model: pretrained model or sizes of a small one.
        sft: supervised fine-tuning on demonstrations before RL.
        rollout: groups, group size, temperature.
        rewards: named rewards and their weights.
        algorithm: credit, outliers, selective terms, loss; a preset name or its settings.
        optim: optimizer and length of the run.
        eval: evaluation protocol.
        log: what is written down.
    """

    seed: int = 0
    env: EnvConfig = field(default_factory=EnvConfig)
    envs: dict[str, MixedEnvConfig] = field(default_factory=dict)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    algorithm: AlgorithmConfig = field(default_factory=lambda: get_algorithm("stapo"))
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        for path, text in texts_in(self, ""):
            secret = secret_in_address(text) if "://" in text else ""
            if secret:
                raise ConfigError(
                    f"{path} is an address that holds {secret}, and settings are written into files and reports; "
                    "expected one without. Give the key as an environment variable instead, for a retriever as "
                    "STAPO_RETRIEVER_TOKEN."
                )
        check_values(self)
        check_integer("seed", self.seed, 0)
        self._check_group_size()
        if self.model.reference == "none" and self.algorithm.needs_reference:
            raise ConfigError(
                f"model.reference is 'none', but algorithm '{self.algorithm.name}' compares with a reference: "
                f"algorithm.loss.beta is {self.algorithm.loss.beta:g} and algorithm.selective.gamma is "
                f"{self.algorithm.selective.gamma:g}. Set both to 0, or model.reference to 'auto' or 'cpu'."
            )
        if self.envs:
            # Where there are several, `env` is only what they are called together: nothing is of that name.
            object.__setattr__(self, "env", check_envs(self))
        else:
            self._check_agent()

    def _check_agent(self) -> None:
        if self.algorithm.outlier.tokens != "response" and not self.agent.has_parts:
            raise ConfigError(
                f"algorithm.outlier.tokens is '{self.algorithm.outlier.tokens}' but agent.response is "
                f"'{self.agent.response}', which has no such part; use tokens=response."
            )

        if self.rewards.normalize == "each" and self.algorithm.needs_critic:
            raise ConfigError(
                f"rewards.normalize is 'each', and algorithm '{self.algorithm.name}' has a critic, which values the "
                "sum of the rewards. Set rewards.normalize to 'sum', or take an algorithm without a critic."
            )
        advantage = self.algorithm.advantage
        if self.rewards.normalize == "each" and advantage.step_advantage and advantage.step_credit != "return":
            raise ConfigError(
                f"rewards.normalize is 'each', and advantage.step_credit is '{advantage.step_credit}', which does not "
                "rest on rewards alone. Set rewards.normalize to 'sum', or step_credit to 'return'."
            )
        if self.agent.constrained and self.rollout.engine == "vllm":
            raise ConfigError(
                "agent.decode is 'constrained' and rollout.engine is 'vllm', which cannot be told at each token which "
                "ones are allowed. Set rollout.engine to 'transformers', or agent.decode to 'free'."
            )

    def _check_group_size(self) -> None:
        if self.rollout.group_size > 1 or not self.optim.iterations:
            return
        if self.algorithm.needs_groups or self.algorithm.sampling.dynamic:
            why = (
                "compares the trajectories of a group with each other"
                if self.algorithm.needs_groups
                else "leaves out groups whose trajectories all scored the same (algorithm.sampling.dynamic)"
            )
            raise ConfigError(
                f"rollout.group_size is 1, but algorithm '{self.algorithm.name}' {why}, so nothing would be learned. "
                "Set rollout.group_size to 2 or more (the paper: 8), or take an algorithm that needs no groups, such "
                "as ppo or reinforce++."
            )


def read_run_config(run: RunDirectory) -> RunConfig:
    """The configuration that a run was made with.

    Raises:
        RunDirectoryError: config.yaml cannot be read.
        ConfigError: it names a key or a value that this version does not know.
    """
    try:
        return from_data(RunConfig, run.config())
    except (ConfigError, UnknownNameError) as err:
        raise ConfigError(f"'{run.path / 'config.yaml'}': {err}") from err
