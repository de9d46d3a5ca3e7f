"""Playing one policy by the protocol and measuring every step it took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from stapo.algo import select_outliers
from stapo.config.run_config import RunConfig
from stapo.diagnosis.judging import Judgment, judge_steps
from stapo.diagnosis.protocol import STREAM, DiagnosisSpec, stateless_metrics
from stapo.diagnosis.scoring import BOTH, SINGLE, Attribution, attribute
from stapo.errors import ConfigError, FailureLimitError
from stapo.policy import Policy
from stapo.rollout import Trajectory, drop_failed
from stapo.rollout.evaluate import play_in_parts
from stapo.rollout.templates import Clock, utc_now
from stapo.texts import counted
from stapo.training.batch import RowBatch, build_batch, rows_of
from stapo.training.factories import env_factory
from stapo.training.loop import build_collector
from stapo.training.scoring import Scorer

Stage = Callable[[str, int, int], None]
"""Called with the name of a stage, how much is done, and how much there is."""


@dataclass(frozen=True)
class Measured:
    """Every step of the rollouts with what was measured for it (B rows, as in `batch`).

    Attributes:
        batch: rows, anchor groups, entropies, advantages, outliers.
        attribution: divergences and attribution scores.
        judgment: faults by trajectory and step.
        clusters: tasks of the protocol, the units of the bootstrap.
        cluster_b: (B,) index of the task of each row.
        score_b: name -> (B,) score that might find bad steps, higher is more suspicious; NaN where there is none.
        faults: per row its faults; None where the step could not be judged.
        failed: episodes that were lost to errors.
        remarks: what a reader has to know of these numbers.
    """

    batch: RowBatch
    attribution: Attribution
    judgment: Judgment
    clusters: int
    cluster_b: np.ndarray
    score_b: dict[str, np.ndarray]
    faults: list[frozenset[str] | None]
    failed: int = 0
    remarks: list[str] = field(default_factory=list)

    @property
    def judged_b(self) -> np.ndarray:
        """(B,) whether the step could be judged."""
        return np.array([f is not None for f in self.faults], dtype=bool)

    def has_fault(self, name: str | None = None) -> np.ndarray:
        """(B,) whether a row has this fault, or any; False where it could not be judged."""
        return np.array([bool(f) if name is None else name in (f or ()) for f in self.faults], dtype=bool)


def measure(
    policy: Policy, own: RunConfig, protocol: DiagnosisSpec, stage: Stage | None = None, clock: Clock = utc_now
) -> Measured:
    """Play `policy`, judge what it did, and score it.

    Args:
        policy: the policy.
        own: settings of its run; prompts, memory and response format are its own.
        protocol: everything else.
        stage: told about progress.
        clock: date and time for chat templates; of a run's policy `RunDirectory.started`.

    Raises:
        FailureLimitError: every episode failed for reasons that are not the policy's.
        ConfigError: no step was played.
        NonFiniteError: the model computes NaN or infinity.
    """
    tell = stage or (lambda name, done, total: None)
    config = replace(protocol.config, agent=own.agent, model=own.model, algorithm=protocol.algorithm)
    played = _play(policy, config, protocol, tell, clock)
    kept, failures = drop_failed(played, "shrink")
    if not kept:
        raise FailureLimitError(f"every episode failed, the last one with: {failures[-1].error}.")
    if not any(t.steps for t in kept):
        raise ConfigError(
            f"no first prompt fits into agent.max_prompt_tokens ({own.agent.max_prompt_tokens}), so no step was played."
        )
    rows, chains = rows_of(kept)
    if config.rollout.engine == "vllm":  # which knows no entropies
        scorer = Scorer(policy, None, protocol.algorithm, protocol.temperature)
        scorer.rescore([s for t in kept for s in t.steps], rows, own.optim.micro_tokens)
    batch = build_batch(kept, protocol.algorithm, chains=chains)
    judgment = judge_steps(env_factory(config), kept, lambda done, total: tell("judging", done, total))
    attribution = attribute(
        policy, batch.steps, protocol.temperature, own.optim.micro_tokens,
        lambda done, total: tell("scoring", done, total), batch.chains.chain_b,
    )  # fmt: skip
    place = {task: i for i, task in enumerate(protocol.tasks)}
    remarks = list(judgment.remarks)
    leaks = np.mean([kept[j].goal in s.blind_prompt for j, s in zip(batch.traj_b, batch.steps, strict=True)])
    if leaks:
        remarks.append(f"The blind prompt still shows the goal in {leaks:.0%} of the steps, so what it hides is less.")
    if failures:
        remarks.append(
            f"{counted(len(failures), 'episode')} failed for reasons that are not the policy's, and left out."
        )
    return Measured(
        batch=batch,
        attribution=attribution,
        judgment=judgment,
        clusters=len(protocol.tasks),
        cluster_b=np.array([place[kept[j].task_id] for j in batch.traj_b], dtype=np.int64),
        score_b=suspicion(batch, attribution, protocol),
        faults=[fault for found in judgment.faults for fault in found],
        failed=len(failures),
        remarks=remarks,
    )


def suspicion(batch: RowBatch, attribution: Attribution, protocol: DiagnosisSpec) -> dict[str, np.ndarray]:
    """Scores that might find bad steps: every outlier metric, the size of the normalized one, and a low divergence."""
    scores: dict[str, np.ndarray] = {}
    finite_b = np.isfinite(batch.entropy_b)
    for metric in stateless_metrics():
        changes: dict[str, Any] = {"metric": metric, "select": "iqr", "max_fraction": None}
        found = select_outliers(
            batch.entropy_b, batch.anchor_b, finite_b, replace(protocol.algorithm.outlier, **changes)
        )
        scores[metric] = np.where(found.included_b, found.normalized_b.astype(np.float64), np.nan)
    scores["abs-normalized"] = np.abs(scores["normalized"])
    scores["low-kl"] = -attribution.kl_b
    # Where nothing is left out of any prompt there is no divergence, and the other scores can be compared all the same.
    return {name: score for name, score in scores.items() if np.isfinite(score).any()}


def _play(policy: Policy, config: RunConfig, protocol: DiagnosisSpec, tell: Stage, clock: Clock) -> list[Trajectory]:
    collector = build_collector(config, policy, config.rollout.engine, clock)
    assert collector.blind_mask == BOTH
    collector.masks = SINGLE
    each, total = protocol.group_size, len(protocol.tasks) * protocol.group_size
    try:
        return play_in_parts(
            collector, protocol.tasks, each, protocol.temperature, (protocol.seed, STREAM),
            max(1, config.eval.batch // each), lambda done: tell("rollout", done, total),
        )  # fmt: skip
    finally:
        collector.close()
