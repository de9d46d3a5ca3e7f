"""What can be found wrong with a run before anything is trained or written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from stapo.envs import Env
from stapo.errors import ConfigError, GameFileError
from stapo.policy import check_chat_template, check_model, require_memory, require_peft
from stapo.rollout.evaluate import pick_tasks
from stapo.rollout.vllm import require_vllm
from stapo.train.continuing import check_place, is_run
from stapo.train.playing import env_factory
from stapo.train.run_config import RunConfig
from stapo.train.tasks import TaskStream


def preflight(config: RunConfig, out: Path, progress: Callable[[int, int], None] | None = None) -> Env:
    """Check run directory, model, environment, splits and games; a typo then costs a second instead of a warm start.

    Of a run that is there already the games were checked when it began.

    Args:
        config: of the run.
        out: its directory.
        progress: called with (checked, all) games.

    Returns:
        the environment. As long as it lives, further ones share the games it has read.

    Raises:
        RunDirectoryError: `out` exists and is not empty.
        ModelError: the model folder cannot be a model, or it does not fit the run or the machine.
        ConfigError, UnknownNameError: an extra is not installed, no such environment, option or split, a split without
            tasks, or a run is there that was made with other settings.
        GameFileError: games that cannot be read, or that cannot be won.
    """
    check_place(out, config)
    there = is_run(out)
    if config.model.lora.rank:
        require_peft()
    if config.rollout.engine == "vllm":
        require_vllm()
    if config.model.path is not None and not there:
        check_fit(config.model.path, config)
    env = env_factory(config)()
    for key, split in (("env.split", config.env.split), ("eval.split", config.eval.split)):
        if not len(env.tasks_of(split)):
            raise ConfigError(f"split '{split}' of environment '{env.name}' holds no task; choose another with {key}.")
    # Generated games are solvable by construction; those of a file may hold anything.
    if config.env.options.get("games") is not None and not there:
        require_playable(env, tasks_of_run(config, env), progress)
    return env


def check_prompted(path: str, config: RunConfig) -> None:
    """Check that a folder or name can be a model, and one that the prompts of a run are written for.

    Raises:
        ModelError: it cannot, or has no chat template where prompts want one.
    """
    check_model(path)
    if config.model.chat_template == "auto" and config.agent.for_chat_models:
        check_chat_template(path)


def check_fit(path: str, config: RunConfig) -> None:
    """Check a pretrained model against the run that is to train it, without reading its weights.

    Raises:
        ModelError: it cannot be a model, has no chat template where prompts want one, or needs more memory than there
            is.
    """
    check_prompted(path, config)
    require_memory(
        path,
        config.model,
        reference=config.algorithm.needs_reference,
        critic=config.algorithm.needs_critic,
        all_trained=config.warm_start.steps > 0,
    )


def tasks_of_run(config: RunConfig, env: Env) -> list[str]:
    """The tasks that RL and evaluations will play, each once."""
    stream = TaskStream(env.tasks_of(config.env.split), config.seed)
    sampling = config.algorithm.sampling
    most = config.rollout.groups * (sampling.max_rounds if sampling.dynamic else 1)
    training = stream.take(min(config.optim.iterations * most, len(stream.tasks)))
    held_out = list(env.tasks_of(config.eval.split))
    return list(dict.fromkeys(training + pick_tasks(held_out, config.eval.episodes)))


def require_playable(env: Env, tasks: Sequence[str], progress: Callable[[int, int], None] | None = None) -> None:
    """Reset every task and, where the environment has an expert, ask it for a plan.

    Raises:
        GameFileError: tasks that cannot be played or won; the first few are named with their reasons.
    """
    problems: list[str] = []
    plan = getattr(env, "expert_plan", None)
    for number, task in enumerate(tasks, start=1):
        try:
            env.reset(task)
            if plan is not None and plan() is None:
                problems.append(f"game '{task}': no sequence of actions reaches its goal")
        except GameFileError as err:
            problems.append(str(err).rstrip("."))
        if progress is not None:
            progress(number, len(tasks))
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise GameFileError(
            f"{len(problems)} of the {len(tasks)} games that this run would play cannot be used: "
            f"{'; '.join(problems[:3])}{more}. Take them out of the files."
        )
