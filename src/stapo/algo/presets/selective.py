"""STAPO: the method itself, its reading to the letter, its ablations and controls, and what goes beyond it."""

from __future__ import annotations

from dataclasses import replace

from stapo.algo.config import AlgorithmConfig, OutlierConfig, SelectiveConfig

_STAPO = AlgorithmConfig(
    name="stapo",
    paper="STAPO: Selective Trajectory-Aware Policy Optimization, ACL 2026, arXiv 2607.04963",
    description="GiGPO plus trajectory-aware terms on the steps whose entropy is an outlier.",
)


_OURS = "STAPO changed by this project, after arXiv 2607.04963"


def variant(
    name: str,
    description: str,
    *,
    paper: str = _STAPO.paper,
    outlier: OutlierConfig = _STAPO.outlier,
    selective: SelectiveConfig = _STAPO.selective,
) -> AlgorithmConfig:
    """STAPO with other flags or other terms on flagged steps."""
    return replace(_STAPO, name=name, paper=paper, description=description, outlier=outlier, selective=selective)


PRESETS: tuple[AlgorithmConfig, ...] = (
    _STAPO,
    variant(
        "stapo-literal",
        "STAPO with eq. 8 to the letter: the extra term is averaged over all steps.",
        selective=SelectiveConfig(norm="all"),
    ),
)

ABLATIONS: tuple[AlgorithmConfig, ...] = (
    variant(
        "stapo-shannon",
        "STAPO that flags by plain entropy, not normalized inside anchor groups (table 3).",
        outlier=OutlierConfig(metric="shannon"),
    ),
    variant(
        "stapo-goal-only",
        "STAPO whose blind prompt leaves out the goal alone (table 3).",
        selective=SelectiveConfig(blind_mask="goal"),
    ),
    variant(
        "stapo-history-only",
        "STAPO whose blind prompt leaves out the history alone (table 3).",
        selective=SelectiveConfig(blind_mask="history"),
    ),
    variant(
        "stapo-single-penalty",
        "STAPO without the trajectory-independence penalty, gamma = 0 (table 3).",
        selective=SelectiveConfig(gamma=0.0),
    ),
    variant(
        "stapo-raised-penalty",
        "STAPO with ten times the trajectory-independence penalty (table 3, which does not say how much).",
        selective=SelectiveConfig(gamma=0.1),
    ),
    variant(
        "stapo-penalty-only",
        "Its mirror: STAPO without the trajectory-awareness term, alpha = 0.",
        paper=_OURS,
        selective=SelectiveConfig(alpha=0.0),
    ),
    variant(
        "stapo-all-steps",
        "STAPO that flags every step (figure 4).",
        outlier=OutlierConfig(select="all"),
    ),
    variant(
        "stapo-random",
        "Control: STAPO that flags as many steps, drawn by chance.",
        paper=_OURS,
        outlier=OutlierConfig(select="random"),
    ),
)

BEYOND: tuple[AlgorithmConfig, ...] = (
    variant(
        "stapo-loo",
        "STAPO whose score leaves a step out of the mean and standard deviation it is held against.",
        paper=_OURS,
        outlier=OutlierConfig(metric="leave-one-out"),
    ),
    variant(
        "stapo-mad",
        "STAPO with a robust score: median and median absolute deviation.",
        paper=_OURS,
        outlier=OutlierConfig(metric="median-mad"),
    ),
    variant(
        "stapo-shrunken",
        "STAPO whose groups borrow mean and variance from the batch, small ones more.",
        paper=_OURS,
        outlier=OutlierConfig(metric="shrunken"),
    ),
    variant(
        "stapo-running",
        "STAPO that knows a state's usual entropy from earlier iterations as well.",
        paper=_OURS,
        outlier=OutlierConfig(metric="running"),
    ),
)
