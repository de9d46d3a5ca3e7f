"""What can be found wrong with a run before anything is trained or written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from stapo.config.environment import environments_of
from stapo.config.run_config import RunConfig
from stapo.envs.guard import EnvFailure, EpisodeLost
from stapo.envs.pool import EnvPool
from stapo.errors import ConfigError, GameFileError
from stapo.policy import check_chat_template, check_model, require_memory, require_peft
from stapo.rollout.evaluate import pick_tasks
from stapo.rollout.faults import Attempts, TaskFailed
from stapo.rollout.vllm_engine import require_settings, require_vllm
from stapo.texts import counted
from stapo.training.demonstrations import require_demonstrator
from stapo.training.evaluations import evaluated_tasks, protocols
from stapo.training.factories import RunEnv, RunEnvs
from stapo.training.recorded import read_steps
from stapo.training.resume import check_place, is_run
from stapo.training.rewards import reward_functions
from stapo.training.tasks import training_stream


def preflight(config: RunConfig, out: Path, progress: Callable[[int, int], None] | None = None) -> RunEnvs:
    """Check run directory, model, environment, splits and games; a typo then costs a second instead of SFT.

    Of a run that is there already the games were checked when it began.

    Args:
        config: of the run.
        out: its directory.
        progress: called with (checked, all) games.

    Returns:
        its environments. As long as they live, further ones in this process share the games they have read.

    Raises:
        RunDirectoryError: `out` exists and is not empty.
        ModelError: the model folder cannot be a model, or it does not fit the run or the machine.
        ConfigError, UnknownNameError: an extra is not installed, a reward function cannot be imported, no such
            environment, option or split, a split without tasks, or a run is there that was made with other settings.
        GameFileError: games that cannot be read, or that cannot be won.
        EnvError: the environment cannot say which tasks it has.
        FailureLimitError: its code failed at too many games in a row.
    """
    check_place(out, config)
    there = is_run(out)
    if config.model.lora.rank:
        require_peft()
    if config.rollout.engine == "vllm":
        require_vllm()
        require_settings(config.rollout.vllm)
    for own in environments_of(config).values():
        reward_functions(own.rewards)
    if config.model.path is not None and not there:
        check_fit(config.model.path, config)
    return open_world(config, there, progress)


def open_world(config: RunConfig, there: bool, progress: Callable[[int, int], None] | None = None) -> RunEnvs:
    """Check environment, splits, demonstrator and games.

    Args:
        config: of the run.
        there: the run has begun, and its games were checked then.
        progress: called with (checked, all) games.

    Returns:
        the environments.

    Raises:
        StapoError: as `preflight` does.
    """
    envs = RunEnvs(config)
    try:
        for label, env in envs.envs.items():
            evaluated_tasks(env.config, env.tasks_of, envs.scores)
            _check_world(env, there, label in envs.trained(config), progress)
    except BaseException:
        envs.close()
        raise
    return envs


def _check_world(env: RunEnv, there: bool, trained: bool, progress: Callable[[int, int], None] | None) -> None:
    config = env.config
    if not env.tasks_of(split := config.env.split):
        raise ConfigError(f"split '{split}' of environment '{env.name}' holds no task; choose another with env.split.")
    training_stream(env.tasks_of(config.env.split), config)  # there are as many as `rollout.tasks` asks for
    if not there and trained and (config.model.path is None or config.sft.steps):
        if config.sft.data:
            read_steps(config, env)
        else:
            require_demonstrator(env.pool)
    # Generated games are solvable by construction; those of a file may hold anything.
    if config.env.options.get("games") is not None and not there:
        require_playable(env.pool, tasks_of_run(config, env), progress, env.attempts)


def check_prompted(path: str, config: RunConfig) -> None:
    """Check that a folder or name can be a model, and one that the prompts of a run are written for.

    Raises:
        ModelError: it cannot, or has no chat template where prompts want one.
    """
    check_model(path)
    model = config.model
    for_chat_models = any(own.agent.for_chat_models for own in environments_of(config).values())
    if model.chat_template != "none" and (for_chat_models or model.chat_template != "auto"):
        check_chat_template(path, model)


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
        all_trained=config.sft.steps > 0,
    )


class HasTasks(Protocol):
    """An environment, or whoever asks one."""

    def tasks_of(self, split: str) -> Sequence[str]:
        """Sorted task ids of a split."""
        ...


def tasks_of_run(config: RunConfig, env: HasTasks) -> list[str]:
    """The tasks that RL and evaluations will play, each once."""
    stream = training_stream(env.tasks_of(config.env.split), config)
    sampling = config.algorithm.sampling
    most = config.rollout.groups * (sampling.max_rounds if sampling.dynamic else 1)
    training = stream.take(min(config.optim.iterations * most, len(stream.tasks)))
    if config.tasks.sampler != "uniform":
        training = stream.tasks  # which of them is not known beforehand
    held_out = [
        task
        for protocol in protocols(config, final=True).values()
        for task in pick_tasks(list(env.tasks_of(protocol.split)), protocol.tasks or protocol.episodes)
    ]
    return list(dict.fromkeys([*training, *held_out]))


def require_playable(
    pool: EnvPool,
    tasks: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
    attempts: Attempts | None = None,
) -> None:
    """Reset every task and, where the environment has an expert, ask it for a plan.

    Code that fails at a task says nothing against its game: that is counted, and costs what it costs in a rollout.

    Args:
        pool: has the environment, in its first slot.
        tasks: what is tried.
        progress: called with (tried, all).
        attempts: counts failures; left out, the first one ends it.

    Raises:
        GameFileError: tasks that cannot be played or won; the first few are named with their reasons.
        FailureLimitError: too many failures in a row.
    """
    problems: list[str] = []
    tried = Attempts(0, 1) if attempts is None else attempts
    pool.grow(1)

    def problem_of(task: str) -> str:
        said = pool.ask(0, "playable", task)
        if isinstance(said, EnvFailure | EpisodeLost):
            pool.discard(0)
            raise TaskFailed(said)
        return str(said or "")

    for number, task in enumerate(tasks):
        said = tried.until_done(partial(problem_of, task), task, number)
        problems += [said] if said else []
        if progress is not None:
            progress(number + 1, len(tasks))
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise GameFileError(
            f"{len(problems):,} of {counted(len(tasks), 'game')} that this run would play cannot be used: "
            f"{'; '.join(problems[:3])}{more}. Take them out of the files."
        )
