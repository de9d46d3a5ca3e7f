"""Seconds of a training iteration by part, and what STAPO costs over GiGPO on the same rollouts.

A policy plays a few rollout batches of the preset; then every algorithm computes advantages and updates a copy of the
policy on each of them, in turn, several times. The policy is SFT-trained for a moment first, so that entropies and
episode lengths are not those of noise; `--run DIR` takes configuration and starting policy of a finished run instead.
Times are processor seconds of this process, since other jobs may share the machine, and medians over the repeats. The
wall clock decides only how an update is shared out between its parts.

    python benchmarks/iteration_cost.py [--preset tiny | --run DIR] [--warm-steps 600] [--rollouts 3] [--repeats 5]

The limit is the cost that the paper reports, 244 s -> 258 s per iteration on search QA. Exit status 1: it is broken.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stapo.algo import get_algorithm
from stapo.config.presets import load_config
from stapo.config.run_config import RunConfig, read_run_config
from stapo.config.schema import from_data, to_data
from stapo.policy import Policy, load_policy
from stapo.rollout import Trajectory
from stapo.rollout.sampler import Sample, Sampler
from stapo.run import RunDirectory
from stapo.training.batch import build_batch
from stapo.training.choices import resolve_auto
from stapo.training.factories import env_factory
from stapo.training.loop import build_collector, set_threads
from stapo.training.preparation import prepare_policy
from stapo.training.tasks import TaskStream
from stapo.training.update import Updater

ALGORITHMS = ("grpo", "gigpo", "stapo")
PARTS = ("generation", "environment", "advantages", "reference", "update", "blind")
LIMIT = 0.057


class TimedSampler:
    """A sampler that counts its processor seconds."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.seconds = 0.0

    def sample(
        self, prompts: Sequence[Sequence[int]], streams: Sequence[tuple[int, ...]], temperature: float
    ) -> list[Sample]:
        """Answer each prompt; see `Sampler.sample`."""
        started = time.process_time()
        try:
            return self.sampler.sample(prompts, streams, temperature)
        finally:
            self.seconds += time.process_time() - started


@dataclass(frozen=True)
class Rollout:
    """One batch of trajectories and the processor seconds it took."""

    trajectories: list[Trajectory]
    generation: float
    environment: float

    @property
    def seconds(self) -> float:
        """Generation and environment together."""
        return self.generation + self.environment


def with_algorithm(config: RunConfig, name: str) -> RunConfig:
    """The same run by another algorithm; settings that differ from STAPO's preset stay."""
    data, stock = to_data(config), to_data(get_algorithm(config.algorithm.name))
    kept = {
        group: {k: v for k, v in settings.items() if v != stock[group][k]}
        for group, settings in data["algorithm"].items()
        if isinstance(settings, dict)
    }
    return from_data(RunConfig, {**data, "algorithm": {"name": name, **kept}})


def warm_policy(config: RunConfig, steps: int) -> Policy:
    """Build the preset's policy and imitate for `steps` optimizer steps."""
    warm = replace(config.sft, steps=steps, episodes=min(config.sft.episodes, 2 * max(steps, 100)))
    brief = replace(config, sft=warm)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder) / "run", to_data(brief), [])
        return prepare_policy(brief, run)


def play(config: RunConfig, policy: Policy, count: int) -> list[Rollout]:
    """Play `count` rollout batches of the preset, after one short unmeasured one."""
    collector = build_collector(config, policy)
    collector.sampler = timed = TimedSampler(collector.sampler)
    env = env_factory(config)()
    tasks = TaskStream(env.tasks_of(config.env.split), config.seed)
    env.close()
    collector.collect(tasks.take(2), 2, config.rollout.temperature, (config.seed, 0))
    rollouts = []
    for number in range(1, count + 1):
        chosen, timed.seconds = tasks.take(config.rollout.groups), 0.0
        started = time.process_time()
        played = collector.collect(
            chosen, config.rollout.group_size, config.rollout.temperature, (config.seed, 1, number)
        )
        seconds = time.process_time() - started
        rollouts.append(Rollout(played, timed.seconds, seconds - timed.seconds))
    collector.close()
    return rollouts


def update_seconds(config: RunConfig, policy: Policy, rollout: Rollout, repeat: int) -> tuple[dict[str, float], int]:
    """Processor seconds of advantages and of each part of the update of a copy of the policy; rows acted on."""
    learner = Policy(copy.deepcopy(policy.model), policy.tokenizer, policy.eos_ids)
    reference = None
    if config.algorithm.needs_reference:
        reference = copy.deepcopy(policy.model).requires_grad_(False).eval()
    updater = Updater(learner, reference, config.algorithm, config.optim, config.rollout.temperature)
    started = time.process_time()
    batch = build_batch(rollout.trajectories, config.algorithm)
    prepared = time.process_time()
    _, parts = updater.update(batch, config.optim.learning_rate, seed=(config.seed, 2, repeat))
    spent = time.process_time() - prepared
    scale = spent / sum(parts.values())
    flagged = int(batch.flag_b.sum()) if config.algorithm.selective_on else 0
    return {"advantages": prepared - started, **{part: wall * scale for part, wall in parts.items()}}, flagged


def measure(preset: str, run: Path | None, sft_steps: int, rollouts: int, repeats: int) -> dict[str, object]:
    """Run the whole measurement and return its figures."""
    base = load_config(preset, "stapo") if run is None else read_run_config(RunDirectory.open(run))
    base = resolve_auto(base, None, print).config
    configs = {name: with_algorithm(base, name) for name in ALGORITHMS}
    set_threads(base.log.threads)
    if run is None:
        policy = warm_policy(base, sft_steps)
    else:
        policy = load_policy(str(RunDirectory.open(run).checkpoint("start")), base.model)
    played = play(base, policy, rollouts)
    times: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in ALGORITHMS}
    totals: dict[str, list[list[float]]] = {name: [[] for _ in played] for name in ALGORITHMS}
    flagged = 0
    for repeat in range(-1, repeats):
        for number, rollout in enumerate(played):
            # Another algorithm goes first each time, so that none always finds the caches warm.
            turn = (repeat + number) % len(ALGORITHMS)
            for name in ALGORITHMS[turn:] + ALGORITHMS[:turn]:
                seconds, acted_on = update_seconds(configs[name], policy, rollout, repeat + 1)
                if repeat < 0:
                    flagged += acted_on
                    continue
                totals[name][number].append(sum(seconds.values()))
                for part, value in seconds.items():
                    times[name][part].append(value)
    rows = sum(len(t.steps) for r in played for t in r.trajectories)
    playing = sum(r.seconds for r in played)
    by_part = {
        name: {
            "generation": statistics.fmean(r.generation for r in played),
            "environment": statistics.fmean(r.environment for r in played),
            **{part: statistics.median(values) for part, values in times[name].items()},
        }
        for name in ALGORITHMS
    }
    iteration = {name: playing + sum(map(statistics.median, totals[name])) for name in ALGORITHMS}
    by_repeat = [
        (playing + sum(t[i] for t in totals["stapo"])) / (playing + sum(t[i] for t in totals["gigpo"])) - 1
        for i in range(repeats)
    ]
    return {
        "run": preset if run is None else str(run),
        "rows_per_iteration": rows / len(played),
        "success": statistics.fmean(t.won for r in played for t in r.trajectories),
        "flagged_share": flagged / rows,
        "seconds_by_part": by_part,
        "seconds_per_iteration": {name: value / len(played) for name, value in iteration.items()},
        "stapo_over_gigpo": iteration["stapo"] / iteration["gigpo"] - 1,
        "stapo_over_gigpo_by_repeat": by_repeat,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny", help="preset name or YAML file")
    parser.add_argument("--run", type=Path, help="a run of stapo: its configuration and its policy before RL")
    parser.add_argument("--warm-steps", type=int, default=600)
    parser.add_argument("--rollouts", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    report = measure(options.preset, options.run, options.warm_steps, options.rollouts, options.repeats)
    if options.json:
        print(json.dumps(report))
    else:
        show(report)
    if report["stapo_over_gigpo"] > LIMIT:
        sys.exit(f"STAPO costs more than {LIMIT:.1%} over GiGPO")


def show(report: dict) -> None:
    """Print the figures as a table and two sentences."""
    print(
        f"{report['run']}: {report['rows_per_iteration']:.0f} rows per iteration, "
        f"success {report['success']:.2f}, {report['flagged_share']:.2%} of rows acted on"
    )
    print(f"{'processor seconds':20}" + "".join(f"{name:>10}" for name in ALGORITHMS))
    for part in PARTS:
        cells = (report["seconds_by_part"][name].get(part, 0.0) for name in ALGORITHMS)
        print(f"{part:20}" + "".join(f"{value:10.3f}" for value in cells))
    print(f"{'iteration':20}" + "".join(f"{report['seconds_per_iteration'][name]:10.3f}" for name in ALGORITHMS))
    low, high = min(report["stapo_over_gigpo_by_repeat"]), max(report["stapo_over_gigpo_by_repeat"])
    print(
        f"STAPO over GiGPO on the same rollouts: {report['stapo_over_gigpo']:+.1%} per iteration "
        f"(single repeats {low:+.1%} to {high:+.1%}; limit {LIMIT:.1%})"
    )


if __name__ == "__main__":
    main()
