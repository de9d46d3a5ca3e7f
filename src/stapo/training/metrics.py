"""What an iteration logs about its rollout (method notes section 8), and how its sampler differs from the trainer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, cast

import numpy as np
import torch

from stapo.algo import Correction, mismatch
from stapo.algo.correction import Beyond, Level
from stapo.rollout import Step, StopReason
from stapo.rollout.config import RolloutConfig
from stapo.rollout.evaluate import passed
from stapo.rollout.types import OPTIONAL, Trajectory, marker_counts, mean_task_score
from stapo.training.batch import RowBatch
from stapo.training.sampling import Sampled, together
from stapo.training.scoring import length_mask, pad_rows

_SIZE_BINS = ((1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, None))


def world_metrics(batch: RowBatch, played: Mapping[str, Sampled]) -> dict[str, Any]:
    """Metrics of all rows; where a run has several environments, of each as well, under ``envs``."""
    whole = rollout_metrics(batch, together(played.values()).played)
    if not batch.parts:
        return whole
    return whole | {
        "task_score": None,  # of one environment; it says nothing beside another's that has none
        "envs": {
            label: {"groups": played[label].groups, **rollout_metrics(part, played[label].played)}
            for label, part in batch.parts.items()
        },
    }


def rollout_metrics(batch: RowBatch, played: Sequence[Trajectory] | None = None) -> dict[str, Any]:
    """Success, episode shape, entropy, anchor groups and outliers of one rollout batch.

    Args:
        batch: the rows that are trained on.
        played: all episodes of the iteration, where some are not trained on. Success, score and equal groups are
            theirs: groups that were chosen because their attempts differ say nothing about how good the policy is.
    """
    trajectories, steps = batch.trajectories, batch.steps
    played = trajectories if played is None else played
    by_type: dict[str, list[bool]] = {}
    for t in played:
        by_type.setdefault(t.task_type, []).append(t.won)
    known = [s.effect for s in steps if s.effect is not None]
    entropy_b = batch.entropy_b[np.isfinite(batch.entropy_b)]
    return {
        "success": fmean(t.won for t in played),
        "success_by_type": {k: fmean(v) for k, v in sorted(by_type.items())},
        # Without the intervals.
        **{name: {k: share[0] for k, share in of_k.items()} for name, of_k in passed([played], 1.0).items()},
        "score": fmean(t.score for t in played),
        "task_score": mean_task_score(played),
        "episodes": len(trajectories),
        "rows": len(steps),
        "sequences": {
            "count": batch.chains.sequences,
            "tokens": batch.chains.tokens,
            "row_tokens": batch.chains.row_tokens,
            "breaks": batch.chains.breaks,
            "forgotten_turns": sum(s.forgotten_turns for s in steps),
        },
        "episode_length": fmean(len(t.steps) for t in trajectories),
        "prompt_tokens": fmean(len(s.prompt_ids) for s in steps),
        "response_tokens": fmean(len(s.response_ids) for s in steps),
        "valid_actions": fmean(s.valid for s in steps),
        "repeated_actions": fmean(s.repeated for s in steps),
        "ineffective_actions": fmean(not e for e in known) if known else None,
        "retriever_errors": dict(sorted(Counter(s.retriever_error for s in steps if s.retriever_error).items())),
        "truncated_responses": fmean(s.truncated for s in steps),
        **({"masked_rows": masked} if (masked := int(batch.masked_b.sum())) else {}),
        **({"cut_texts": cut} if (cut := sum(s.cut_texts for s in steps)) else {}),
        **marker_counts(steps),
        "stop_reasons": {
            r.value: count
            for r in StopReason
            if (count := sum(t.stop_reason is r for t in trajectories)) or r not in OPTIONAL
        },
        "equal_reward_groups": _equal_reward_share(played),
        "entropy": {
            "mean": float(entropy_b.mean()) if len(entropy_b) else None,
            "quantiles": [float(q) for q in np.quantile(entropy_b, [0.05, 0.25, 0.5, 0.75, 0.95])]
            if len(entropy_b)
            else None,
            "histogram": _histogram(entropy_b, 0.0, 3.0),
        },
        "normalized_entropy": {
            "histogram": _histogram(batch.outliers.normalized_b[batch.outliers.included_b], -4.0, 4.0)
        },
        "advantage": {
            "mean": float(batch.advantages.total_b.mean()),
            "std": float(batch.advantages.total_b.std()),
            "zero": float((batch.advantages.total_b == 0).mean()),
        },
        **({"rewards": _reward_metrics(batch)} if batch.reward_share else {}),
        "anchor": _anchor_metrics(batch),
        "outlier": outlier_metrics(batch),
    }


def _reward_metrics(batch: RowBatch) -> dict[str, Any]:
    """Of each named reward: mean and standard deviation over episodes, share in the variance of the advantages."""
    paid = {
        name: [sum(step.rewards.get(name, 0.0) for step in t.steps) for t in batch.trajectories]
        for name in batch.reward_share
    }
    return {
        name: {"mean": fmean(sums), "std": float(np.std(sums)), "advantage_share": batch.reward_share[name]}
        for name, sums in paid.items()
    }


def outlier_metrics(batch: RowBatch) -> dict[str, Any]:
    """Flagged share, sides, fences, and flags by size of the anchor group."""
    o = batch.outliers
    rows = max(1, o.included)
    return {
        "flagged": o.flagged,
        "flagged_share": o.flagged / rows,
        "high_share": float(o.high_b.sum()) / rows,
        "low_share": float(o.low_b.sum()) / rows,
        "acted_on": int(batch.flag_b.sum()),
        "by_anchor_size": {
            _bin_name(low, high): int(o.mask_b[_in_bin(o.anchor_size_b, low, high)].sum()) for low, high in _SIZE_BINS
        },
        "q1": o.q1,
        "q3": o.q3,
        "iqr": o.iqr,
        "lower_fence": o.lower,
        "upper_fence": o.upper,
        "singleton_share": o.singleton_share,
        "none_because": o.reason,
    }


def _anchor_metrics(batch: RowBatch) -> dict[str, Any]:
    _, sizes = np.unique(batch.anchor_b, return_counts=True)
    return {
        "groups": len(sizes),
        "mean_size": float(sizes.mean()),
        "largest": int(sizes.max()),
        "rows_by_size": {_bin_name(low, high): int(sizes[_in_bin(sizes, low, high)].sum()) for low, high in _SIZE_BINS},
    }


def _in_bin(sizes: np.ndarray, low: int, high: int | None) -> np.ndarray:
    return (sizes >= low) & (sizes <= (high if high is not None else np.inf))


def _bin_name(low: int, high: int | None) -> str:
    return f"{low}+" if high is None else str(low) if low == high else f"{low}-{high}"


def _equal_reward_share(trajectories: Sequence[Trajectory]) -> float:
    scores: dict[int, set[float]] = {}
    for t in trajectories:
        scores.setdefault(t.group, set()).add(t.score)
    return fmean(len(s) == 1 for s in scores.values())


def _histogram(values: np.ndarray, low: float, high: float) -> dict[str, Any]:
    """Counts in 40 equal bins of [low, high]; values outside fall into the first and last bin."""
    counts, _ = np.histogram(np.clip(values, low, high), bins=40, range=(low, high))
    return {"low": low, "high": high, "counts": counts.tolist()}


def correction_of(rollout: RolloutConfig) -> Correction | None:
    """The correction that settings ask for; None for none."""
    if rollout.correction == "none":
        return None
    level, _, beyond = rollout.correction.partition("_")
    return Correction(cast(Level, level), cast(Beyond, beyond), rollout.correction_threshold)


def mismatch_of(steps: Sequence[Step], correction: Correction | None) -> dict[str, float]:
    """Measures of the mismatch over all tokens of rescored `steps`; see `stapo.algo.mismatch`."""
    mask_bl = length_mask([len(step.response_ids) for step in steps], torch.device("cpu"))
    old_bl, sampled_bl = (
        pad_rows([getattr(step, name) for step in steps], mask_bl.float()) for name in ("old_logprobs", "logprobs")
    )
    return mismatch(old_bl, sampled_bl, mask_bl, correction)
