"""What a careful reader would stumble over in the numbers, said in words."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np

from stapo.html.drawing import Floats
from stapo.report.data import RunLog
from stapo.report.summary import Comparison, percent

_GAP_LIMIT = {"float32": 1e-3, "float64": 1e-3}
_GAP_LIMIT_HALF = 0.5
_WARNING = re.compile(r"([a-z][a-z-]{0,30}): ")  # a warning of the trainer begins with the name of its sign


def health_checks(log: RunLog, compared: list[Comparison]) -> list[str]:
    """Sentences about what needs a look; none where nothing stands out."""
    found = [
        f"Evaluation in {c.mode} play got worse by {c.errors:.1f} standard errors."
        for c in compared
        if c.change < 0 and c.errors >= 2
    ]
    checks = (_failures, _hacking, _no_flags, _collapse, _equal, _gap, _drive)
    found += [said for check in checks if (said := check(log))]
    return found + _warnings(log)


def _failures(log: RunLog) -> str | None:
    counts: Counter[str] = Counter()
    for row in log.metrics:
        failures = row.get("failures")
        if isinstance(failures, dict):
            counts.update({str(k): int(v) for k, v in failures.items() if isinstance(v, int)})
    if not counts:
        return None
    parts = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return (
        f"{sum(counts.values())} training episodes failed for reasons that are not the policy's and were left out "
        f"({parts}); failures.jsonl has the errors."
    )


def _hacking(log: RunLog) -> str | None:
    r_ta, p_ti, valid = (_ends(log.series(k)) for k in ("update.r_ta", "update.p_ti", "valid_actions"))
    cut = _ends(log.series("truncated_responses"))
    if r_ta is None or r_ta[1] < 1.5 * r_ta[0]:
        return None
    worse = []
    if valid is not None and valid[1] < valid[0] - 0.05:
        worse.append(f"valid actions fell from {percent(valid[0], 0)} to {percent(valid[1], 0)}")
    if cut is not None and cut[1] > cut[0] + 0.05:
        worse.append(f"responses cut off at the limit rose from {percent(cut[0], 0)} to {percent(cut[1], 0)}")
    if p_ti is not None and p_ti[1] > 1.0 and p_ti[1] > 2 * p_ti[0]:
        worse.append(f"P_TI rose from {p_ti[0]:.2f} to {p_ti[1]:.2f}")
    if not worse:
        return None
    return (
        f"R_TA on flagged steps rose from {r_ta[0]:.2f} to {r_ta[1]:.2f} while {' and '.join(worse)}. This is what "
        "reward hacking through R_TA looks like; try a smaller selective.alpha or a larger selective.gamma."
    )


def _no_flags(log: RunLog) -> str | None:
    if log.setting("algorithm.outlier.select") == "none" or not log.setting("algorithm.selective.alpha"):
        return None
    flagged = log.series("outlier.flagged")
    if not np.isfinite(flagged).any() or np.nansum(flagged) > 0:
        return None
    because = {str(r["outlier"]["none_because"]) for r in log.metrics if (r.get("outlier") or {}).get("none_because")}
    return "No step was ever flagged, so the selective terms did nothing" + (
        f" ({'; '.join(sorted(because))})." if because else "; see the fences and the sizes of the anchor groups."
    )


def _collapse(log: RunLog) -> str | None:
    ends = _ends(log.series("entropy.mean"))
    if ends is None or ends[0] <= 0 or ends[1] > 0.1 * ends[0]:
        return None
    return f"Mean step entropy fell from {ends[0]:.2f} to {ends[1]:.3f} nats: the policy hardly explores any more."


def _equal(log: RunLog) -> str | None:
    ends = _ends(log.series("equal_reward_groups"))
    if ends is None or ends[1] < 0.8:
        return None
    return (
        f"In the last iterations {percent(ends[1], 0)} of the task groups scored the same in every attempt, so little "
        "was left to compare: tasks are too hard or too easy for this policy."
    )


def _gap(log: RunLog) -> str | None:
    gap = log.series("update.logprob_gap")
    limit = _GAP_LIMIT.get(str(log.setting("model.dtype", "float32")), _GAP_LIMIT_HALF)
    if not np.isfinite(gap).any() or np.nanmax(gap) <= limit:
        return None
    at = int(log.iterations[int(np.nanargmax(gap))])
    return (
        f"Sampler and trainer disagreed by up to {np.nanmax(gap):.2g} nats per token (iteration {at}), more than "
        f"rounding explains; importance ratios are off."
    )


def _drive(log: RunLog) -> str | None:
    ratio = log.series("update.selective_gradient_ratio")
    known = ratio[np.isfinite(ratio)]
    if not len(known) or np.median(known) < 1:
        return None
    return f"The selective terms' gradient is larger than that of the base loss (median ratio {np.median(known):.1f})."


def _warnings(log: RunLog) -> list[str]:
    """One sentence per sign that the trainer warned of while the run went on."""
    told: dict[str, list[tuple[int, str]]] = {}
    for row in log.metrics:
        named: dict[str, str] = {}
        for text in _texts(row.get("warnings")):
            match = _WARNING.match(text)
            named.setdefault(match[1] if match else "other", text[match.end() :] if match else text)
        for name, text in named.items():
            told.setdefault(name, []).append((int(row["iteration"]), text))
    about = "about " if log.thinned > 1 else ""
    sentences = []
    for name, seen in told.items():
        (first, _), (last, text), count = seen[0], seen[-1], len(seen) * log.thinned
        times = f"{about}{count} iterations" if count > 1 else "one iteration"
        sentences.append(f"Early warning {name}: since iteration {first}, in {times}, last in {last}: {text}")
    return sentences


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str) and text] if isinstance(value, list) else []


def _ends(values: Floats) -> tuple[float, float] | None:
    """Means over the first and the last tenth of a series; None where it is too short to have two ends."""
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return None
    width = max(1, len(known) // 10)
    return float(known[:width].mean()), float(known[-width:].mean())
