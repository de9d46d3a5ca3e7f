"""From a configuration to a finished run: policy, warm start, RL, evaluation; or on from where a run was stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stapo.policy import Policy, build_policy, load_policy
from stapo.rollout.evaluate import Protocol, evaluate, summarise
from stapo.run import RunDirectory
from stapo.train.continuing import (
    Restart,
    check_place,
    check_same_run,
    find_restart,
    finished,
    is_finished,
    is_run,
    make_folder,
)
from stapo.train.demonstrations import DemoStep, demonstrate, tokenizer_texts
from stapo.train.interrupt import Interrupts, RunInterrupted
from stapo.train.keeping import keep_state
from stapo.train.loop import Trainer, build_collector, set_threads
from stapo.train.optimizer import restore_optimizer
from stapo.train.playing import env_factory
from stapo.train.randomness import restore_random_state, seed_all
from stapo.train.run_config import RunConfig
from stapo.train.schema import from_data, to_data
from stapo.train.state import RunState, read_tensors
from stapo.train.warmstart import WarmStart
from stapo.train.watcher import Attentive, Watcher

_LOGGED_STEPS = 10


@dataclass(frozen=True)
class Outcome:
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


def train_run(config: RunConfig, out: Path, command: list[str], watcher: Watcher) -> Outcome:
    """Do a whole run in the folder `out`, or what is left of the run that is there.

    A run that was stopped, killed or has failed goes on from its newest undamaged save, and ends with the numbers that
    it would have had anyway.

    Raises:
        RunDirectoryError: `out` holds something else than a run, cannot be written, or another process is writing it.
        ConfigError, GameFileError, ModelError: what was asked for cannot be used; nothing was trained yet. Also for a
            run that is there and was made with other settings.
        SaveError: the state could not be saved, or the run that is there has no save that can be used.
        NonFiniteError: training stopped before the weights moved on a non-finite number.
        FailureLimitError: too many episodes in a row failed for reasons that are not the policy's.
        RunInterrupted: SIGTERM or SIGINT asked for a stop.
    """
    set_threads(config.log.threads)
    env = env_factory(config)()
    # Both splits are looked up before anything is written: a typo costs a second, not a warm start.
    env.tasks_of(config.env.split), env.tasks_of(config.eval.split)
    env.close()
    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts(config.log.grace, watcher.notice))
        check_place(out, config)
        make_folder(out)
        stack.enter_context(RunDirectory(out).lock())
        run = RunDirectory.open(out) if is_run(out) else RunDirectory.create(out, to_data(config), command)
        return _train(run, config, command, Attentive(watcher, interrupts), interrupts)


def _train(
    run: RunDirectory, config: RunConfig, command: list[str], watcher: Attentive, interrupts: Interrupts
) -> Outcome:
    if is_finished(run, config):
        found = finished(run)
        for said in found.remarks:
            watcher.notice(said)
        return Outcome(run, found.evaluations, found.seconds, was_finished=True)
    changes = check_same_run(run, config)
    restart = find_restart(run, config)
    _tidy(run, config, restart)
    _announce(run, command, restart, changes, watcher)
    try:
        seed_all(config.seed)
        trainer = _prepare(run, config, restart, watcher, interrupts)
        evaluations = trainer.train()
    except RunInterrupted as err:
        run.finish("stopped", reason=str(err))
        raise
    except KeyboardInterrupt:
        run.finish("stopped", reason="interrupted")
        raise
    except Exception as err:
        run.finish("failed", reason=f"{type(err).__name__}: {err}")
        raise
    run.finish("done", iterations=config.optim.iterations, seconds=trainer.seconds, evaluations=evaluations)
    return Outcome(run, evaluations, trainer.seconds)


def _tidy(run: RunDirectory, config: RunConfig, restart: Restart | None) -> None:
    """Bring the folder to where the save was taken, and note changed settings."""
    run.saves.set_aside(None if restart is None else restart.folder)
    run.cut_back({} if restart is None else restart.state.rows, -1 if restart is None else restart.state.iteration)
    before = from_data(RunConfig, run.config())
    if before != config:
        final = run.checkpoint("final")
        earlier = run.checkpoint(f"iteration-{before.optim.iterations:05d}")
        if final.exists() and before.optim.iterations != config.optim.iterations and not earlier.exists():
            final.rename(earlier)
        run.write_config(to_data(config))


def _announce(
    run: RunDirectory, command: list[str], restart: Restart | None, changes: list[str], watcher: Watcher
) -> None:
    if restart is not None:
        for reason in restart.reasons:
            watcher.notice(f"a save cannot be used: {reason} It was set aside as saves/damaged-NNNNNN.")
        state = restart.state
        where = (
            f"step {state.warm_step} of the warm start"
            if state.stage == "warm_start"
            else f"iteration {state.iteration}"
        )
        watcher.notice(f"going on with the run in {run.path} after {where}, from {restart.folder.name} of its saves")
        for said in restart.remarks:
            watcher.notice(said)
        run.note_resume(command, restart.folder.name, state.iteration)
    elif run.info().get("status") != "running" or "resumed" in run.info():
        run.note_resume(command, "", 0)
    if changes:
        watcher.notice("settings changed since: " + "; ".join(changes))


def _prepare(
    run: RunDirectory, config: RunConfig, restart: Restart | None, watcher: Attentive, interrupts: Interrupts
) -> Trainer:
    """The trainer, with the policy that the warm start leaves or the save holds."""
    started = time.perf_counter()
    if restart is None or restart.state.stage == "warm_start":
        policy, seconds = prepare_policy(config, run, watcher, interrupts, restart), _seconds(restart)
        seconds["warm_start"] += time.perf_counter() - started
        return Trainer(config, policy, run, watcher, interrupts, seconds=seconds)
    policy, reference = _saved_policy(restart.folder, config)
    trainer = Trainer(config, policy, run, watcher, interrupts, reference)
    trainer.restore(restart.folder, restart.state)
    return trainer


def _saved_policy(folder: Path, config: RunConfig) -> tuple[Policy, Any | None]:
    """The policy of a save, and its reference where that is a model of its own."""
    if config.model.lora.rank:
        policy = load_policy(str(folder / "reference"), config.model)
        policy.attach(config.model.lora, config.seed)
        assert policy.adapter is not None
        policy.adapter.load(folder / "policy")
        return policy, None
    policy = load_policy(str(folder / "policy"), config.model)
    if not config.algorithm.needs_reference:
        return policy, None
    place = replace(config.model, device="cpu") if config.model.reference == "cpu" else config.model
    return policy, load_policy(str(folder / "reference"), place).model


def _seconds(restart: Restart | None) -> dict[str, float]:
    return {"warm_start": 0.0, "rl": 0.0, **({} if restart is None else restart.state.seconds)}


def prepare_policy(
    config: RunConfig,
    run: RunDirectory,
    watcher: Watcher,
    interrupts: Interrupts | None = None,
    restart: Restart | None = None,
) -> Policy:
    """Load the pretrained model, or build a small one on environment text; then warm-start it if configured.

    Args:
        config: of the run.
        run: gets rows of loss, and saves.
        watcher: who looks on.
        interrupts: requests to stop.
        restart: a save of the warm start to go on from.
    """
    policy = None
    if restart is not None:
        policy = load_policy(str(restart.folder / "policy"), config.model)
    elif config.model.path is not None:
        policy = load_policy(config.model.path, config.model)
    demos: list[DemoStep] = []
    if policy is None or config.warm_start.steps:
        demos = _demonstrations(config, watcher)
    if policy is None:
        longest = config.agent.max_prompt_tokens + config.agent.max_response_tokens
        policy = build_policy(config.model, tokenizer_texts(demos), longest, config.seed)
    if config.warm_start.steps:
        _warm_start(policy, demos, config, run, watcher, interrupts or Interrupts(0.0), restart)
    return policy


def _demonstrations(config: RunConfig, watcher: Watcher) -> list[DemoStep]:
    env = env_factory(config)()
    demos = demonstrate(
        env,
        config.agent,
        config.warm_start,
        config.env.split,
        config.algorithm.selective.blind_mask,
        config.seed,
        lambda done, total: watcher.stage("demonstrations", done, total),
    )
    env.close()
    return demos


def _warm_start(
    policy: Policy,
    demos: list[DemoStep],
    config: RunConfig,
    run: RunDirectory,
    watcher: Watcher,
    interrupts: Interrupts,
    restart: Restart | None,
) -> None:
    training = WarmStart(policy, config.warm_start, config.seed)
    spent, started = _seconds(restart), time.perf_counter()
    if restart is not None:
        restore_optimizer(training.optimizer, policy.model, read_tensors(restart.folder / "optimizer.safetensors"))
        training.step, training.end = restart.state.warm_step, restart.state.warm_end
        restore_random_state(restart.state.random, read_tensors(restart.folder / "random.safetensors"))
    losses: list[float] = []
    saved = time.monotonic()

    def after_step(loss: float) -> None:
        nonlocal saved
        losses.append(loss)
        step = training.step
        watcher.stage(f"warm start (loss {loss:.2f})", step, config.warm_start.steps)
        if step % _LOGGED_STEPS and step < config.warm_start.steps:
            return
        run.append("warm_start", {"step": step, "loss": sum(losses) / len(losses)})
        losses.clear()
        if step < config.warm_start.steps and (
            interrupts.requested or time.monotonic() - saved >= config.log.save_seconds
        ):
            seconds = {**spent, "warm_start": spent["warm_start"] + time.perf_counter() - started}
            state = RunState(stage="warm_start", warm_step=step, warm_end=training.end, seconds=seconds)
            keep_state(run, config, state, policy, training.optimizer, None, watcher)
            saved = time.monotonic()
            interrupts.leave()

    training.run(demos, after_step=after_step, probe=_probe(config, policy, run))
    if losses:  # a warm start that `stop_at` ended between two rows
        run.append("warm_start", {"step": training.step, "loss": sum(losses) / len(losses)})


def _probe(config: RunConfig, policy: Policy, run: RunDirectory) -> Callable[[int], float]:
    """A function that measures sampled success on training tasks; held-out tasks take no part in when to stop."""
    env = env_factory(config)()
    tasks = list(env.tasks_of(config.env.split))
    env.close()

    def measure(step: int) -> float:
        protocol = Protocol(
            config.env.split, config.warm_start.probe_episodes, config.rollout.temperature, (config.seed,)
        )
        collector = build_collector(config, policy)
        success = float(summarise(evaluate(collector, tasks, protocol))["success"])
        collector.close()
        run.append("warm_start", {"step": step, "train_success": success})
        return success

    return measure
