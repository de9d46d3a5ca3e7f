"""From a configuration to a finished run: policy, warm start, RL, evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stapo.policy import Policy, build_policy, load_policy
from stapo.rollout.evaluate import Protocol, evaluate, summarise
from stapo.run import RunDirectory
from stapo.train.loop import Trainer, Watcher, build_collector, env_factory, set_threads
from stapo.train.run_config import RunConfig
from stapo.train.schema import to_data
from stapo.train.warmstart import DemoStep, demonstrate, warm_start


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        run: its directory.
        evaluations: evaluation rows of start and end, sampled and greedy.
        seconds: wall time of each stage.
    """

    run: RunDirectory
    evaluations: list[dict[str, Any]]
    seconds: dict[str, float]


def train_run(config: RunConfig, out: Path, command: list[str], watcher: Watcher) -> Outcome:
    """Do a whole run into the new folder `out`.

    Raises:
        RunDirectoryError: `out` exists and is not empty.
        ConfigError, GameFileError, ModelError: what was asked for cannot be used; nothing was trained yet.
        NonFiniteError: training stopped before the weights moved on a non-finite number.
    """
    set_threads(config.log.threads)
    env = env_factory(config)()
    # Both splits are looked up before anything is written: a typo costs a second, not a warm start.
    env.tasks_of(config.env.split), env.tasks_of(config.eval.split)
    env.close()
    run = RunDirectory.create(out, to_data(config), command)
    try:
        started = time.perf_counter()
        policy = prepare_policy(config, run, watcher)
        prepared = time.perf_counter()
        evaluations = Trainer(config, policy, run, watcher).train()
        seconds = {"warm_start": prepared - started, "rl": time.perf_counter() - prepared}
    except KeyboardInterrupt:
        run.finish("stopped", reason="interrupted")
        raise
    except Exception as err:
        run.finish("failed", reason=f"{type(err).__name__}: {err}")
        raise
    run.finish("done", seconds=seconds, evaluations=evaluations)
    return Outcome(run, evaluations, seconds)


def prepare_policy(config: RunConfig, run: RunDirectory, watcher: Watcher) -> Policy:
    """Load the pretrained model, or build a small one on environment text; then warm-start it if configured."""
    demos: list[DemoStep] = []
    if config.model.path is None or config.warm_start.steps:
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
    if config.model.path is not None:
        policy = load_policy(config.model.path, config.model)
    else:
        longest = config.agent.max_prompt_tokens + config.agent.max_response_tokens
        policy = build_policy(config.model, tokenizer_texts(demos), longest, config.seed)
    if config.warm_start.steps:
        losses = warm_start(
            policy,
            demos,
            config.warm_start,
            config.seed,
            lambda done, total, loss: watcher.stage(f"warm start (loss {loss:.2f})", done, total),
            _probe(config, policy, run),
        )
        for step in range(0, len(losses), 10):
            part = losses[step : step + 10]
            run.append("warm_start", {"step": step + len(part), "loss": sum(part) / len(part)})
    return policy


def _probe(config: RunConfig, policy: Policy, run: RunDirectory) -> Callable[[int], float]:
    """A function that measures sampled success on training tasks; held-out tasks take no part in when to stop."""
    collector = build_collector(config, policy)
    env = collector.make_env()
    tasks = list(env.tasks_of(config.env.split))
    env.close()

    def measure(step: int) -> float:
        protocol = Protocol(
            config.env.split, config.warm_start.probe_episodes, config.rollout.temperature, (config.seed,)
        )
        success = float(summarise(evaluate(collector, tasks, protocol))["success"])
        run.append("warm_start", {"step": step, "train_success": success})
        return success

    return measure


def tokenizer_texts(demos: list[DemoStep]) -> Iterator[str]:
    """Texts that a small model's tokenizer is trained on.

    The task sentence is given word by word: whole sentences would become tokens that no held-out task ever uses.
    """
    for demo in demos:
        head, _, goal = demo.prompt.partition(demo.goal)
        yield head
        yield goal
        yield demo.action
        yield from (f" {word}" for word in demo.goal.rstrip(".").split())
