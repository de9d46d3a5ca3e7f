"""From a configuration to a finished run: policy, SFT, RL, evaluation; or on from where a run was stopped."""

from __future__ import annotations

import copy
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.errors import writing
from stapo.policy import Policy, load_policy
from stapo.run import RunDirectory
from stapo.trackers.process import check_names
from stapo.training.callbacks import Callbacks, StartEvent, TrackerCallback
from stapo.training.checkpoint import REFRESHED, read_tensors, seed_all
from stapo.training.choices import KEPT, Resolved, resolve_auto
from stapo.training.evaluations import evaluated_tasks
from stapo.training.factories import RunEnvs
from stapo.training.fork import plan_fork, require_begun
from stapo.training.loop import Trainer, set_threads
from stapo.training.preparation import prepare_policy, seconds_of
from stapo.training.resume import (
    Restart,
    check_place,
    check_same_run,
    find_restart,
    finished,
    is_finished,
    open_or_begin,
)


@dataclass(frozen=True)
class TrainingOutcome:
    """What a run came to.

    Attributes:
        run: its directory.
        evaluations: evaluation rows of start and end, sampled and greedy.
        seconds: wall time of each stage, over all parts of an interrupted run.
        was_finished: the run was done already, and nothing was trained.
    """

    run: RunDirectory
    evaluations: list[dict[str, Any]]
    seconds: dict[str, float]
    was_finished: bool = False


def train_run(
    config: RunConfig,
    out: Path,
    command: list[str],
    callbacks: Callbacks | None = None,
    env: RunEnvs | None = None,
    resolved: Resolved | None = None,
    fork: Path | None = None,
) -> TrainingOutcome:
    """Do a whole run in the folder `out`, or what is left of the run that is there.

    A run that was stopped, killed or has failed resumes from its newest undamaged save, and ends with the numbers that
    it would have had anyway.

    Args:
        config: of the run.
        out: its folder.
        command: how it was asked for.
        callbacks: told what happens; may ask for a stop.
        env: the environments, where somebody has asked them already.
        resolved: the settings without `auto`, where they were decided already; they count instead of `config`.
        fork: another run, whose newest save a new run begins with.

    Raises:
        RunDirectoryError: `out` holds something else than a run, cannot be written, or another process is writing it.
        ConfigError, GameFileError, ModelError: what was asked for cannot be used; nothing was trained yet. Also for a
            run that is there and was made with other settings.
        SaveError: the state could not be saved, or the run that is there has no save that can be used.
        NonFiniteError: training stopped before the weights moved on a non-finite number.
        FailureLimitError: too many episodes in a row failed for reasons that are not the policy's.
        RunInterrupted: SIGTERM, SIGINT or a callback asked for a stop.
    """
    callbacks = callbacks or Callbacks()
    if resolved is None:
        resolved = resolve_auto(config, out, callbacks.notice)
    config = resolved.config
    set_threads(resolved.threads)
    with ExitStack() as stack:
        if env is None:
            env = RunEnvs(config)
            stack.callback(env.close)
        if not (out / "run.json").exists():  # a run that is there is not stopped by a tracker that is gone
            check_names(config.log.trackers)
        # All splits are looked up before anything is written: a typo costs a second, not SFT.
        for own in env.envs.values():
            own.tasks_of(own.config.env.split), evaluated_tasks(own.config, own.tasks_of, env.scores)
        callbacks.interrupts.grace = config.log.grace
        stack.enter_context(callbacks.interrupts)
        check_place(out, config)
        start = None if fork is None else plan_fork(fork, config)
        with writing(f"run directory '{out}'"):
            out.mkdir(parents=True, exist_ok=True)
        stack.enter_context(RunDirectory(out).lock())
        run = open_or_begin(out, config, command)
        if start is None:
            require_begun(run)
        else:
            callbacks.notice(start.told())
            start.begin(run)
        if resolved.chosen and KEPT not in (info := run.info()):
            run.write_info({**info, KEPT: resolved.chosen})
        stack.enter_context(callbacks.joined_by(TrackerCallback(config.log.trackers, callbacks.notice)))
        return _train(run, config, command, callbacks, env)


def _train(
    run: RunDirectory, config: RunConfig, command: list[str], callbacks: Callbacks, env: RunEnvs
) -> TrainingOutcome:
    if is_finished(run, config):
        evaluations, seconds = finished(run)
        for said in run.remarks():
            callbacks.notice(said)
        return TrainingOutcome(run, evaluations, seconds, was_finished=True)
    changes = check_same_run(run, config)
    restart = find_restart(run, config)
    _tidy(run, config, restart, changes)
    _announce(run, command, restart, changes, callbacks)
    try:
        iteration, save = (0, "") if restart is None else (restart.state.iteration, restart.folder.name)
        callbacks.tell(
            "on_start",
            lambda: StartEvent(path=run.path, config=copy.deepcopy(config), iteration=iteration, save=save),
        )
        seed_all(config.seed)
        trainer = _prepare(run, config, restart, callbacks, env)
        evaluations = trainer.train()
    except KeyboardInterrupt as err:
        reason = str(err) or "interrupted"
        run.finish("stopped", reason=reason)
        callbacks.end("stopped", reason)
        raise
    except BaseException as err:  # whatever it is, a run that ended is not running
        reason = f"{type(err).__name__}: {err}"
        run.finish("failed", reason=reason)
        callbacks.end("failed", reason)
        raise
    facts: dict[str, Any] = {"iterations": config.optim.iterations, "seconds": trainer.seconds}
    if (choice := trainer.choice) is not None:
        chosen, early = choice.said(config.eval.keep_best), trainer.ended_early
        facts |= {"best": asdict(choice), "chosen_best": chosen, "ended_early": early, "ended_at": trainer.iteration}
        for said in filter(None, (early, chosen)):
            callbacks.notice(said)
    run.finish("done", **facts, evaluations=evaluations)
    callbacks.end("done")
    return TrainingOutcome(run, evaluations, trainer.seconds)


def _tidy(run: RunDirectory, config: RunConfig, restart: Restart | None, changes: list[str]) -> None:
    """Bring the folder to where the save was taken, and note changed settings."""
    run.saves.set_aside(None if restart is None else restart.folder)
    run.cut_back({} if restart is None else restart.state.rows, -1 if restart is None else restart.state.iteration)
    before = from_data(RunConfig, run.config())
    if before != config:
        final = run.checkpoint("final")
        ended_at = run.info().get("ended_at")
        earlier = run.checkpoint(f"iteration-{ended_at if type(ended_at) is int else before.optim.iterations:05d}")
        ends = ("optim.iterations", "eval.stop_at", "eval.patience")
        if final.exists() and any(c.startswith(ends) for c in changes) and not earlier.exists():
            final.rename(earlier)
        run.write_config(to_data(config))


def _announce(
    run: RunDirectory, command: list[str], restart: Restart | None, changes: list[str], callbacks: Callbacks
) -> None:
    if restart is not None:
        for reason in restart.reasons:
            callbacks.notice(f"a save cannot be used: {reason} It was set aside as saves/damaged-NNNNNN.")
        state = restart.state
        where = f"step {state.sft_step} of SFT" if state.stage == "sft" else f"iteration {state.iteration}"
        callbacks.notice(f"resuming the run in {run.path} after {where}, from {restart.folder.name} of its saves")
        for said in restart.remarks:
            callbacks.notice(said)
        run.note_resume(command, restart.folder.name, state.iteration)
    elif run.info().get("status") != "running" or "resumed" in run.info():
        run.note_resume(command, "", 0)
    if changes:
        callbacks.notice("settings changed since: " + "; ".join(changes))


def _prepare(
    run: RunDirectory,
    config: RunConfig,
    restart: Restart | None,
    callbacks: Callbacks,
    env: RunEnvs,
) -> Trainer:
    """The trainer, with the policy that SFT leaves or the save holds."""
    started = time.perf_counter()
    if restart is None or restart.state.stage == "sft":
        policy, seconds = prepare_policy(config, run, callbacks, restart, env), seconds_of(restart)
        seconds["sft"] += time.perf_counter() - started
        return Trainer(config, policy, run, callbacks, seconds=seconds)
    policy, reference = _saved_policy(restart.folder, config)
    trainer = Trainer(config, policy, run, callbacks, reference)
    trainer.restore(restart.folder, restart.state)
    return trainer


def _saved_policy(folder: Path, config: RunConfig) -> tuple[Policy, Any | None]:
    """The policy of a save, and its reference where that is a model of its own."""
    if config.model.lora.rank:
        policy = load_policy(str(folder / "reference"), config.model)
        policy.attach(config.model.lora, config.seed)
        assert policy.adapter is not None
        policy.adapter.load(folder / "policy")
        if (folder / REFRESHED).is_file():
            policy.adapter.refresh_reference(read_tensors(folder / REFRESHED))
        return policy, None
    policy = load_policy(str(folder / "policy"), config.model)
    # A fork of a run without a reference has none yet: its start becomes it.
    if not config.algorithm.needs_reference or not (folder / "reference").is_dir():
        return policy, None
    place = replace(config.model, device="cpu") if config.model.reference == "cpu" else config.model
    return policy, load_policy(str(folder / "reference"), place).model
