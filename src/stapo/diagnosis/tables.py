"""The numbers as tables, for the page and for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stapo.diagnosis.numbers import ANY, PAIRS
from stapo.diagnosis.ranking import Estimate
from stapo.diagnosis.scoring import WORDS
from stapo.texts import counted

_NONE = "–"


@dataclass(frozen=True)
class Table:
    """A table of finished texts.

    Attributes:
        title: heading.
        head: one text per column.
        rows: rows of as many texts.
        note: what a reader needs to understand it.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


def tables(document: dict[str, Any]) -> list[Table]:
    """The tables of one policy."""
    return [outlier_table(document), side_table(document), fault_table(document), ranking_table(document)]


def outlier_table(document: dict[str, Any]) -> Table:
    """What outliers are like, compared with the other steps."""
    rows = [["KL of full against blind (nats per token)", *_split(document["kl"])]]
    rows += [
        [f"attribution, {WORDS[mask]} (nats per token)", *_split(part)]
        for mask, part in document["attribution"].items()
    ]
    rows.append(["step advantage, where a situation is shared", *_split(document["step_advantage"])])
    bad = document["faults"][ANY]
    rows.append(
        ["share of bad steps", *(share(bad[k]) for k in ("share", "share_of_flagged", "share_of_unflagged")),
         share(bad["share_difference"], signed=True)]
    )  # fmt: skip
    outlier = document["rollout"]["outlier"]
    because = f" None could be flagged: {outlier['none_because']}." if outlier["none_because"] else ""
    return Table(
        "Outliers against the other steps",
        ["", "all steps", "outliers", "others", "difference"],
        rows,
        f"outliers: {outlier['flagged']} of {counted(document['steps'], 'step')} ({share(document['outlier_share'])}), "
        f"{outlier['high_share']:.2%} high, {outlier['low_share']:.2%} low; fences "
        f"{number(outlier['lower_fence'])} and {number(outlier['upper_fence'])}.{because} Brackets: 95 % intervals, "
        "tasks resampled.",
    )


def side_table(document: dict[str, Any]) -> Table:
    """What outliers of each side are like: the uncertain and the certain ones."""
    sides, bad = ("high", "low", "unflagged"), document["faults"][ANY]
    rows = [
        ["KL of full against blind (nats per token)", *(value(document["kl"][k]) for k in sides)],
        ["step advantage, where a situation is shared", *(value(document["step_advantage"][k]) for k in sides)],
        ["share of bad steps", *(share(bad[f"share_of_{k}"]) for k in sides)],
    ]
    return Table(
        "Outliers by side",
        ["", "high", "low", "others"],
        rows,
        "High: unusually uncertain for its situation. Low: unusually certain, as a habit is.",
    )


def fault_table(document: dict[str, Any]) -> Table:
    """How often each fault happens."""
    rows = [
        [
            name,
            str(f["steps"]),
            share(f["share"]),
            share(f["share_of_flagged"]),
            share(f["share_of_unflagged"]),
            value(f["kl_difference_to_good"], signed=True),
            value(f["attribution_difference_to_good"], signed=True),
        ]
        for name, f in document["faults"].items()
    ]
    meanings = "; ".join(f"{name}: {f['means']}" for name, f in document["faults"].items() if name != ANY)
    return Table(
        "Bad steps, by the environment's word",
        [
            "fault",
            "steps",
            "of all",
            "of outliers",
            "of others",
            "KL, minus good steps'",
            "attribution, minus good steps'",
        ],
        rows,
        f"{meanings}. Negative differences are what trajectory neglect would look like: bad steps depend less on goal "
        "and history than good ones.",
    )


def ranking_table(document: dict[str, Any]) -> Table:
    """Areas under the ROC curves, and their paired differences."""
    ranking = document["ranking"]
    scores = list(next(iter(ranking.values()))["auc"])
    named = [f"{a} - {b}" for a, b in PAIRS]
    pairs = [p for p in next(iter(ranking.values()))["differences"] if p in named[:1] or p not in named]
    head = [f"{name}{' (few)' if t.get('few') else ''}, {t['bad']}/{t['good']}" for name, t in ranking.items()]
    rows = [[score, *(value(t["auc"][score]) for t in ranking.values())] for score in scores]
    rows.append(["entropy, inside groups", *(value(t["auc_inside_groups"]) for t in ranking.values())])
    rows += [[pair, *(value(t["differences"][pair], signed=True) for t in ranking.values())] for pair in pairs]
    return Table(
        "Finding bad steps: area under the ROC curve",
        ["score", *head],
        rows,
        "Columns: fault, bad/good steps. 0.5 is chance; the last rows are differences of areas on the same steps, "
        "resampled together. low-kl ranks by a low divergence of full from blind answers. Inside groups a bad step is "
        "compared with the good ones of its own anchor group alone; above 0.5, flags can find bad steps.",
    )


def comparison_table(documents: Sequence[dict[str, Any]]) -> Table:
    """Several policies by the same tasks and seeds."""
    rows = []
    for d in documents:
        difference = d.get("minus_first", {})
        rows.append(
            [
                d["label"],
                share(d["success"]),
                share(d["bad_steps"]),
                share(d["outlier_share"]),
                value(d["kl"]["all"]),
                value(d["kl"]["flagged"]),
                value(d["attribution"]["goal_history"]["all"]),
                share(difference["success"], signed=True) if difference else "",
                value(difference["kl"], signed=True) if difference else "",
            ]
        )
    return Table(
        "Side by side",
        ["policy", "success", "bad steps", "outliers", "KL", "KL, outliers", "attribution, both",
         "success, minus first's", "KL, minus first's"],
        rows,
        "Same tasks, seeds, settings for all. In the paper (ALFWorld, WebShop): outliers 1.7 %, 0.7 % (base), 0.9 %, "
        "0.5 % (GiGPO), 0.4 %, 0.2 % (STAPO); mean KL .40, .70 (base), .77, 1.22 (GiGPO), .92, 1.61 (STAPO).",
    )  # fmt: skip


def value(found: Estimate | Sequence[float], *, signed: bool = False) -> str:
    """A number with its interval, three digits."""
    form = "+.3f" if signed else ".3f"
    return _with_interval([_text(x, form) for x in found])


def share(found: Estimate | Sequence[float], *, signed: bool = False) -> str:
    """A share with its interval, in percent."""
    form = "+.1f" if signed else ".1f"
    texts = [_text(100 * x if x is not None else None, form) for x in found]
    return _with_interval(texts, " %")


def number(x: float | None) -> str:
    """A number, or a dash."""
    return _text(x, ".2f")


def _split(part: dict[str, Any]) -> list[str]:
    return [*(value(part[k]) for k in ("all", "flagged", "unflagged")), value(part["difference"], signed=True)]


def _text(x: float | None, form: str) -> str:
    return _NONE if x is None or not math.isfinite(x) else format(x, form)


def _with_interval(texts: list[str], unit: str = "") -> str:
    middle, low, high = texts
    if middle == _NONE:
        return _NONE
    return f"{middle}{unit}" + ("" if _NONE in (low, high) else f" [{low}, {high}]")
