"""Names of the trackers for fields of `metrics.jsonl` and `evals.jsonl`: verl's, where it has one.

A field is a path of keys joined by dots; `*` stands for one key, in the name as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

METRICS = {
    "success": "episode/success_rate",
    "success_by_type.*": "episode/success_rate/*",
    "score": "episode/reward/mean",
    "task_score": "episode/task_score/mean",
    "episodes": "episode/count",
    "episode_length": "episode/length/mean",
    "valid_actions": "episode/valid_action_ratio",
    "repeated_actions": "episode/repeated_action_ratio",
    "ineffective_actions": "episode/ineffective_action_ratio",
    "stop_reasons.*": "episode/stop_reason/*",
    "retriever_errors.*": "episode/retriever_errors/*",
    "failures.*": "episode/failures/*",
    "retried_episodes": "episode/retried",
    "cut_texts": "episode/cut_texts",
    "rows": "training/rows",
    "prompt_tokens": "prompt_length/mean",
    "response_tokens": "response_length/mean",
    "truncated_responses": "response_length/clip_ratio",
    "equal_reward_groups": "group/frac_zero_std",
    "sampling.rounds": "group/sampling_rounds",
    "sampling.kept_groups": "group/kept",
    "sampling.dropped_groups": "group/dropped",
    "entropy.mean": "rollout/entropy",
    "entropy.quantiles.0": "rollout/entropy/p05",
    "entropy.quantiles.1": "rollout/entropy/p25",
    "entropy.quantiles.2": "rollout/entropy/p50",
    "entropy.quantiles.3": "rollout/entropy/p75",
    "entropy.quantiles.4": "rollout/entropy/p95",
    "advantage.mean": "critic/advantages/mean",
    "advantage.std": "critic/advantages/std",
    "advantage.zero": "critic/advantages/zero",
    "critic.mean_value": "critic/values/mean",
    "critic.mean_target": "critic/returns/mean",
    "critic.explained_variance": "critic/vf_explained_var",
    "learning_rate": "actor/lr",
    "update.loss": "actor/pg_loss",
    "update.grad_norm": "actor/grad_norm",
    "update.entropy": "actor/entropy",
    "update.ref_kl": "actor/kl_loss",
    "update.old_kl": "actor/ppo_kl",
    "update.ratio": "actor/ratio",
    "update.clip_low": "actor/pg_clipfrac_low",
    "update.clip_high": "actor/pg_clipfrac_high",
    "update.dual_clip": "actor/pg_clipfrac_lower",
    "update.log_ratio_clamped": "actor/log_ratio_clamped",
    "update.optimizer_steps": "actor/optimizer_steps",
    "update.skipped_steps": "actor/skipped_steps",
    "update.tokens": "actor/tokens",
    "update.value_loss": "critic/vf_loss",
    "update.value_grad_norm": "critic/grad_norm",
    "update.value_clipped": "critic/vf_clipfrac",
    "update.logprob_gap": "training/logprob_gap_max",
    "update.logprob_gap_mean": "training/logprob_gap_mean",
    "update.r_ta": "stapo/r_ta",
    "update.p_ti": "stapo/p_ti",
    "update.r_ta_capped": "stapo/r_ta_capped",
    "update.p_ti_capped": "stapo/p_ti_capped",
    "update.selective_rows": "stapo/selective_rows",
    "update.selective_loss": "stapo/selective_loss",
    "update.selective_clamped": "stapo/selective_clamped",
    "update.selective_gradient_ratio": "stapo/selective_gradient_ratio",
    "unflagged_kl": "stapo/unflagged_kl",
    "outlier.*": "stapo/*",
    "outlier.by_anchor_size.*": "stapo/flagged_by_anchor_size/*",
    "anchor.*": "anchor/*",
    "anchor.rows_by_size.*": "anchor/rows_by_size/*",
    "seconds.generation": "timing_s/gen",
    "seconds.environment": "timing_s/env",
    "seconds.entropies": "timing_s/entropies",
    "seconds.values": "timing_s/values",
    "seconds.advantages": "timing_s/adv",
    "seconds.reference": "timing_s/ref",
    "seconds.blind": "timing_s/blind",
    "seconds.update": "timing_s/update_actor",
    "seconds.total": "timing_s/step",
}
"""Fields of `metrics.jsonl`. `actor/pg_clipfrac` is the sum of `update.clip_low` and `update.clip_high`."""

EVALS = {
    "success": "success_rate",
    "success_std_over_seeds": "success_rate_std_over_seeds",
    "success_standard_error": "success_rate_standard_error",
    "mean_of_types": "success_rate_mean_of_types",
    "by_type.*.success": "success_rate/*",
    "by_type.*.task_score": "task_score/*",
    "task_score": "task_score/mean",
    "episode_length": "length/mean",
    "valid_actions": "valid_action_ratio",
    "repeated_actions": "repeated_action_ratio",
    "ineffective_actions": "ineffective_action_ratio",
    "step_limit": "step_limit_ratio",
    "episodes": "episodes",
    "errors": "errors",
}
"""Fields of `evals.jsonl`; the names stand behind `val/SPLIT/MODE/`."""

HISTOGRAMS = {
    "entropy.histogram": "rollout/entropy_histogram",
    "normalized_entropy.histogram": "rollout/normalized_entropy_histogram",
}
"""Fields of `metrics.jsonl` that are histograms."""

LEFT_OUT = {
    "iteration": "the step",
    "success_by_seed.*": "their mean and standard deviation are sent",
    "by_type.*.episodes": "the protocol fixes it",
    "by_type.*.success_std_over_seeds": "in evals.jsonl only",
}
"""Numbers of either file that are not sent, and why."""

_MOST_OF_A_ROW = 2000  # numbers; a row of ours has a hundred, one of a stranger's any number
_MOST_BINS = 512
_DEEPEST = 8
_OTHER = re.compile(r"[^A-Za-z0-9_. -]+")


class Histogram(NamedTuple):
    """Counts in equal bins from `low` to `high`; what lies outside is in the first and the last bin."""

    low: float
    high: float
    counts: tuple[int, ...]

    @property
    def edges(self) -> list[float]:
        """The limits of the bins, one more than there are bins."""
        width = (self.high - self.low) / len(self.counts)
        return [self.low + i * width for i in range(len(self.counts))] + [self.high]


def plain_name(text: str) -> str:
    """A text in characters that every tracker takes."""
    return _OTHER.sub("_", text.replace("+", "_or_more"))[:80] or "_"


def metric_scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of `metrics.jsonl`, by name."""
    found = _named(row, METRICS)
    sides = [found[name] for name in ("actor/pg_clipfrac_low", "actor/pg_clipfrac_high") if name in found]
    return found | ({"actor/pg_clipfrac": sum(sides)} if sides else {})


def metric_histograms(row: Mapping[str, Any]) -> dict[str, Histogram]:
    """The histograms of a row of `metrics.jsonl`, by name; one that is no histogram is left out."""
    found = {}
    for field, name in HISTOGRAMS.items():
        value: Any = row
        for key in field.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if histogram := _histogram(value):
            found[name] = histogram
    return found


def eval_scalars(row: Mapping[str, Any], split: str) -> dict[str, float]:
    """The numbers of a row of `evals.jsonl`, by name."""
    start = f"val/{plain_name(split)}/{plain_name(str(row.get('mode')))}"
    return {f"{start}/{name}": value for name, value in _named(row, EVALS).items()}


def numbers(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    """Every finite number of a row with its path of keys; histograms are no numbers."""
    if len(path) > _DEEPEST:
        return
    if isinstance(value, Mapping):
        if _histogram(value) is None:
            for key, item in value.items():
                yield from numbers(item, (*path, str(key)))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from numbers(item, (*path, str(i)))
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        yield path, float(value)


def match(path: tuple[str, ...], table: Mapping[str, str]) -> str | None:
    """What a table says of a path, the key that `*` stands for put in; None where it says nothing."""
    patterns = [(path, "")] + [((*path[:i], "*", *path[i + 1 :]), path[i]) for i in range(len(path))]
    found = ((table.get(".".join(keys)), key) for keys, key in patterns)
    return next((name.replace("*", plain_name(key)) for name, key in found if name is not None), None)


def _named(row: Mapping[str, Any], table: Mapping[str, str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for path, value in numbers(row):
        name = match(path, table)
        if name is not None and len(found) < _MOST_OF_A_ROW:
            found[name] = value
    return found


def _histogram(value: Any) -> Histogram | None:
    if not isinstance(value, Mapping) or not {"low", "high", "counts"} <= value.keys():
        return None
    low, high, counts = value["low"], value["high"], value["counts"]
    plain = all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e300 for v in (low, high))
    if not plain or not low < high or not isinstance(counts, list) or not 0 < len(counts) <= _MOST_BINS:
        return None
    if any(not isinstance(c, int) or isinstance(c, bool) or not 0 <= c < 1 << 53 for c in counts):
        return None
    return Histogram(float(low), float(high), tuple(counts))
