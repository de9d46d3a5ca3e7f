"""The health of a run, read from its rows: early warnings while it trains, and checks of the whole when it is over.

Early warnings compare medians of five iterations, not single iterations: one odd batch warns nobody, and a change that
lasts is told in the third iteration after it has begun. The first rows of the window say what was usual. The checks of
a whole run compare its first tenth with its last. Both hold the numbers against the limits below.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from stapo.documents import lookup, number
from stapo.texts import counted

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

GAP_LIMITS: Mapping[str, tuple[float, float]] = {"float32": (1e-3, 1e-3), "bfloat16": (0.05, 0.1)}
"""Mean difference between the log-probabilities of sampler and trainer, in nats per token, by the dtype of the weights,
for small models and for others: what rounding explains with room to spare (measured: docs/results/engines.md)."""

_SMALL = 10_000_000  # weights

_LARGEST_GAP: Mapping[str, tuple[float, float]] = {"float32": (1e-3, 1e-3), "bfloat16": (0.5, 2.0)}
"""The same for the worst token of an iteration, for models from scratch and for pretrained ones."""

_HACKED, _WORSE = 1.5, 0.05  # R_TA: times that of the start; valid actions and cut responses: share of steps
_SHORTCUT, _SHORTCUT_RISE = 1.0, 2.0  # P_TI: nats, and times that of the start
_DRIVEN = 1.0  # gradient of the selective terms as a multiple of the base loss's

Row = Mapping[str, Any]
_WARNING = re.compile(r"([a-z][a-z-]{0,30}): ")  # a warning begins with the name of its sign


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


def gap_limit(dtype: str, weights: int) -> float:
    """The mean difference between log-probabilities of sampler and trainer that is still usual, in nats per token.

    Args:
        dtype: of the weights, ``float32`` or ``bfloat16``.
        weights: how many the model has.
    """
    small, large = GAP_LIMITS[dtype]
    return small if weights < _SMALL else large


def early_warnings(rows: Sequence[Mapping[str, Any]], *, gap_limit: float = GAP_LIMITS["float32"][0]) -> list[str]:
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
        "with model.dtype bfloat16, try float32, or a rollout.correction."
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
    values = [_value(row, path) for row in rows]
    known = [v for v in values if math.isfinite(v)]
    if len(known) < least or not math.isfinite(values[-1]):
        return None
    return _Series(known)


def closing_checks(rows: Sequence[Row], config: Row, *, thinned: int = 1) -> list[str]:
    """Sentences about what needs a look in a run as a whole; none where nothing stands out.

    Args:
        rows: of metrics.jsonl, oldest first.
        config: the settings of the run, as data.
        thinned: every how many iterations there is a row.
    """
    checks = (_failures, _hacking, _no_flags, _fallen_entropy, _equal_in_the_end, _largest_gap, _drive)
    found = [said for check in checks if (said := check(rows, config))]
    return found + _repeated_warnings(rows, thinned)


def _failures(rows: Sequence[Row], config: Row) -> str | None:
    counts: Counter[str] = Counter()
    for row in rows:
        failures = row.get("failures")
        if isinstance(failures, dict):
            counts.update({str(k): int(v) for k, v in failures.items() if isinstance(v, int)})
    if not counts:
        return None
    parts = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return (
        f"{counted(sum(counts.values()), 'training episode')} left out: what failed was not the policy "
        f"({parts}); failures.jsonl has the errors."
    )


def _hacking(rows: Sequence[Row], config: Row) -> str | None:
    r_ta, p_ti, valid = (_ends(rows, key) for key in ("update.r_ta", "update.p_ti", "valid_actions"))
    cut = _ends(rows, "truncated_responses")
    if r_ta is None or r_ta[1] < _HACKED * r_ta[0]:
        return None
    worse = []
    if valid is not None and valid[1] < valid[0] - _WORSE:
        worse.append(f"valid actions fell from {_percent(valid[0])} to {_percent(valid[1])}")
    if cut is not None and cut[1] > cut[0] + _WORSE:
        worse.append(f"responses cut off at the limit rose from {_percent(cut[0])} to {_percent(cut[1])}")
    if p_ti is not None and p_ti[1] > _SHORTCUT and p_ti[1] > _SHORTCUT_RISE * p_ti[0]:
        worse.append(f"P_TI rose from {p_ti[0]:.2f} to {p_ti[1]:.2f}")
    if not worse:
        return None
    return (
        f"R_TA on flagged steps rose from {r_ta[0]:.2f} to {r_ta[1]:.2f} while {' and '.join(worse)}. This is what "
        "reward hacking through R_TA looks like; try a smaller selective.alpha or a larger selective.gamma."
    )


def _no_flags(rows: Sequence[Row], config: Row) -> str | None:
    if lookup(config, "algorithm.outlier.select") == "none" or not lookup(config, "algorithm.selective.alpha"):
        return None
    flagged = _known(rows, "outlier.flagged")
    if not flagged or sum(flagged) > 0:
        return None
    because = {str(said) for row in rows if (said := lookup(row, "outlier.none_because"))}
    return "No step was ever flagged, so the selective terms did nothing" + (
        f" ({'; '.join(sorted(because))})." if because else "; see the fences and the sizes of the anchor groups."
    )


def _fallen_entropy(rows: Sequence[Row], config: Row) -> str | None:
    entropy, success = _ends(rows, "entropy.mean"), _ends(rows, "success")
    if entropy is None or entropy[0] < _LEAST_ENTROPY or entropy[1] > _FALLEN * entropy[0]:
        return None
    if success is not None and success[1] >= _SOLVED:
        return None
    return (
        f"Mean step entropy fell from {entropy[0]:.2f} to {entropy[1]:.3f} nats: the policy hardly explores any more."
    )


def _equal_in_the_end(rows: Sequence[Row], config: Row) -> str | None:
    equal = _ends(rows, "equal_reward_groups")
    if equal is None or equal[1] < _EQUAL:
        return None
    return (
        f"In the last iterations {_percent(equal[1])} of the task groups scored the same in every attempt, so little "
        "was left to compare: tasks are too hard or too easy for this policy."
    )


def _largest_gap(rows: Sequence[Row], config: Row) -> str | None:
    limits = _LARGEST_GAP.get(str(lookup(config, "model.dtype") or "float32"), _LARGEST_GAP["bfloat16"])
    limit = limits[lookup(config, "model.path") is not None]
    gaps = [(_value(row, "update.logprob_gap"), row.get("iteration")) for row in rows]
    gap, iteration = max(((g, i) for g, i in gaps if math.isfinite(g)), key=lambda found: found[0], default=(0.0, 0))
    if gap <= limit:
        return None
    return (
        f"Sampler and trainer disagreed by up to {gap:.2g} nats per token (iteration {iteration}), more than "
        "rounding explains; importance ratios are off."
    )


def _drive(rows: Sequence[Row], config: Row) -> str | None:
    ratios = _known(rows, "update.selective_gradient_ratio")
    if not ratios or median(ratios) < _DRIVEN:
        return None
    return f"The selective terms' gradient is larger than that of the base loss (median ratio {median(ratios):.1f})."


def _repeated_warnings(rows: Sequence[Row], thinned: int) -> list[str]:
    """One sentence per sign that the trainer warned of while the run went on."""
    told: dict[str, list[tuple[int, str]]] = {}
    for row in rows:
        named: dict[str, str] = {}
        for text in _texts(row.get("warnings")):
            match = _WARNING.match(text)
            named.setdefault(match[1] if match else "other", text[match.end() :] if match else text)
        for name, text in named.items():
            told.setdefault(name, []).append((int(row["iteration"]), text))
    about = "about " if thinned > 1 else ""
    sentences = []
    for name, seen in told.items():
        (first, _), (last, text), count = seen[0], seen[-1], len(seen) * thinned
        times = f"{about}{counted(count, 'iteration')}" if count > 1 else "one iteration"
        sentences.append(f"Early warning {name}: since iteration {first}, in {times}, last in {last}: {text}")
    return sentences


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str) and text] if isinstance(value, list) else []


def _value(row: Row, path: str) -> float:
    """The number at a dotted path; NaN for anything else, a truth value included."""
    value = lookup(row, path)
    return math.nan if isinstance(value, bool) else number(value)


def _known(rows: Sequence[Row], path: str) -> list[float]:
    return [value for row in rows if math.isfinite(value := _value(row, path))]


def _ends(rows: Sequence[Row], path: str) -> tuple[float, float] | None:
    """Means over the first and the last tenth of a series; None where it is too short to have two ends."""
    known = _known(rows, path)
    if len(known) < 2:
        return None
    width = max(1, len(known) // 10)
    return fmean(known[:width]), fmean(known[-width:])


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\N{NARROW NO-BREAK SPACE}%"
