"""What comes before RL: demonstrations, and SFT as a stage of a run that can be stopped and resumed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from stapo.agent import AgentConfig
from stapo.config.environment import environment_of, environments_of, longest_tokens
from stapo.config.run_config import RunConfig
from stapo.errors import ConfigError
from stapo.policy import Policy, RowTokens, build_policy, load_policy
from stapo.rollout.encoding import PromptEncoder, told_of_template
from stapo.rollout.evaluate import EvalProtocol, evaluate, pass_shares, summarize
from stapo.rollout.faults import Outcome
from stapo.run import RunDirectory
from stapo.texts import counted
from stapo.training.callbacks import Callbacks
from stapo.training.checkpoint import RunState, read_tensors, restore_random_state, save_state
from stapo.training.demonstrations import DemoStep, demonstrate, tokenizer_texts
from stapo.training.environments import note_failures
from stapo.training.factories import RunEnv, RunEnvs
from stapo.training.interrupt import RunInterrupted
from stapo.training.loop import build_collector
from stapo.training.optimizer import restore_optimizer
from stapo.training.recorded import digest_of_data, read_steps
from stapo.training.resume import Restart
from stapo.training.sft import SFT

_LOGGED_STEPS = 10
_PHASE = "demonstrations"


def prepare_policy(
    config: RunConfig,
    run: RunDirectory,
    callbacks: Callbacks | None = None,
    restart: Restart | None = None,
    env: RunEnvs | None = None,
) -> Policy:
    """Load the pretrained model, or build a small one on environment text; then run SFT if configured.

    Args:
        config: of the run.
        run: gets rows of loss, and saves.
        callbacks: told what happens; may ask for a stop.
        restart: a save of SFT to resume from.
        env: the environments, where somebody has asked them already.
    """
    callbacks = callbacks or Callbacks()
    for agent in _agents(config):
        if agent.keeps_turns and agent.list_commands == "never" and not agent.constrained and not config.sft.steps:
            callbacks.notice(
                "agent.list_commands is never, agent.decode is free, and there is no SFT: nothing tells the policy "
                "which commands there are. Set list_commands to every_turn, or decode to constrained."
            )
    with ExitStack() as stack:
        if env is None:
            env = RunEnvs(config)
            stack.callback(env.close)
        what = "stopped before there was anything to save" if restart is None else "stopped; the last save stands"
        with callbacks.interrupts.at_once(what):
            policy, demos = _ready(config, run, callbacks, restart, env)
            tasks = {}
            for label, own in env.trained(config).items() if config.sft.steps else ():
                tasks[label] = own.tasks_of(own.config.env.split)
        # Collectors have environments of their own from here on.
        env.rest()
        if config.sft.steps:
            SFTStage(config, run, policy, callbacks, restart).run(demos, tasks)
    return policy


def _ready(
    config: RunConfig, run: RunDirectory, callbacks: Callbacks, restart: Restart | None, env: RunEnvs
) -> tuple[Policy, dict[str, list[DemoStep]]]:
    """Policy and, by environment, demonstrations, as SFT needs them."""
    policy = None
    if restart is not None:
        policy = load_policy(str(restart.folder / "policy"), config.model)
    elif config.model.path is not None:
        policy = load_policy(config.model.path, config.model)
    if policy is not None:
        encoder = PromptEncoder(policy.tokenizer, run.started)
        told = [text for agent in _agents(config) for text in told_of_template(agent, encoder)]
        for text in dict.fromkeys(told):
            callbacks.notice(text)
    demos: dict[str, list[DemoStep]] = {}
    if policy is None or config.sft.steps:
        for label, own in env.trained(config).items():
            demos[label] = _demonstrations(run, callbacks, restart, own, label if config.envs else "")
    if policy is None:
        shown = [demo for own in demos.values() for demo in own]
        policy = build_policy(config.model, tokenizer_texts(shown), sum(longest_tokens(config)), config.seed)
    return policy, demos


def _agents(config: RunConfig) -> list[AgentConfig]:
    return [own.agent for own in environments_of(config).values()]


def _demonstrations(
    run: RunDirectory, callbacks: Callbacks, restart: Restart | None, env: RunEnv, label: str
) -> list[DemoStep]:
    """Demonstrations of an environment; those that failed when it began are left out again, and noted once."""
    config = env.config
    if config.sft.data:
        return _recorded(run, env)
    left_out = frozenset(
        row["group"]
        for row in run.rows("failures")
        if row.get("phase") == _PHASE and row.get("outcome") == "left out" and row.get("env", "") == label
    )

    before = len(env.attempts.failures)
    if restart is None:
        note_failures(run, env.attempts.failures, "preflight", label)
    try:
        demos = demonstrate(
            env.pool,
            config.agent,
            config.sft,
            config.env.split,
            config.algorithm.selective.blind_mask,
            config.seed,
            partial(callbacks.stage, f"demonstrations ({label})" if label else "demonstrations"),
            attempts=env.attempts,
            left_out=left_out,
            slot=env.PLAYED,
        )
    finally:
        failures = env.attempts.failures[before:]
        if restart is None:
            note_failures(run, failures, _PHASE, label)
    lost = [failure for failure in failures if failure.outcome is Outcome.LEFT_OUT]
    if lost:
        last = lost[-1]
        callbacks.notice(
            f"demonstrations that failed and are left out: {len(lost):,}, the last one in its {last.boundary} (task "
            f"'{last.task_id}'): {last.error}"
            + ("; they succeeded when the run began, so this is not the same run any more" if restart else "")
        )
    return demos


def _recorded(run: RunDirectory, env: RunEnv) -> list[DemoStep]:
    """The steps of `sft.data`, which has to be the same file as when the run began."""
    file, info = env.config.sft.data, run.info()
    digest, held = digest_of_data(Path(file)), dict(info.get("sft_data") or {})
    if held.setdefault(file, digest) != digest:
        raise ConfigError(
            f"sft.data: '{file}' has changed since the run began (its SHA-256 was {held[file]}). Put the file back, or "
            "start another run with --out."
        )
    run.write_info({**info, "sft_data": held})
    return read_steps(env.config, env)


class SFTStage:
    """SFT as a stage of a run: rows, progress, saves by the clock, a stop within a step.

    Args:
        config: of the run.
        run: gets rows and saves.
        policy: is trained.
        callbacks: told what happens; may ask for a stop.
        restart: a save of SFT to resume from.
    """

    def __init__(
        self,
        config: RunConfig,
        run: RunDirectory,
        policy: Policy,
        callbacks: Callbacks,
        restart: Restart | None,
    ) -> None:
        self.config = config
        self.run_directory = run
        self.policy = policy
        self.callbacks = callbacks
        self.training = SFT(policy, config.sft, config.seed, run.started)
        self._spent, self._started = seconds_of(restart), time.perf_counter()
        self._saved_step, self._saved_at, self._cost = 0, time.monotonic(), 0.0
        self._best: list[float] = []
        self._best_weights: dict[str, torch.Tensor] = {}
        if restart is not None:
            self._restore(restart)

    def run(self, demos: Mapping[str, list[DemoStep]], tasks: Mapping[str, Sequence[str]]) -> None:
        """Train on the demonstrations of each environment; `tasks` are those of its training split, for probes.

        Raises:
            RunInterrupted: a stop was asked for; what was trained is saved.
            NonFiniteError: before the weights move on a non-finite number.
        """
        self.training.run(
            [demo for own in demos.values() for demo in own],
            after_step=self._after_step,
            probe=partial(self._probe, tasks),
            droppable=self._droppable,
            encoded=partial(self.callbacks.stage, "reading demonstrations"),
            read=partial(self._check_limits, {label: len(own) for label, own in demos.items()}),
        )
        self._write_row()  # SFT that `stop_at` ended between two rows
        if self._best:
            step, share, success = self._best
            k = self.config.sft.probe_k
            self.callbacks.notice(f"SFT keeps its step {step:.0f}: pass@{k} {share:.3f}, success {success:.3f}")
            with torch.no_grad():
                for name, weight in self.policy.model.named_parameters():
                    weight.copy_(self._best_weights[name])

    def _check_limits(self, counts: Mapping[str, int], every: list[RowTokens]) -> None:
        """Say what of the demonstrations, so many of each environment, is longer than a policy may read or write."""
        left = iter(every)
        for label, count in counts.items():
            agent, rows = environment_of(self.config, label).agent, list(islice(left, count))
            for what in ("prompt", "response"):
                lengths = [len(getattr(row, f"{what}_ids")) for row in rows]
                setting, limit = f"max_{what}_tokens", getattr(agent, f"max_{what}_tokens")
                if longer := sum(length > limit for length in lengths):
                    self.callbacks.notice(
                        f"of {counted(len(rows), f'demonstrated {what}')} {longer:,} take more than agent.{setting} "
                        f"({limit}), the longest {max(lengths):,}: SFT teaches what no episode can have. Raise the "
                        "limit."
                    )

    def _restore(self, restart: Restart) -> None:
        training, state = self.training, restart.state
        restore_optimizer(training.optimizer, self.policy.model, read_tensors(restart.folder / "optimizer.safetensors"))
        training.step, training.end = state.sft_step, state.sft_end
        training.losses = list(state.sft_losses)
        if state.sft_best:
            self._best = list(state.sft_best)
            self._best_weights = read_tensors(restart.folder / "best.safetensors")
        rows = self.run_directory.rows("sft")
        probed = any(row.get("step") == state.sft_step and "train_success" in row for row in rows)
        training.probe_due = training.wants_probe() and not probed
        restore_random_state(state.random, read_tensors(restart.folder / "random.safetensors"))
        self._saved_step = state.sft_step

    def _after_step(self) -> None:
        training, steps = self.training, self.config.sft.steps
        self.callbacks.stage(f"SFT (loss {training.losses[-1]:.2f})", training.step, steps)
        if training.step % _LOGGED_STEPS == 0 or training.step == steps:
            self._write_row()
        # A save that takes long comes less often, so that it costs a tenth of the time at most.
        patience = max(self.config.log.save_seconds, 10 * self._cost)
        if training.step < steps and time.monotonic() - self._saved_at >= patience:
            self._save()

    @contextmanager
    def _droppable(self) -> Iterator[None]:
        """What is done here is dropped when a stop is asked for, and done again; what was trained before is saved."""
        try:
            with self.callbacks.interrupts.at_once("stopped within SFT, with everything saved"):
                yield
        except RunInterrupted:
            if self.training.step != self._saved_step:
                self._save()
            raise

    def _save(self) -> None:
        began = time.monotonic()
        training = self.training
        seconds = {**self._spent, "sft": self._spent["sft"] + time.perf_counter() - self._started}
        state = RunState(
            stage="sft",
            sft_step=training.step,
            sft_end=training.end,
            sft_losses=list(training.losses),
            sft_best=list(self._best),
            seconds=seconds,
        )
        save_state(
            self.run_directory, self.config, state, self.policy, training.optimizer, None, self.callbacks,
            best=self._best_weights,
        )  # fmt: skip
        self._saved_step, self._saved_at = training.step, time.monotonic()
        self._cost = self._saved_at - began

    def _write_row(self) -> None:
        losses = self.training.losses
        if losses:
            row = {"step": self.training.step, "loss": sum(losses) / len(losses)}
            self.run_directory.append("sft", row)
            losses.clear()

    def _probe(self, tasks: Mapping[str, Sequence[str]], step: int) -> float:
        """Sampled success on training tasks, of all environments alike; held-out tasks take no part in when to stop."""
        sft, found = self.config.sft, {}
        for label, own in tasks.items():
            found[label] = self._probe_of(label, own)
        success, share = (fmean(numbers) for numbers in zip(*found.values(), strict=True))
        row: dict[str, Any] = {"step": step, "train_success": success}
        if self.config.envs:
            row["envs"] = {label: {"train_success": own} for label, (own, _) in found.items()}
        if sft.probe_k > 1:
            row["train_pass_at_k"] = share
        if sft.keep == "best":
            row["best"] = not self._best or [share, success] > self._best[1:]
            if row["best"]:
                weights = self.policy.model.named_parameters()
                self._best = [float(step), share, success]
                self._best_weights = {name: w.detach().to("cpu", copy=True).contiguous() for name, w in weights}
        self.run_directory.append("sft", row)
        return success

    def _probe_of(self, label: str, tasks: Sequence[str]) -> tuple[float, float]:
        """Success in one environment, and the share of its tasks that one of the attempts won."""
        config = environment_of(self.config, label)
        sft, seeds = config.sft, (config.seed,)
        protocol = EvalProtocol(config.env.split, sft.probe_episodes, config.rollout.temperature, seeds, sft.probe_k)
        collector = build_collector(config, self.policy, clock=self.run_directory.started)

        progress = partial(self.callbacks.stage, "probing SFT")
        try:
            with self._droppable():
                played = evaluate(collector, tasks, protocol, progress=progress)
        finally:
            collector.close()
        note_failures(self.run_directory, collector.take_failures(), "SFT", label if self.config.envs else "")
        return float(summarize(played)["success"]), pass_shares(played, sft.probe_k)[sft.probe_k].value


def seconds_of(restart: Restart | None) -> dict[str, float]:
    """Wall time of each stage so far."""
    return {"sft": 0.0, "rl": 0.0, **({} if restart is None else restart.state.seconds)}
