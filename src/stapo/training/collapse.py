"""Early warnings: the numbers of a run that usually go wrong before its success does.

Medians of five iterations are compared, not single iterations: one odd batch warns nobody, and a change that lasts
is told in the third iteration after it has begun. The first rows of the window say what was usual.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

WINDOW = 30
"""Rows that are looked at; older ones may be left out."""

_RECENT = 5
_USUAL = 5
_LEAST = _RECENT + _USUAL  # with fewer rows the two ends would overlap; bounds without a comparison need fewer

_FALLEN = 0.2  # step entropy, as a part of what was usual
_RISEN, _RISEN_BY = 2.0, 0.3  # step entropy: times what was usual, and nats above it
_LEAST_ENTROPY = 0.02  # nats; below it a policy was never exploring, and factors mean nothing
_SOLVED = 0.9  # success at which a policy has reason to be sure
_FAR, _FAR_RISE = 0.5, 1.5  # divergence from the reference: nats per token, and times that of five iterations before
_STRIDE = 0.1  # divergence of one update, nats per token; a healthy one is a hundredth of it, so no run is compared
_REPEATED, _REPEATED_BY = 0.3, 0.2  # repeated actions: share of steps, and how far above what was usual
_LONGER, _CUT_BY, _MUCH_LONGER = 1.4, 0.1, 2.5  # response tokens, with and without responses cut off at the limit
_SHORTER = 1 / 3
_EQUAL = 0.85  # share of groups without a difference

GAP_LIMITS: Mapping[str, float] = {"float32": 1e-3, "bfloat16": 0.05}
"""Mean difference between the log-probabilities of sampler and trainer, in nats per token, by the type of the weights:
what rounding explains with room to spare (tiny models on a CPU: 3e-6 and 0.01 at most)."""


@dataclass(frozen=True)
class _Series:
    """One number per iteration, up to the newest."""

    values: list[float]

    @property
    def newest(self) -> float:
        return self.values[-1]

    @property
    def recent(self) -> float:
        return median(self.values[-_RECENT:])

    @property
    def before(self) -> float:
        """Of the five iterations before the recent ones, or of as many as there are."""
        return median(self.values[-2 * _RECENT : -_RECENT])

    @property
    def usual(self) -> float:
        return median(self.values[:_USUAL])

    def reaches(self, bound: float) -> bool:
        """Whether both the newest iteration and the recent ones are at `bound` or above it."""
        return min(self.newest, self.recent) >= bound

    def stays_below(self, bound: float) -> bool:
        """Whether both the newest iteration and the recent ones are at `bound` or below it."""
        return max(self.newest, self.recent) <= bound

    def change(self, form: str) -> str:
        """What was usual and what is now, in words."""
        return f"went from {format(self.usual, form)} to {format(self.recent, form)}"


def early_warnings(rows: Sequence[Mapping[str, Any]], *, gap_limit: float = GAP_LIMITS["float32"]) -> list[str]:
    """Sentences about what looks like a collapse in the newest row; none where nothing does.

    Args:
        rows: of metrics.jsonl, newest last; the last `WINDOW` of them are enough.
        gap_limit: mean difference between the log-probabilities of sampler and trainer that is still usual.

    Returns:
        one text per sign, each beginning with its name out of `SIGNALS` and a colon. Apart from its numbers the text
        of a sign is always the same. Rows without a number that a sign needs are passed over; if the newest row lacks
        it, that sign says nothing.
    """
    window = [row for row in rows if isinstance(row, Mapping)][-WINDOW:]
    found = [(name, sign(window)) for name, sign in _SIGNS.items()]
    found.append((_GAP, _sampler_gap(window, gap_limit)))
    return [f"{name}: {text}" for name, text in found if text is not None]


def _low_entropy(rows: list[Mapping[str, Any]]) -> str | None:
    entropy, success = _series(rows, "entropy.mean"), _series(rows, "success", least=1)
    if entropy is None or entropy.usual < _LEAST_ENTROPY or not entropy.stays_below(_FALLEN * entropy.usual):
        return None
    if success is not None and success.recent >= _SOLVED:
        return None
    return (
        f"mean step entropy {entropy.change('.3f')} nats. Usually the policy has settled on few commands and "
        "explores no more, and success stays where it is or falls. Try a smaller optim.learning_rate, a larger "
        "algorithm.loss.beta, or a small algorithm.loss.entropy_coef."
    )


def _high_entropy(rows: list[Mapping[str, Any]]) -> str | None:
    entropy = _series(rows, "entropy.mean")
    if entropy is None or not entropy.reaches(max(_RISEN * entropy.usual, entropy.usual + _RISEN_BY)):
        return None
    return (
        f"mean step entropy {entropy.change('.2f')} nats. Usually the policy dissolves into noise. Try a smaller "
        "optim.learning_rate, a larger algorithm.loss.beta, a smaller algorithm.selective.alpha, or no "
        "algorithm.loss.entropy_coef."
    )


def _reference_kl(rows: list[Mapping[str, Any]]) -> str | None:
    kl = _series(rows, "update.ref_kl", least=_RECENT + 1)
    if kl is None or not kl.reaches(max(_FAR, _FAR_RISE * kl.before)):
        return None
    return (
        f"divergence from the reference went from {kl.before:.2f} to {kl.recent:.2f} nats per token within "
        f"{_RECENT} iterations. Usually the policy runs away from the language it started with. Try a smaller "
        "optim.learning_rate or a larger algorithm.loss.beta."
    )


def _update_kl(rows: list[Mapping[str, Any]]) -> str | None:
    kl = _series(rows, "update.old_kl", least=_RECENT)
    if kl is None or not kl.reaches(_STRIDE):
        return None
    return (
        f"within an iteration the policy moves {kl.recent:.2f} nats per token away from the one that sampled. Usually "
        "steps are too large for their data, and success is lost within ten iterations. Try a smaller "
        "optim.learning_rate, a larger optim.mini_batch or fewer optim.epochs."
    )


def _repetition(rows: list[Mapping[str, Any]]) -> str | None:
    repeated = _series(rows, "repeated_actions")
    if repeated is None or not repeated.reaches(max(_REPEATED, repeated.usual + _REPEATED_BY)):
        return None
    return (
        f"the share of repeated actions {repeated.change('.0%')} of steps. Usually the policy goes in circles. Try a "
        "longer agent.history_length, so that it sees what it did, a smaller optim.learning_rate, or a larger "
        "algorithm.loss.beta."
    )


def _long_responses(rows: list[Mapping[str, Any]]) -> str | None:
    tokens, cut = _series(rows, "response_tokens"), _series(rows, "truncated_responses")
    if tokens is None or tokens.usual <= 0:
        return None
    cut_more = cut is not None and cut.reaches(cut.usual + _CUT_BY)
    if not tokens.reaches((_LONGER if cut_more else _MUCH_LONGER) * tokens.usual):
        return None
    share = "–" if cut is None else f"{cut.recent:.0%}"
    return (
        f"response length {tokens.change('.1f')} tokens (cut off at the limit: {share}). Usually the policy rambles "
        "and no longer ends its answers. Try a smaller optim.learning_rate, a larger algorithm.loss.beta, or a larger "
        "algorithm.advantage.invalid_penalty."
    )


def _short_responses(rows: list[Mapping[str, Any]]) -> str | None:
    tokens = _series(rows, "response_tokens")
    if tokens is None or not tokens.stays_below(_SHORTER * tokens.usual):
        return None
    return (
        f"response length {tokens.change('.1f')} tokens. Usually the policy has stopped to think, or answers with "
        "next to nothing. Look at a transcript; try a larger algorithm.loss.beta or a larger "
        "algorithm.advantage.invalid_penalty."
    )


def _equal_groups(rows: list[Mapping[str, Any]]) -> str | None:
    equal = _series(rows, "equal_reward_groups")
    if equal is None or not equal.reaches(_EQUAL):
        return None
    return (
        f"in {equal.recent:.0%} of the task groups all attempts scored the same, so little is left to compare. "
        "Usually tasks are too hard or too easy for the policy by now. Try a larger rollout.group_size, a higher "
        "rollout.temperature, or other tasks (env.split)."
    )


def _sampler_gap(rows: list[Mapping[str, Any]], limit: float) -> str | None:
    gap = _series(rows, "update.logprob_gap_mean", least=1)
    if gap is None or not gap.reaches(limit):
        return None
    return (
        f"before any weight moved, trainer and sampler differ by {gap.recent:.2g} nats per token on average, and up to "
        f"{limit:.2g} is rounding. Usually the sampler holds other weights, another dtype, another prompt or "
        "another temperature, and every importance ratio is off by as much. Look for what was changed in the sampler; "
        "with model.dtype bfloat16, try float32."
    )


_GAP = "sampler-gap"
_SIGNS: dict[str, Callable[[list[Mapping[str, Any]]], str | None]] = {
    "low-entropy": _low_entropy,
    "high-entropy": _high_entropy,
    "reference-kl": _reference_kl,
    "update-kl": _update_kl,
    "repetition": _repetition,
    "long-responses": _long_responses,
    "short-responses": _short_responses,
    "equal-groups": _equal_groups,
}

SIGNALS: tuple[str, ...] = (*_SIGNS, _GAP)
"""Names that warnings begin with, in the order in which they are given."""


def _series(rows: list[Mapping[str, Any]], path: str, least: int = _LEAST) -> _Series | None:
    """Finite numbers at a dotted path; None where they are fewer than `least` or the newest row has none."""
    values = [_number(row, path) for row in rows]
    known = [v for v in values if v is not None]
    if len(known) < least or values[-1] is None:
        return None
    return _Series(known)


def _number(row: Mapping[str, Any], path: str) -> float | None:
    value: Any = row
    for key in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
