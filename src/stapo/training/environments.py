"""The environments of a run: who plays in each, on which tasks, and how the task groups are shared out.

A run of one environment has one of these. Where there are several, a task group is of one environment, and whatever
rests on an environment's scale (fences, entropies, statistics of a batch) is computed from its own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from stapo.algo import AlgorithmConfig
from stapo.config.environment import environments_of
from stapo.config.run_config import RunConfig
from stapo.errors import NonFiniteError
from stapo.policy.sequences import Chains
from stapo.rollout.collect import Collector
from stapo.rollout.evaluate import EvalProtocol, episode_rows, evaluate, passed, summarize, tasks_in
from stapo.rollout.faults import Failure
from stapo.rollout.types import Trajectory, drop_failed
from stapo.run import RunDirectory
from stapo.training.batch import RowBatch, build_batch, join_batches, rows_of
from stapo.training.callbacks import Callbacks
from stapo.training.evaluations import evaluated_tasks, protocols
from stapo.training.factories import collector_of
from stapo.training.rewards import Rewards
from stapo.training.sampling import Sampled, differs, groups_of, sample_groups
from stapo.training.tasks import TaskStream, training_stream


@dataclass
class RunEnvironment:
    """One environment of a run.

    Attributes:
        label: what it is called in metrics and messages; "" where it is the only one.
        config: settings of the run as they are for it.
        weight: its share of the task groups, as a multiple of the others' weights.
        collector: plays in it.
        tasks: what is trained on, in its order.
        eval_tasks: of each split that is evaluated.
        rewards: what its episodes are paid.
        states: entropies by state that one iteration hands to the next, where the algorithm keeps them.
        given: task groups it was asked for so far.
    """

    label: str
    config: RunConfig
    weight: float
    collector: Collector
    tasks: TaskStream
    eval_tasks: dict[str, list[str]]
    rewards: Rewards
    states: Mapping[str, Sequence[float]] = field(default_factory=dict)
    given: int = 0

    def play(self, groups: int, first: int, iteration: int, callbacks: Callbacks) -> Sampled:
        """Play groups of the next tasks until so many can be trained on; the first of them has the number `first`."""
        config, sampling = self.config, self.config.algorithm.sampling
        if not groups:
            return Sampled([], [], [], 0, 0, 0)

        def play(count: int, start: int, number: int) -> tuple[list[Trajectory], list[Failure]]:
            details = [self.label] * bool(self.label) + [f"round {number}"] * sampling.dynamic
            stage = f"rollout ({', '.join(details)})" if details else "rollout"
            played = self.collector.collect(
                self.tasks.take(count),
                config.rollout.group_size,
                config.rollout.temperature,
                (config.seed, 1, iteration),
                lambda done, total: callbacks.stage(stage, done, total),
                first + start,
            )
            self.rewards.pay(played, self.collector.attempts)
            return drop_failed(self.named(played), config.rollout.on_failure)

        each = config.rewards.normalize == "each"
        sampled = sample_groups(groups, sampling, play, each)
        self.given += groups
        self.tasks.learn((group[0].task_id, differs(group, each)) for group in groups_of(sampled.played))
        return sampled

    def evaluate(
        self, protocol: EvalProtocol, progress: Callable[[int, int], None] | None = None
    ) -> list[list[Trajectory]]:
        """Play an evaluation; returns the trajectories of each seed."""
        tasks = self.eval_tasks[protocol.split]
        played = evaluate(self.collector, tasks, protocol, batch=self.config.eval.batch, progress=progress)
        return [self.named(trajectories) for trajectories in played]

    def named(self, trajectories: list[Trajectory]) -> list[Trajectory]:
        """The trajectories, with task types that say of which environment they are where there are several."""
        for t in trajectories if self.label else ():
            t.task_type = f"{self.label}/{t.task_type}"
        return trajectories

    def state(self) -> dict[str, Any]:
        """What the rest of the run depends on, by fields of `RunState`."""
        return {
            **self.tasks.state(),
            "failures_in_a_row": self.collector.attempts.in_a_row,
            "environments": self.collector.pool.state(),
            "states": {state: list(numbers) for state, numbers in self.states.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self.tasks.restore(state)
        self.collector.attempts.in_a_row = state["failures_in_a_row"]
        self.collector.pool.restore(state["environments"])
        self.states = state["states"]
        self.given = state.get("given", 0)


def open_environments(config: RunConfig, build: Callable[[RunConfig], Collector]) -> list[RunEnvironment]:
    """The environments of a run, ready to be played.

    Args:
        config: of the run.
        build: makes the collector of one of them.

    Raises:
        ConfigError: a split holds no task, or fewer than are asked for.
        StapoError: an environment cannot be built or asked.
    """
    own = environments_of(config)
    collectors: dict[str, Collector] = {}
    environments: list[RunEnvironment] = []
    try:
        # vLLM is started once, for the longest prompts; a model of this process serves any number of collectors.
        for label in sorted(own, key=lambda label: -own[label].agent.max_prompt_tokens):
            first = next(iter(collectors.values()), None)
            shared = first is not None and config.rollout.engine == "vllm"
            collectors[label] = (
                collector_of(own[label], first.encoder, first.sampler) if first and shared else build(own[label])
            )
        environments += [_environment(config, label, settings, collectors[label]) for label, settings in own.items()]
    except BaseException:
        for collector in collectors.values():
            collector.close()
        raise
    return environments


def _environment(config: RunConfig, label: str, settings: RunConfig, collector: Collector) -> RunEnvironment:
    entry = config.envs.get(label)
    return RunEnvironment(
        "" if entry is None else label,
        settings,
        1.0 if entry is None else entry.weight,
        collector,
        training_stream(collector.tasks_of(settings.env.split), settings),
        evaluated_tasks(settings, collector.tasks_of, lambda: entry is None and collector.about().scores),
        Rewards(settings.rewards, settings.rollout),
    )


def shared_out(environments: Sequence[RunEnvironment], count: int) -> list[int]:
    """How many of the next `count` task groups each environment plays.

    Each group goes to the one that is furthest behind its weight, so that over a run all have their shares exactly,
    whatever the number of groups in an iteration.
    """
    total, given = sum(env.weight for env in environments), [env.given for env in environments]
    before = list(given)
    for _ in range(count):
        behind = [env.weight / total * (sum(given) + 1) - had for env, had in zip(environments, given, strict=True)]
        given[behind.index(max(behind))] += 1
    return [now - then for now, then in zip(given, before, strict=True)]


def build_batches(
    environments: Sequence[RunEnvironment],
    sampled: Mapping[str, Sampled],
    algorithm: AlgorithmConfig,
    values: Any,
    chains: Chains,
    seed: Sequence[int],
) -> RowBatch:
    """Rows of all environments, each with advantages, fences and entropies of its own.

    Args:
        environments: the environments; what an algorithm keeps of their states is renewed.
        sampled: what was played in each of them.
        algorithm: which math.
        values: (B,) a critic's values of all rows, or None.
        chains: of all rows.
        seed: of what is drawn by chance.

    Raises:
        NonFiniteError: as `build_batch` does.
    """
    parts: dict[str, RowBatch] = {}
    first = 0
    for number, env in enumerate(environments):
        own = sampled[env.label]
        end = first + sum(len(t.steps) for t in own.kept)
        if end > first:
            parts[env.label] = part = build_batch(
                own.kept,
                algorithm,
                seed=[*seed, number] if number else seed,
                states=env.states,
                value_b=None if values is None else values[first:end],
                chains=rows_of(own.kept, merge=env.config.optim.merge)[1] if env.label else chains,
                rewards=env.config.rewards,
                at_limit=env.config.rollout.limits.reward,
            )
            env.states = part.outliers.states or {}
        first = end
    return join_batches(parts, chains) if environments[0].label else next(iter(parts.values()))


def play_evaluations(
    config: RunConfig, environments: Sequence[RunEnvironment], iteration: int, callbacks: Callbacks, *, final: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Play every protocol in every environment; returns rows for evals.jsonl and rows of the episodes.

    Raises:
        NonFiniteError: the policy's numbers are not finite.
    """
    rows, episodes = list[dict[str, Any]](), list[dict[str, Any]]()
    for mode in protocols(config, final=final):
        own = [protocols(env.config, final=final)[mode] for env in environments]
        played: dict[str, list[list[Trajectory]]] = {}
        for env, protocol in zip(environments, own, strict=True):
            stage = f"evaluation ({', '.join([mode] + [env.label] * bool(env.label))})"
            try:
                played[env.label] = env.evaluate(protocol, partial(callbacks.stage, stage))
            except NonFiniteError as err:
                raise NonFiniteError(f"evaluation after {iteration} iterations: {err}") from err
        every = pooled(played)
        said = {"final": final, **evaluation_row(environments, played, own)}
        if found := passed(every, own[0].temperature):
            said |= {"tasks": tasks_in(every), **found}
        rows.append({"iteration": iteration, "mode": mode, **said})
        episodes += [{"iteration": iteration, "mode": mode, **row} for row in episode_rows(every, own[0])]
    return rows, episodes


def pooled(played: Mapping[str, list[list[Trajectory]]]) -> list[list[Trajectory]]:
    """The trajectories of all environments, by seed."""
    return [[t for part in parts for t in part] for parts in zip(*played.values(), strict=True)]


def evaluation_row(
    environments: Sequence[RunEnvironment],
    played: Mapping[str, list[list[Trajectory]]],
    protocols: Sequence[EvalProtocol],
) -> dict[str, Any]:
    """What an evaluation found: over all episodes, and of each environment where there are several."""
    told = {w.label: p.describe(len(w.eval_tasks[p.split])) for w, p in zip(environments, protocols, strict=True)}
    if not environments[0].label:
        return {"protocol": told[""], **summarize(played[""])}
    # A score of one environment says nothing beside another's that has none.
    return {
        "protocol": "; ".join(f"{label}: {text}" for label, text in told.items()),
        **summarize(pooled(played)),
        "task_score": None,
        "envs": {label: {"protocol": told[label], **summarize(part)} for label, part in played.items()},
    }


def note_failures(
    run: RunDirectory, failures: Sequence[Failure], phase: str, label: str = "", iteration: int = 0
) -> None:
    """Write failures, one row each, with what their environment is called where there are several."""
    met = {"iteration": iteration, "phase": phase, **({"env": label} if label else {})}
    run.append_rows("failures", [met | asdict(failure) for failure in failures])
