"""Our run configuration as settings of verl: what can be said there, what cannot, and what is different."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stapo.checks import check_integer, user_path
from stapo.config.run_config import RunConfig
from stapo.config.schema import to_data
from stapo.documents import package_data
from stapo.errors import ConfigError
from stapo.policy import source_of
from stapo.rollout.config import LimitsConfig
from stapo.verl_plugin.hydra import override
from stapo.verl_plugin.settings import AGENT, EVALUATION, KEY, TRAIN

_ACTOR, _ROLLOUT, _MODEL, _REF = (f"actor_rollout_ref.{part}" for part in ("actor", "rollout", "model", "ref"))
_PRECISION = {"float32": "fp32", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Machines:
    """What a run is given.

    Attributes:
        nodes: machines.
        gpus_per_node: GPUs of each.
        tensor_parallel: GPUs of one machine that a rollout server spreads one copy of the model over.
    """

    nodes: int = 1
    gpus_per_node: int = 8
    tensor_parallel: int = 1

    def __post_init__(self) -> None:
        for flag, value in (
            ("--nodes", self.nodes),
            ("--gpus-per-node", self.gpus_per_node),
            ("--tensor-parallel", self.tensor_parallel),
        ):
            check_integer(flag, value, 1)
        if self.gpus_per_node % self.tensor_parallel:
            raise ConfigError(
                f"--tensor-parallel is {self.tensor_parallel}, which does not divide the {self.gpus_per_node} GPUs of "
                "a machine (--gpus-per-node); every GPU has to belong to a whole rollout server."
            )

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.nodes * self.gpus_per_node


def verl_overrides(config: RunConfig, machines: Machines, name: str, folder: str) -> list[str]:
    """Hydra overrides for ``python -m verl.trainer.main_ppo``.

    Args:
        config: the resolved configuration.
        machines: nodes and GPUs.
        name: of the run, for verl's loggers.
        folder: for verl's checkpoints.

    Raises:
        ConfigError: a setting that verl, or the plugin, cannot express.
    """
    _refuse(config, machines)
    config = _with_absolute_paths(config)
    values = {
        **package_data(__package__, "fixed.yaml"),
        f"{_MODEL}.path": config.model.path,
        **_data(config),
        **_rollout(config),
        # verl's own default is 2: no run on one GPU starts with it.
        f"{_ROLLOUT}.tensor_model_parallel_size": machines.tensor_parallel,
        **_actor(config),
        **_trainer(config, machines, name, str(Path(folder).absolute())),
    }
    return [override(key.removeprefix("+"), value, new=key.startswith("+")) for key, value in values.items()]


def differences(config: RunConfig) -> list[str]:
    """Where verl differs from the embedded engine under this configuration, one line each."""
    said = [
        "responses are drawn by the rollout servers' own random numbers: a seed repeats the tasks, not the samples",
        "entropies and old log-probabilities come from a forward pass of the training engine, not from sampling",
        "verl fills each iteration's rows up to whole mini-batches with padding; optim.mini_batch counts both",
        "optim.skip_non_finite: verl skips every optimizer step whose gradient norm is not finite",
    ]
    if config.eval.sets:
        said.append(
            "eval.sets, eval.keep_best, eval.stop_at, eval.patience: verl validates on eval.split, and keeps its own "
            "checkpoints"
        )
    if config.eval.greedy and config.eval.temperature > 0:
        said.append(f"eval.greedy: verl validates once, at eval.temperature ({config.eval.temperature:g})")
    if config.eval.every and config.eval.quick_episodes != config.eval.episodes:
        said.append("eval.quick_episodes: every validation plays eval.episodes")
    if config.optim.mini_batch % config.rollout.group_size:
        prompts = mini_batch_prompts(config)
        said.append(
            f"optim.mini_batch: verl's setting counts prompts and says {prompts} ({prompts} x "
            f"{config.rollout.group_size} rows); stapo's trainer takes the {config.optim.mini_batch} rows of the preset"
        )
    if config.optim.merge and config.agent.grows:
        said.append(
            f"optim.mini_batch: a row of verl's holds all steps of an episode whose prompts extend each other, so "
            f"{config.optim.mini_batch} rows are more steps here, and an iteration has fewer optimizer steps; "
            "--optim.no-merge gives each step a row"
        )
    if config.algorithm.sampling.dynamic:
        said.append(
            "algorithm.sampling: verl plays two groups in the place of each that it drops, without a limit of rounds "
            f"(here {config.algorithm.sampling.max_rounds}), and drops what is too many; where no group ever differs, "
            "it plays on until it is stopped"
        )
    if config.optim.warmup_iterations:
        said.append("optim.warmup_iterations: verl's warm-up starts at a learning rate of 0")
    if config.agent.stop:
        said.append(
            "agent.stop: verl's rollout servers generate to an end token or to agent.max_response_tokens; what comes "
            "after a stop text costs time, and is cut off before anything is trained on"
        )
    if config.algorithm.needs_states:
        said.append(
            f"outlier.metric={config.algorithm.outlier.metric}: the entropies by state are not in verl's checkpoints; "
            "a resumed run forgets them"
        )
    said.append("log.*: metrics go to verl's loggers (trainer.logger); there are no transcripts and no report")
    return said


def _refuse(config: RunConfig, machines: Machines) -> None:
    algorithm, optim = config.algorithm, config.optim
    if config.envs:
        raise ConfigError(
            f"envs names {', '.join(config.envs)}, and verl computes fences and entropies over all rows of a batch, "
            "not for each environment. Name one environment as env, or use 'stapo train'."
        )
    if config.tasks.sampler != "uniform":
        raise ConfigError(
            f"tasks.sampler is '{config.tasks.sampler}', and verl reads its tasks from a list that is written before "
            "anything is played. Set it to 'uniform', or use 'stapo train'."
        )
    if config.model.path is None:
        raise ConfigError(
            "model.path is not set, and verl trains a saved model. Give --model.path NAME or FOLDER; 'stapo train' "
            "saves its start as RUN/checkpoints/start."
        )
    if config.model.chat_template not in ("auto", "none") or config.model.chat_template_kwargs:
        raise ConfigError(
            "model.chat_template names a file, or model.chat_template_kwargs has values, but verl loads the tokenizer "
            "by itself. Save the model with that template and name its folder in model.path."
        )
    if config.model.lora.rank:
        raise ConfigError(
            f"model.lora.rank is {config.model.lora.rank}; adapters inside verl are untested with the plugin. Train "
            "all weights, or use 'stapo train'."
        )
    if config.agent.constrained:
        raise ConfigError(
            "agent.decode is 'constrained', and verl's rollout servers and training engine know no masks of tokens. "
            "Set agent.decode to 'free', or use 'stapo train'."
        )
    if not config.rewards.plain:
        raise ConfigError(
            "rewards are more than the environment's own, and verl's agent loop pays each row before its group is "
            "known. Leave out rewards.weights and rewards.functions, or use 'stapo train'."
        )
    if config.rollout.limits != LimitsConfig():
        raise ConfigError(
            "rollout.limits are set, and verl's agent loop has the environment's steps alone. Leave them out, or use "
            "'stapo train'."
        )
    for setting, value, carried in (
        ("kl", algorithm.loss.kl, ("k1", "k2", "k3")),
        ("truncated", algorithm.loss.truncated, ("keep",)),
        ("reference_every", algorithm.loss.reference_every, (0,)),
    ):
        if value not in carried:
            raise ConfigError(
                f"algorithm.loss.{setting} is '{value}', which verl's trainer does not do; expected "
                f"{' or '.join(map(str, carried))}. Or use 'stapo train'."
            )
    chosen = algorithm.selective
    for name, reading, taken, reason in (
        ("norm", chosen.norm, ("flagged", "all"), "its mean needs all steps of a mini-batch in their order"),
        ("bound", chosen.bound, ("none", "cap", "js"), "the target needs the reference on full prompts"),
        ("support", chosen.support, ("all",), "the support needs the reference on full prompts"),
        ("gate", chosen.gate, ("none", "positive"), "the bonus needs R_TA before advantages are computed"),
    ):
        if algorithm.selective_on and reading not in taken:
            raise ConfigError(
                f"algorithm.selective.{name} is '{reading}': {reason}, and verl's workers score the flagged steps of "
                f"one micro-batch, with the reference on blind prompts alone; expected {' or '.join(taken)}. Or use "
                "'stapo train'."
            )
    if config.sft.steps:
        raise ConfigError(
            f"sft.steps is {config.sft.steps}, and verl does RL alone. Make the start with 'stapo "
            "train … --optim.iterations 0', then give --model.path RUN/checkpoints/start --sft.steps 0."
        )
    if algorithm.needs_critic:
        raise ConfigError(
            f"the algorithm '{algorithm.name}' has a critic of steps; verl's critics value tokens, so its numbers "
            "would be others. Use 'stapo train', or another algorithm."
        )
    if optim.schedule == "linear":
        raise ConfigError("optim.schedule is 'linear'; verl has constant and cosine.")
    if optim.iterations < 1:
        raise ConfigError("optim.iterations is 0; verl needs at least one.")
    if optim.mini_batch % machines.gpus:
        low = max(machines.gpus, optim.mini_batch // machines.gpus * machines.gpus)
        raise ConfigError(
            f"optim.mini_batch is {optim.mini_batch}; verl gives every GPU as many rows of it, so it has to be a "
            f"multiple of the GPUs ({machines.gpus}), for instance --optim.mini_batch {low} or {low + machines.gpus}."
        )
    longest = config.agent.max_prompt_tokens + config.agent.max_response_tokens
    if optim.micro_tokens < longest:
        raise ConfigError(
            f"optim.micro_tokens is {optim.micro_tokens}, and one row may have {longest} tokens "
            f"(agent.max_prompt_tokens + agent.max_response_tokens). Give --optim.micro_tokens {longest} or more."
        )


def mini_batch_prompts(config: RunConfig) -> int:
    """What verl's own setting for the mini-batch says: whole prompts, each of which counts as a group of rows.

    A mini-batch that is not a multiple of the group is rounded down here, and `StapoTrainer` counts its rows itself.
    """
    return max(1, config.optim.mini_batch // config.rollout.group_size)


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """Ray's processes neither start in this folder nor know its variables, so what names a file is written in full."""

    def whole(value: Any) -> Any:
        if not isinstance(value, str) or not value:
            return value
        path = user_path(value)
        return str(path.absolute()) if path.exists() else value

    options = {key: whole(value) for key, value in config.env.options.items()}
    return replace(
        config,
        env=replace(config.env, options=options),
        model=replace(config.model, path=config.model.path and whole(source_of(config.model.path))),
    )


def _data(config: RunConfig) -> dict[str, Any]:
    return {
        "data.train_files": TRAIN,
        "data.val_files": EVALUATION,
        "data.train_batch_size": config.rollout.groups,
        "data.max_prompt_length": config.agent.max_prompt_tokens,
        "data.max_response_length": config.agent.max_response_tokens,
        f"+data.{KEY}": _carried(config),
    }


def _carried(config: RunConfig) -> dict[str, Any]:
    """What the processes of a run have to know; texts that explain a preset stay behind.

    The dtype stays behind as well, so what it decides of the algorithm is decided here.
    """
    algorithm = config.algorithm.resolved(config.agent.max_response_tokens, _dtype(config))
    data = to_data(replace(config, algorithm=replace(algorithm, paper="", description="")))
    return {key: value for key, value in data.items() if key not in ("model", "sft", "log")}


def _dtype(config: RunConfig) -> str:
    """The dtype on the GPUs that verl needs, which compute bfloat16 faster."""
    return config.model.dtype.replace("auto", "bfloat16")


def _rollout(config: RunConfig) -> dict[str, Any]:
    rollout, agent, evaluation = config.rollout, config.agent, config.eval
    longest = agent.max_prompt_tokens + agent.max_response_tokens
    return {
        f"{_ROLLOUT}.n": rollout.group_size,
        f"{_ROLLOUT}.temperature": rollout.temperature,
        f"{_ROLLOUT}.dtype": _dtype(config),
        f"{_ROLLOUT}.prompt_length": agent.max_prompt_tokens,
        f"{_ROLLOUT}.response_length": agent.max_response_tokens,
        f"{_ROLLOUT}.max_model_len": longest,
        f"{_ROLLOUT}.agent.default_agent_loop": AGENT,
        f"{_ROLLOUT}.log_prob_max_token_len_per_gpu": config.optim.micro_tokens,
        f"{_ROLLOUT}.val_kwargs.temperature": evaluation.temperature,
        f"{_ROLLOUT}.val_kwargs.do_sample": evaluation.temperature > 0,
    }


def _actor(config: RunConfig) -> dict[str, Any]:
    algorithm, optim = config.algorithm, config.optim
    precision = {"param_dtype": _PRECISION[_dtype(config)], "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    return {
        f"{_ACTOR}.ppo_mini_batch_size": mini_batch_prompts(config),
        f"{_ACTOR}.ppo_epochs": optim.epochs,
        f"{_ACTOR}.data_loader_seed": config.seed,
        f"{_ACTOR}.ppo_max_token_len_per_gpu": optim.micro_tokens,
        f"{_ACTOR}.grad_clip": optim.grad_clip,
        # verl loads a reference for this switch; the loss itself is ours.
        f"{_ACTOR}.use_kl_loss": algorithm.needs_reference,
        f"{_ACTOR}.entropy_coeff": algorithm.loss.entropy_coef,
        f"{_ACTOR}.optim.lr": optim.learning_rate,
        f"{_ACTOR}.optim.betas": [optim.beta1, optim.beta2],
        f"{_ACTOR}.optim.weight_decay": optim.weight_decay,
        f"{_ACTOR}.optim.clip_grad": optim.grad_clip,
        f"{_ACTOR}.optim.lr_scheduler_type": optim.schedule,
        f"{_ACTOR}.optim.lr_warmup_steps": optim.warmup_iterations or -1,
        f"{_ACTOR}.optim.min_lr_ratio": optim.final_fraction,
        f"+{_ACTOR}.fsdp_config.mixed_precision": precision,
        f"+{_REF}.fsdp_config.mixed_precision": precision,
    }


def _trainer(config: RunConfig, machines: Machines, name: str, folder: str) -> dict[str, Any]:
    evaluation, optim = config.eval, config.optim
    return {
        "algorithm.filter_groups.enable": config.algorithm.sampling.dynamic,
        "trainer.nnodes": machines.nodes,
        "trainer.n_gpus_per_node": machines.gpus_per_node,
        "trainer.total_training_steps": optim.iterations,
        "trainer.val_before_train": evaluation.at_start,
        "trainer.test_freq": evaluation.every or optim.iterations,
        "trainer.save_freq": config.log.checkpoint_every or optim.iterations,
        "trainer.experiment_name": name,
        "trainer.default_local_dir": folder,
    }
