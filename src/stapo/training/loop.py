"""The training loop: roll out, assign credit, find outliers, update, log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from stapo.config.environment import longest_tokens
from stapo.config.run_config import RunConfig, Threads
from stapo.errors import ConfigError, FailureLimitError, NonFiniteError, SaveError
from stapo.health import WINDOW, early_warnings, gap_limit
from stapo.policy import Policy, base_of, copy_of
from stapo.rollout.collect import Collector
from stapo.rollout.config import Engine
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.faults import Failure, Outcome
from stapo.rollout.kept_keys import KeepsKeys, PromptCounts
from stapo.rollout.sampler import HFSampler, OwnWeights, Sampler
from stapo.rollout.stopping import StopRule
from stapo.rollout.templates import Clock, utc_now
from stapo.rollout.vllm import VllmSampler
from stapo.run import RunDirectory
from stapo.run.directory import BEST, jsonable
from stapo.training.batch import RowBatch, rows_of
from stapo.training.callbacks import Callbacks
from stapo.training.checkpoint import (
    RunState,
    read_tensors,
    reference_folder,
    restore_random_state,
    save_state,
    tasks_digest,
)
from stapo.training.critic import CriticLearner
from stapo.training.environments import build_batches, note_failures, open_environments, play_evaluations, shared_out
from stapo.training.evaluations import Choice, choose, early_end
from stapo.training.factories import collector_of
from stapo.training.metrics import correction_of, world_metrics
from stapo.training.optimizer import learning_rate_factor, restore_optimizer
from stapo.training.sampling import Sampled, together
from stapo.training.transcript_details import BlindNumbers, Details
from stapo.training.transcripts import is_due, kept_rows, write_raw_transcript, write_transcript
from stapo.training.update import Updater

_QUIET = 10  # iterations in which a warning is not said again


def build_collector(
    config: RunConfig, policy: Policy, engine: Engine = "transformers", clock: Clock = utc_now
) -> Collector:
    """Return a collector that plays `policy` in the configured environment.

    Args:
        config: of the run.
        policy: who plays.
        engine: what generates; training takes `rollout.engine`.
        clock: date and time for chat templates; a run's policy is given `RunDirectory.started`.

    Raises:
        ConfigError: prompt and response may be longer than the model can read, or the engine is not there.
        EngineError: it cannot be started.
    """
    longest = config.agent.max_prompt_tokens + config.agent.max_response_tokens
    positions = getattr(policy.model.config, "max_position_embeddings", None)
    if isinstance(positions, int) and longest > positions:
        raise ConfigError(
            f"agent.max_prompt_tokens + agent.max_response_tokens is {longest}, but the model reads {positions} tokens "
            "at most. Lower one of the two."
        )
    encoder, agent = PromptEncoder(policy.tokenizer, clock), config.agent
    sampler: Sampler
    stop = StopRule(agent.stop, encoder) if agent.stop else None
    if engine == "vllm":
        sampler = VllmSampler(policy, agent.max_prompt_tokens, agent.max_response_tokens, config.rollout.vllm, stop)
    else:
        sampler = HFSampler(
            policy.model,
            policy.eos_ids,
            policy.tokenizer.pad_token_id,
            agent.max_response_tokens,
            config.rollout.batch_tokens,
            int(config.rollout.kept_keys_gib * 2**30),
            agent.grows,
            config.rollout.decode_tokens,
            None if stop is None else stop.complete,
        )
    return collector_of(config, encoder, sampler)


@dataclass
class Trainer:
    """Runs RL on a policy and writes a run directory.

    Attributes:
        config: the resolved configuration.
        policy: SFT-trained or pretrained; its weights are changed in place.
        run: where to write.
        callbacks: told what happens; their requests to stop are looked at where everything is saved.
        reference: frozen starting policy, or a later one after a refresh; None copies `policy` where the algorithm
            needs one and there are no adapters that can be switched off instead.
        iteration: iterations done.
        evaluated: the evaluation due after that iteration is done as well.
        seconds: wall time of each stage, earlier parts of an interrupted run included.
        environments: those that are played.
    """

    config: RunConfig
    policy: Policy
    run: RunDirectory
    callbacks: Callbacks = field(default_factory=Callbacks)
    reference: Any | None = None
    iteration: int = 0
    evaluated: bool = False
    seconds: dict[str, float] = field(default_factory=lambda: {"sft": 0.0, "rl": 0.0})

    def __post_init__(self) -> None:
        config = self.config
        self.environments = open_environments(
            config, lambda own: build_collector(own, self.policy, config.rollout.engine, self.run.started)
        )
        if self.policy.adapter is None:
            self.policy.attach(config.model.lora, config.seed)
        if config.algorithm.needs_reference and self.reference is None and self.policy.adapter is None:
            self.reference = copy_of(self.policy, on_cpu=config.model.reference == "cpu")
        if self.reference is not None:
            self.reference.requires_grad_(False).eval()
        self.algorithm = algorithm = config.algorithm.resolved(longest_tokens(config)[1], config.model.dtype)
        self.critic = CriticLearner(self.policy, algorithm.critic, config.optim) if algorithm.needs_critic else None
        self.updater = Updater(
            self.policy,
            self.reference,
            algorithm,
            config.optim,
            config.rollout.temperature,
            self.critic,
            correction_of(config.rollout),
        )
        self._told_unpaid = False
        self.refreshed = self._saved_refresh = 0
        self._recent: list[dict[str, Any]] = []
        self._clock = time.perf_counter()

    def train(self) -> list[dict[str, Any]]:
        """Evaluate, run every iteration that is left, evaluate again; returns the evaluation rows of start and end.

        Raises:
            NonFiniteError: before the weights move on a non-finite number.
            RunInterrupted: a stop was asked for; everything is saved.
            SaveError: the state could not be saved, and `log.on_save_error` says to stop then.
            FailureLimitError: too many episodes in a row failed for reasons that are not the policy's.
        """
        try:
            self._train()
        finally:
            self.close()
        return [row for row in self.run.rows("evals") if row["final"]]

    @property
    def collector(self) -> Collector:
        """Of the first environment."""
        return self.environments[0].collector

    def close(self) -> None:
        """Close all environments, and the samplers."""
        for env in self.environments:
            env.collector.close()

    def _train(self) -> None:
        config, total = self.config, self.config.optim.iterations
        if self.iteration == 0 and not self.evaluated:
            for name in ("start",) if total else ("start", "final"):
                self._checkpoint(name)
            self.save()
        self._keep_best()  # a run that was cut short behind a save may lack it
        while True:
            if not self.evaluated and self._evaluate_where_due():
                self.evaluated = True
                if self.ended_early:
                    self._checkpoint("final")
                self.save()
            if self.iteration >= total or self.ended_early:
                break
            self.iterate(self.iteration + 1)
            self.iteration, self.evaluated = self.iteration + 1, False
            self._refresh_reference()
            if self.iteration == total:
                self._checkpoint("final")
            elif config.log.checkpoint_every and self.iteration % config.log.checkpoint_every == 0:
                self._checkpoint(f"iteration-{self.iteration:05d}")
            if (
                self.iteration % config.log.save_every == 0
                or self.iteration == total
                or self.callbacks.interrupts.requested
            ):
                self.save()

    @property
    def choice(self) -> Choice | None:
        """The best policy so far, by `eval.keep_best`."""
        return choose(self.run.rows("evals"), self.config.eval) if self.config.eval.keep_best else None

    @property
    def ended_early(self) -> str:
        """Why the run ends here, before its last iteration; "" where it does not."""
        return early_end(self.choice, self.config.eval) if self.iteration < self.config.optim.iterations else ""

    def _keep_best(self) -> None:
        if (best := self.choice) is not None and best.iteration == self.iteration and self.evaluated:
            self._checkpoint(BEST)

    def _refresh_reference(self) -> None:
        every = self.algorithm.loss.reference_every
        if not every or self.iteration % every or not self.algorithm.needs_reference:
            return
        if self.policy.adapter is not None:
            self.policy.adapter.refresh_reference()
        else:
            assert self.reference is not None, "without adapters the reference is a model"
            self.reference.load_state_dict(self.policy.model.state_dict())
        self.refreshed = self.iteration

    def _checkpoint(self, name: str) -> None:
        # After SFT adapters belong to no model that has a name: to this run's checkpoint "start".
        path = self.config.model.path
        base = None if path is None or self.config.sft.steps else base_of(path)
        self.run.write_checkpoint(name, partial(self.policy.save, base=base))

    def _evaluate_where_due(self) -> bool:
        config, at = self.config, self.iteration
        # A run without iterations is evaluated twice as well: as its start and as its end.
        for _ in range((at == 0 and config.eval.at_start) + (at == config.optim.iterations)):
            self.evaluate(at, final=True)
        if at in (0, config.optim.iterations):
            return at > 0 or config.eval.at_start or config.optim.iterations == 0
        if config.eval.every and at % config.eval.every == 0:
            self.evaluate(at, final=False)
            return True
        return False

    def save(self) -> None:
        """Save everything that the rest of the run depends on; then stop, if that was asked for.

        Raises:
            SaveError: it could not be saved, and `log.on_save_error` says to stop then.
            RunInterrupted: a stop was asked for.
        """
        now = time.perf_counter()
        self.seconds["rl"] += now - self._clock
        self._clock = now
        environments = {env.label: env.state() | {"given": env.given} for env in self.environments if env.label}
        state = RunState(
            stage="rl",
            iteration=self.iteration,
            evaluated=self.evaluated,
            tasks=self._digest(),
            refreshed=self.refreshed,
            non_finite_in_a_row=self.updater.non_finite_in_a_row,
            seconds=dict(self.seconds),
            worlds=environments,
            **({} if environments else self.environments[0].state()),
        )
        rests_on_start = self.reference is not None or self.policy.adapter is not None
        reference: Path | Policy | None = reference_folder(self.run) if rests_on_start else None
        if self.policy.adapter is None and self.refreshed != self._saved_refresh:
            reference = replace(self.policy, model=self.reference)
        saved = save_state(
            self.run, self.config, state, self.policy, self.updater.optimizer, reference, self.callbacks, self.critic
        )
        self._saved_refresh = self._saved_refresh if saved is None else self.refreshed
        # After the save: a best policy that no save knows of would be that of another run, if this one were cut short.
        self._keep_best()
        self.callbacks.interrupts.leave()

    def restore(self, folder: Path, state: RunState) -> None:
        """Resume from a save: everything but weights and reference, which were given on construction.

        Raises:
            SaveError: it belongs to other tasks, or lacks something.
        """
        if state.tasks and state.tasks != self._digest():
            raise SaveError(
                f"'{folder}' was saved by a run on other tasks: the training or evaluation tasks of environment "
                f"'{self.config.env.name}' have changed since. Put the games back, or start another run with --out."
            )
        restore_optimizer(self.updater.optimizer, self.policy.model, read_tensors(folder / "optimizer.safetensors"))
        if self.critic is not None:
            self.critic.restore(folder / "critic")
        self.iteration, self.evaluated = state.iteration, state.evaluated
        self.updater.non_finite_in_a_row = state.non_finite_in_a_row
        # A fork onto other tasks begins with their first ones.
        for env in self.environments if state.tasks else ():
            try:
                env.restore(state.worlds[env.label] if env.label else asdict(state))
            except (KeyError, TypeError, ValueError, AttributeError) as err:
                raise SaveError(f"'{folder}' does not say where environment '{env.config.env.name}' stands.") from err
        self.refreshed = self._saved_refresh = state.refreshed
        self.seconds |= state.seconds
        self._recent = self.run.rows("metrics")[-WINDOW:]
        # Last: making environments may have drawn from the shared generators.
        restore_random_state(state.random, read_tensors(folder / "random.safetensors"))

    def _digest(self) -> str:
        return tasks_digest(
            *(tasks for env in self.environments for tasks in (env.tasks.tasks, *env.eval_tasks.values()))
        )

    def _times(self) -> tuple[float, float]:
        times = [env.collector.times for env in self.environments]
        return sum(t.generation for t in times), sum(t.environment for t in times)

    def iterate(self, iteration: int) -> dict[str, Any]:
        """One iteration: rollout, advantages and flags, update, metrics row."""
        started, before = time.perf_counter(), self._times()
        # Each sampler once: environments may share one.
        samplers = {id(env.collector.sampler): env.collector.sampler for env in self.environments}.values()
        counts = [sampler.counts for sampler in samplers if isinstance(sampler, KeepsKeys)] or [PromptCounts()]
        counted = [replace(count) for count in counts]
        try:
            played, batch, blind, update, seconds = self._learn(iteration)
        except NonFiniteError as err:
            raise NonFiniteError(f"iteration {iteration}: {err}") from err
        generation, environment = self._times()
        prefill = Counter[str]()
        for now, then in zip(counts, counted, strict=True):
            prefill.update(now.since(then))
        row = {
            "iteration": iteration,
            **world_metrics(batch, played),
            "prefill": dict(prefill),
            **update,
            "seconds": {
                "generation": generation - before[0],
                "environment": environment - before[1],
                **seconds,
                "total": time.perf_counter() - started,
            },
        }
        # As it will be read back: a resumed run has to be warned of the same things.
        row = dict(jsonable(row))
        usual = gap_limit(str(self.policy.model.dtype).removeprefix("torch."), self.policy.parameter_count)
        row["warnings"] = early_warnings([*self._recent, row], gap_limit=usual)
        self._warn(row["warnings"])
        self._recent = [*self._recent, row][-WINDOW:]
        self.run.append("metrics", row)
        if is_due(self.config, iteration):
            log, decode = self.config.log, self.collector.encoder.decode
            details = Details(blind, self.policy.tokenizer, decode, log.tokens)
            write_transcript(self.run, batch, iteration, log.transcript_groups, details)
        self.callbacks.update(row)
        return row

    def _warn(self, warnings: Sequence[str]) -> None:
        """Tell what was not told in the last few iterations already."""
        told = {w.partition(":")[0] for row in self._recent[-_QUIET:] for w in row.get("warnings", [])}
        for warning in warnings:
            if warning.partition(":")[0] not in told:
                self.callbacks.notice(f"early warning, {warning}")

    def _learn(
        self, iteration: int
    ) -> tuple[dict[str, Sampled], RowBatch, BlindNumbers, dict[str, Any], dict[str, float]]:
        """Rollout and update: episodes by environment, rows, their blind passes, metrics of the update, seconds."""
        config, critic = self.config, self.critic
        played, failures = self._roll_out(iteration)
        sampled = together(played.values())
        self.callbacks.rollout(iteration, sampled.played)
        trajectories = sampled.kept
        if not any(t.steps for t in trajectories):
            raise ConfigError(
                f"iteration {iteration}: no first prompt fits into agent.max_prompt_tokens "
                f"({longest_tokens(config)[0]}), so no step was played; raise it."
            )
        started = time.perf_counter()
        before: dict[str, float] = {}
        rows, chains = rows_of(trajectories, merge=config.optim.merge)
        extra: dict[str, Any] = {"sampling": sampled.summary()} if self.algorithm.sampling.dynamic else {}
        sampler = self.collector.sampler
        if isinstance(sampler, OwnWeights) or self.updater.correction is not None:
            extra["mismatch"] = self.updater.rescore([s for t in trajectories for s in t.steps], rows)
            before["entropies"] = time.perf_counter() - started
            if isinstance(sampler, OwnWeights):
                sampler.weights_will_move()
            started = time.perf_counter()
        values = None if critic is None else critic.values(rows)
        valued = time.perf_counter()
        seed = (config.seed, 3, iteration)
        try:
            batch = build_batches(self.environments, played, self.algorithm, values, chains, seed)
        except NonFiniteError as err:
            path = write_raw_transcript(self.run, trajectories, iteration)
            raise NonFiniteError(f"{err} The rows are in '{path}'.") from err
        self.callbacks.batch(iteration, batch)
        before["advantages"] = time.perf_counter() - valued
        factor = learning_rate_factor(config, iteration)
        rate = config.optim.learning_rate * factor
        if critic is not None:
            critic.set_rate(factor)
            before["values"] = valued - started
        due = is_due(config, iteration)
        blind = BlindNumbers(kept_rows(batch, config.log.transcript_groups) if due else ())
        try:
            update, seconds = self.updater.update(
                batch,
                rate,
                seed=(config.seed, 2, iteration),
                progress=lambda done, total: self.callbacks.stage("update", done, total),
                measure_ratio=bool(config.log.gradient_ratio_every)
                and (iteration - 1) % config.log.gradient_ratio_every == 0,
                critic_alone=critic is not None and iteration <= config.algorithm.critic.warmup_iterations,
                record=blind,
            )
        except NonFiniteError as err:
            path = write_transcript(self.run, batch, iteration, config.rollout.groups)
            raise NonFiniteError(f"{err} The rows are in '{path}'.") from err
        if critic is not None:
            extra["critic"] = critic.summary(batch)
        ended = Counter(f.boundary.value for f in failures if f.outcome is Outcome.LEFT_OUT)
        update["failures"] = dict(sorted(ended.items()))
        update["retried_episodes"] = sum(f.outcome is Outcome.RETRIED for f in failures)
        return played, batch, blind, {**update, "learning_rate": rate, **extra}, {**before, **seconds}

    def _roll_out(self, iteration: int) -> tuple[dict[str, Sampled], list[Failure]]:
        """Play the groups of an iteration; returns what was played in each environment, and the failures on the way."""
        found: dict[str, Sampled] = {}
        try:
            for env, groups in zip(
                self.environments, shared_out(self.environments, self.config.rollout.groups), strict=True
            ):
                first = sum(part.groups for part in found.values())
                found[env.label] = env.play(groups, first, iteration, self.callbacks)
        finally:
            failures = self._note_failures(iteration, "training")
        sampled = together(found.values())
        if not sampled.played:
            last = sampled.ended[-1]
            raise FailureLimitError(
                f"iteration {iteration}: every episode failed, the last one in its {last.boundary} (task "
                f"'{last.task_id}'): {last.error}. See failures.jsonl."
            )
        unpaid = {name for env in self.environments for name in env.rewards.unpaid(found[env.label].played)}
        if unpaid and not self._told_unpaid:
            self._told_unpaid = True
            self.callbacks.notice(
                f"iteration {iteration}: nothing has paid {', '.join(f'rewards.weights.{n}' for n in sorted(unpaid))}; "
                "a name that the environment spells otherwise counts 0"
            )
        if not sampled.kept_groups:
            self.callbacks.notice(
                f"iteration {iteration}: in every group that was played ({sampled.groups:,} in all) the attempts "
                "scored the same, so one of them is trained on and teaches nothing"
            )
        return found, failures

    def _note_failures(self, iteration: int, phase: str) -> list[Failure]:
        met: list[Failure] = []
        for env in self.environments:
            failures = env.collector.take_failures()
            if failures:
                note_failures(self.run, failures, phase, env.label, iteration)
            met += failures
        return met

    def evaluate(self, iteration: int, *, final: bool) -> list[dict[str, Any]]:
        """Play what `eval` asks for; returns the rows."""
        try:
            rows, episodes = play_evaluations(self.config, self.environments, iteration, self.callbacks, final=final)
        finally:
            self._note_failures(iteration, "evaluation")
        plan = self.config.eval
        if plan.keep_best and early_end(choose([*self.run.rows("evals"), *rows], plan), plan):
            # The last evaluation of the run, and played in full: sets always are.
            final, rows = True, [row | {"final": True} for row in rows]
        if final:
            self.run.append_rows("eval_episodes", episodes)
        for row in rows:
            self.run.append("evals", row)
            self.callbacks.evaluation(row)
        return rows


def set_threads(count: Threads) -> None:
    """Set torch's CPU threads; 0, and `auto` that was not decided, leave the default."""
    if count and count != "auto":
        torch.set_num_threads(count)
