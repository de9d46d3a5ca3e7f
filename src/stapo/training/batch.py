"""From trajectories to the arrays that the math takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from stapo.algo import (
    Advantages,
    AlgorithmConfig,
    Outliers,
    anchor_groups,
    compute_advantages,
    modulated_advantages,
    reward_advantages,
    select_outliers,
    state_key,
)
from stapo.algo.config import TokenSet
from stapo.algo.outliers import join_outliers
from stapo.config.rewards import ENV, RewardsConfig
from stapo.errors import NonFiniteError
from stapo.policy import RowTokens, find_chains
from stapo.policy.sequences import Chains
from stapo.rollout import Step, Trajectory
from stapo.rollout.config import AtLimit
from stapo.rollout.types import LIMITS


@dataclass(frozen=True)
class RowBatch:
    """The step rows of one iteration (B rows) with everything computed before the update.

    Attributes:
        steps: the rows, ordered by group, member, step.
        trajectories: the episodes they came from.
        group_b, traj_b, step_b, anchor_b: indices of task group, episode, step and anchor group.
        entropy_b: mean token entropy H (nats) over the tokens that count (`counted_entropies`); NaN where there are
            none.
        advantages: episode, step and total advantages, the latter bent by entropy where the algorithm does so.
        outliers: normalized entropies, fences, flags; entropies by state to hand on where the algorithm keeps them.
        flag_b: rows that the selective terms act on: outliers whose blind prompt differs from the full one.
        masked_b: rows that are in no loss of the policy and in no divisor of one; their advantages are computed as if
            they were, and they are never flagged.
        chains: which rows are read as one sequence.
        value_b: a critic's value of each row's state before the update; None without a critic.
        reward_share: share of each named reward in the variance of the advantages; empty where only the environment's
            own is paid.
        parts: the same rows by environment, in order, where a run has several; empty otherwise.
    """

    steps: list[Step]
    trajectories: list[Trajectory]
    group_b: np.ndarray
    traj_b: np.ndarray
    step_b: np.ndarray
    anchor_b: np.ndarray
    entropy_b: np.ndarray
    advantages: Advantages
    outliers: Outliers
    flag_b: np.ndarray
    masked_b: np.ndarray
    chains: Chains
    value_b: np.ndarray | None = None
    reward_share: Mapping[str, float | None] = field(default_factory=dict)
    parts: Mapping[str, RowBatch] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.steps)

    def full(self, b: int) -> RowTokens:
        """Tokens of row b under the full prompt."""
        step = self.steps[b]
        return RowTokens(step.prompt_ids, step.response_ids, step.allowed, chain=self.chains.chain_b[b])

    def blind(self, b: int) -> RowTokens:
        """Tokens of row b under the trajectory-blind prompt: the same response."""
        return RowTokens(self.steps[b].blind_ids, self.steps[b].response_ids, self.steps[b].allowed)


def build_batch(
    trajectories: Sequence[Trajectory],
    algorithm: AlgorithmConfig,
    *,
    seed: Sequence[int] | None = None,
    states: Mapping[str, Sequence[float]] | None = None,
    value_b: np.ndarray | None = None,
    chains: Chains | None = None,
    rewards: RewardsConfig | None = None,
    at_limit: AtLimit = "keep",
) -> RowBatch:
    """Lay the steps of `trajectories` out as rows and run the no-gradient math on them once.

    Args:
        trajectories: of one iteration.
        algorithm: which math.
        seed: of what is drawn by chance; for algorithms that do (``outlier.select=random``).
        states: entropies by state after the last iteration; for algorithms that keep them
            (``outlier.metric=running``).
        value_b: a critic's value of each row, in the order of the trajectories' steps; for algorithms that have one.
        chains: of `rows_of`, where they are known; left out, they are found.
        rewards: how the named rewards of the steps become one; left out, `Step.reward` is all there is.
        at_limit: "mask" leaves the rows of episodes that ended at a limit out of the loss.

    Raises:
        NonFiniteError: a reward, log-probability or entropy is not finite; the step is named.
    """
    trajectories = list(trajectories)
    _require_finite(trajectories)
    steps = [s for t in trajectories for s in t.steps]
    group_b = np.array([t.group for t in trajectories for _ in t.steps], dtype=np.int64)
    traj_b = np.array([j for j, t in enumerate(trajectories) for _ in t.steps], dtype=np.int64)
    step_b = np.array([k for t in trajectories for k in range(len(t.steps))], dtype=np.int64)
    reward_b = np.array([s.reward for s in steps], dtype=np.float64)
    valid_b = np.array([s.valid for s in steps], dtype=bool)
    weight_b = np.ones(len(steps), dtype=np.float64)
    keys = [s.anchor for s in steps]
    anchor_b = anchor_groups(group_b, keys, algorithm.advantage)
    counted = [counted_entropies(s, algorithm.outlier.tokens) for s in steps]
    entropy_b = np.array([np.mean(c) if c else np.nan for c in counted], dtype=np.float64)
    success_b = [t.won for t in trajectories for _ in t.steps]
    share: Mapping[str, float | None] = {}
    if rewards is None or rewards.plain:
        advantages = compute_advantages(
            reward_b, valid_b, group_b, traj_b, step_b, anchor_b, weight_b, algorithm.advantage,
            critic=algorithm.critic, value_b=value_b, success_b=success_b,
        )  # fmt: skip
    else:
        names = dict.fromkeys(name for s in steps for name in s.rewards)
        advantages, share = reward_advantages(
            {name: [s.rewards.get(name, 0.0) for s in steps] for name in names},
            rewards.weights, rewards.normalize, algorithm.advantage, valid_b=valid_b, group_b=group_b, traj_b=traj_b,
            step_b=step_b, anchor_b=anchor_b, weight_b=weight_b, penalized=ENV, critic=algorithm.critic,
            value_b=value_b, success_b=success_b,
        )  # fmt: skip
    if algorithm.modulation.kind != "none":
        bent_b = modulated_advantages(
            advantages.total_b, entropy_b, traj_b, step_b, algorithm.modulation, weight_b=weight_b
        )
        advantages = replace(advantages, total_b=bent_b)
    # A row without counted tokens has no entropy: it is in no statistic and cannot be an outlier.
    outliers = select_outliers(
        entropy_b,
        anchor_b,
        np.isfinite(entropy_b),
        algorithm.outlier,
        seed=seed,
        state_b=[state_key(key) for key in keys] if algorithm.needs_states else None,
        states=states,
    )
    cut, limited = algorithm.loss.truncated == "mask", LIMITS if at_limit == "mask" else ()
    masked_b = np.array(
        [(cut and s.truncated) or t.stop_reason in limited for t in trajectories for s in t.steps], dtype=bool
    )
    differs_b = np.array([s.prompt_ids != s.blind_ids for s in steps], dtype=bool)
    return RowBatch(
        steps, trajectories, group_b, traj_b, step_b, anchor_b, entropy_b, advantages, outliers,
        outliers.mask_b & differs_b & ~masked_b, masked_b, rows_of(trajectories)[1] if chains is None else chains,
        value_b, share,
    )  # fmt: skip


def join_batches(parts: Mapping[str, RowBatch], chains: Chains) -> RowBatch:
    """The rows of several environments as one batch; whatever rests on their scale was computed for each by itself.

    Args:
        parts: by environment; task groups are numbered over all of them.
        chains: of all rows, in this order.
    """
    batches = list(parts.values())

    def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(arrays)

    def renumbered(arrays: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
        return joined([a + first for a, first in zip(arrays, np.cumsum([0, *sizes]), strict=False)])

    values = [b.value_b for b in batches if b.value_b is not None]
    return RowBatch(
        steps=[s for b in batches for s in b.steps],
        trajectories=[t for b in batches for t in b.trajectories],
        group_b=joined([b.group_b for b in batches]),
        traj_b=renumbered([b.traj_b for b in batches], [len(b.trajectories) for b in batches]),
        step_b=joined([b.step_b for b in batches]),
        anchor_b=renumbered([b.anchor_b for b in batches], [int(b.anchor_b.max()) + 1 for b in batches]),
        entropy_b=joined([b.entropy_b for b in batches]),
        advantages=Advantages(
            **{f.name: joined([getattr(b.advantages, f.name) for b in batches]) for f in fields(Advantages)}
        ),
        outliers=join_outliers({label: b.outliers for label, b in parts.items()}),
        flag_b=joined([b.flag_b for b in batches]),
        masked_b=joined([b.masked_b for b in batches]),
        chains=chains,
        value_b=joined(values) if values else None,
        parts=parts,
    )


def rows_of(
    trajectories: Sequence[Trajectory], *, merge: bool = True, whole: bool = False
) -> tuple[list[RowTokens], Chains]:
    """The rows of trajectories under their full prompts, and which of them are read as one sequence.

    Args:
        trajectories: of one iteration.
        merge: whether a row may be joined to the row that it extends.
        whole: as for `find_chains`.
    """
    rows = [RowTokens(s.prompt_ids, s.response_ids, s.allowed) for t in trajectories for s in t.steps]
    chains = find_chains(rows, [j for j, t in enumerate(trajectories) for _ in t.steps], merge=merge, whole=whole)
    return [replace(row, chain=chain) for row, chain in zip(rows, chains.chain_b, strict=True)], chains


def counted_entropies(step: Step, tokens: TokenSet) -> list[float]:
    """Entropies of the response tokens that count for H of eq. 1; none where the response has no such part.

    A token that could be no other decides nothing and does not count; how many of them a command has is a matter of its
    spelling.
    """
    part = slice(None) if tokens == "response" else slice(*step.parts.get(tokens, (0, 0)))
    if step.allowed is None:
        return step.entropies[part]
    return [h for h, allowed in zip(step.entropies[part], step.allowed[part], strict=True) if allowed.choice]


def _require_finite(trajectories: Sequence[Trajectory]) -> None:
    for t in trajectories:
        for number, step in enumerate(t.steps):
            for what, values, culprit in (
                *((f"reward '{name}'", [paid], "it was paid so") for name, paid in step.rewards.items()),
                ("reward", [step.reward], "the environment returned it"),
                ("log-probability", step.logprobs, "the model computed it"),
                ("log-probability before the update", step.old_logprobs, "the model computed it"),
                ("entropy", step.entropies, "the model computed it"),
            ):
                # One sum instead of a test per token: it is finite exactly when all of them are.
                if not math.isfinite(sum(values)):
                    bad = next((v for v in values if not math.isfinite(v)), sum(values))
                    raise NonFiniteError(
                        f"the {what} of step {number + 1} of task '{t.task_id}' (group {t.group}, member {t.member}) "
                        f"is {bad}; {culprit}. The weights were not changed."
                    )
