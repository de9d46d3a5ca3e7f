"""From measured steps to the numbers of a diagnosis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stapo.diagnosis.measure import Measured
from stapo.diagnosis.protocol import stateless_metrics
from stapo.diagnosis.ranking import (
    Counts,
    Estimate,
    Floats,
    auc_inside_replicates,
    auc_replicates,
    estimate,
    mean_replicates,
    resamples,
)
from stapo.diagnosis.scoring import MASKS
from stapo.training.metrics import rollout_metrics

ANY = "any"
"""Name of the union of all faults."""

PAIRS = (("normalized", "shannon"), ("normalized", "low-kl"), ("abs-normalized", "normalized"))
"""Scores whose areas are subtracted, first minus second."""

_FEW = 5


@dataclass(frozen=True)
class Numbers:
    """The numbers of one policy.

    Attributes:
        document: everything, as JSON can hold it; an interval is a list [value, low, high].
        compared: what policies are compared by: quantity -> value, and its (R,) resamples. All policies of a protocol
            share the tasks of each resample, so differences are paired.
    """

    document: dict[str, Any]
    compared: dict[str, tuple[float, Floats]]


def summarize(measured: Measured, seed: int, count: int) -> Numbers:
    """All numbers of one policy."""
    batch, attribution = measured.batch, measured.attribution
    counts_rc = resamples(measured.clusters, count, seed)
    flag_b, all_b = batch.outliers.mask_b, np.ones(len(batch), dtype=bool)
    size_b, included_b = batch.outliers.anchor_size_b, batch.outliers.included_b

    def mean(value_b: np.ndarray, rows_b: np.ndarray) -> tuple[float, Floats]:
        return mean_replicates(value_b, rows_b & np.isfinite(value_b), measured.cluster_b, counts_rc)

    def split(value_b: np.ndarray) -> dict[str, Estimate]:
        """Means over all rows, over flagged ones and those of each side, over the others; difference to the others."""
        inside, outside = mean(value_b, flag_b), mean(value_b, ~flag_b)
        return {
            "all": estimate(*mean(value_b, all_b)),
            "flagged": estimate(*inside),
            "high": estimate(*mean(value_b, batch.outliers.high_b)),
            "low": estimate(*mean(value_b, batch.outliers.low_b)),
            "unflagged": estimate(*outside),
            "difference": _difference(inside, outside),
        }

    # A step alone in its situation has nothing to be better than; its 0 would pull the means together.
    step_b = np.where(size_b > 1, batch.advantages.step_b.astype(np.float64), np.nan)
    won_j = np.array([t.won for t in batch.trajectories], dtype=np.float64)
    cluster_j = np.array([_task_of(measured, j) for j in range(len(won_j))], dtype=np.int64)
    compared = {
        "success": mean_replicates(won_j, cluster_j >= 0, np.maximum(cluster_j, 0), counts_rc),
        "bad_steps": mean(measured.has_fault().astype(np.float64), measured.judged_b),
        "outlier_share": mean(flag_b.astype(np.float64), included_b),
        "kl": mean(attribution.kl_b, all_b),
        **{f"attribution_{mask}": mean(attribution.drop_b[mask], all_b) for mask in MASKS},
    }
    document = {
        "episodes": len(batch.trajectories),
        "failed_episodes": measured.failed,
        "steps": len(batch),
        "judged_steps": int(measured.judged_b.sum()),
        **{name: estimate(*compared[name]) for name in ("success", "bad_steps", "outlier_share")},
        "outlier_share_by_group_size": _by_size(size_b, flag_b, included_b),
        "kl": split(attribution.kl_b),
        "attribution": {mask: split(attribution.drop_b[mask]) for mask in MASKS},
        "step_advantage": split(step_b),
        "faults": _faults(measured, mean),
        "ranking": _ranking(measured, counts_rc),
        "rollout": rollout_metrics(batch),
    }
    return Numbers(document, compared)


def _task_of(measured: Measured, trajectory: int) -> int:
    """The cluster of a trajectory; -1 for one without steps, which no row tells about."""
    rows = np.flatnonzero(measured.batch.traj_b == trajectory)
    return int(measured.cluster_b[rows[0]]) if len(rows) else -1


def _faults(measured: Measured, mean: Callable[[np.ndarray, np.ndarray], tuple[float, Floats]]) -> dict[str, Any]:
    """How often each fault happens, among flagged steps and others, and what goal and history do there."""
    outliers, judged_b, any_b = measured.batch.outliers, measured.judged_b, measured.has_fault()
    flag_b = outliers.mask_b
    kl_b, both_b = measured.attribution.kl_b, measured.attribution.drop_b["goal_history"]
    table: dict[str, Any] = {}
    for name in (ANY, *measured.judgment.names):
        bad_b = any_b if name == ANY else measured.has_fault(name)
        share = bad_b.astype(np.float64)
        flagged, unflagged = mean(share, judged_b & flag_b), mean(share, judged_b & ~flag_b)
        # Good steps are those without any fault, whichever one is looked at.
        good_b = judged_b & ~any_b
        table[name] = {
            "means": measured.judgment.names.get(name, "any of the others"),
            "steps": int(bad_b.sum()),
            "share": estimate(*mean(share, judged_b)),
            "share_of_flagged": estimate(*flagged),
            "share_of_high": estimate(*mean(share, judged_b & outliers.high_b)),
            "share_of_low": estimate(*mean(share, judged_b & outliers.low_b)),
            "share_of_unflagged": estimate(*unflagged),
            "share_difference": _difference(flagged, unflagged),
            "kl": estimate(*mean(kl_b, bad_b)),
            "kl_difference_to_good": _difference(mean(kl_b, bad_b), mean(kl_b, good_b)),
            "attribution": estimate(*mean(both_b, bad_b)),
            "attribution_difference_to_good": _difference(mean(both_b, bad_b), mean(both_b, good_b)),
        }
    return table


def _ranking(measured: Measured, counts_rc: Counts) -> dict[str, Any]:
    """Area under the ROC curve of every score for every fault; bad steps with it against steps without any fault.

    Only steps that have all scores take part, so that scores are compared on the same steps. Inside anchor groups all
    steps with an entropy do; eq. 2 does not change their order there.
    """
    any_b, table, batch = measured.has_fault(), {}, measured.batch
    finite_b = measured.judged_b & np.isfinite(batch.entropy_b)
    usable_b = measured.judged_b & np.all([np.isfinite(s) for s in measured.score_b.values()], axis=0)
    for name in (ANY, *measured.judgment.names):
        bad_b = any_b if name == ANY else measured.has_fault(name)
        rows_b = usable_b & (bad_b | ~any_b)
        bad, cluster = bad_b[rows_b], measured.cluster_b[rows_b]
        areas = {
            score: auc_replicates(value_b[rows_b], bad, cluster, counts_rc)
            for score, value_b in measured.score_b.items()
        }
        known = {a for a in areas if a in stateless_metrics()} - {"normalized", "shannon"}
        pairs = [*PAIRS, *((metric, "normalized") for metric in areas if metric in known)]
        inside_b = finite_b & (bad_b | ~any_b)
        inside = auc_inside_replicates(
            batch.entropy_b[inside_b],
            bad_b[inside_b],
            batch.anchor_b[inside_b],
            measured.cluster_b[inside_b],
            counts_rc,
        )
        table[name] = {
            "bad": int(bad.sum()),
            "good": int((~bad).sum()),
            "auc": {score: estimate(*area) for score, area in areas.items()},
            "auc_inside_groups": estimate(*inside),
            "differences": {f"{a} - {b}": _difference(areas[a], areas[b]) for a, b in pairs},
        }
        if min(bad.sum(), (~bad).sum()) < _FEW:
            table[name]["few"] = True
    return table


def _by_size(size_b: np.ndarray, flag_b: np.ndarray, included_b: np.ndarray) -> list[dict[str, Any]]:
    """Outliers by how many steps share the situation: powers of two, the last open."""
    rows, low = [], 1
    while low <= int(size_b.max(initial=0)):
        inside_b = included_b & (size_b >= low) & (size_b < 2 * low)
        name = str(low) if low == 1 else f"{low}-{2 * low - 1}"
        rows.append({"size": name, "steps": int(inside_b.sum()), "flagged": int((flag_b & inside_b).sum())})
        low *= 2
    return rows


def _difference(first: tuple[float, Floats], second: tuple[float, Floats]) -> Estimate:
    return estimate(first[0] - second[0], first[1] - second[1])
