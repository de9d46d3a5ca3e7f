"""Named algorithms. A preset is a value, not code: further ones are added to `_PRESETS`."""

from __future__ import annotations

from dataclasses import replace

from stapo.algo.config import AdvantageConfig, AlgorithmConfig, OutlierConfig, SelectiveConfig
from stapo.errors import unknown_name

_STAPO_PAPER = "STAPO: Selective Trajectory-Aware Policy Optimization, ACL 2026, arXiv 2607.04963"
_OFF = SelectiveConfig(alpha=0.0, gamma=0.0)
_NO_FLAGS = OutlierConfig(select="none")

_GRPO = AlgorithmConfig(
    name="grpo",
    paper="DeepSeekMath (GRPO), arXiv 2402.03300",
    description="Episode return against the group's other attempts; no step-level credit.",
    advantage=AdvantageConfig(step_advantage=False),
    outlier=_NO_FLAGS,
    selective=_OFF,
)
_GIGPO = AlgorithmConfig(
    name="gigpo",
    paper="GiGPO, arXiv 2505.10978",
    description="GRPO plus a step advantage among steps that saw the same state.",
    outlier=_NO_FLAGS,
    selective=_OFF,
)
_STAPO = AlgorithmConfig(
    name="stapo",
    paper=_STAPO_PAPER,
    description="GiGPO plus trajectory-aware terms on the steps whose entropy is an outlier.",
)


def _ablation(
    name: str,
    description: str,
    *,
    outlier: OutlierConfig = _STAPO.outlier,
    selective: SelectiveConfig = _STAPO.selective,
) -> AlgorithmConfig:
    return replace(_STAPO, name=name, description=description, outlier=outlier, selective=selective)


_PRESETS: tuple[AlgorithmConfig, ...] = (
    _GRPO,
    _GIGPO,
    _STAPO,
    _ablation(
        "stapo-literal",
        "STAPO with eq. 8 to the letter: the extra term is averaged over all steps.",
        selective=SelectiveConfig(norm="all"),
    ),
    _ablation(
        "stapo-shannon",
        "STAPO that flags by plain entropy, not normalised inside anchor groups (table 3).",
        outlier=OutlierConfig(metric="shannon"),
    ),
    _ablation(
        "stapo-goal-only",
        "STAPO whose blind prompt leaves out the goal alone (table 3).",
        selective=SelectiveConfig(blind_mask="goal"),
    ),
    _ablation(
        "stapo-history-only",
        "STAPO whose blind prompt leaves out the history alone (table 3).",
        selective=SelectiveConfig(blind_mask="history"),
    ),
    _ablation(
        "stapo-single-penalty",
        "STAPO without the trajectory-independence penalty, gamma = 0 (table 3).",
        selective=SelectiveConfig(gamma=0.0),
    ),
    _ablation(
        "stapo-all-steps",
        "STAPO that flags every step (figure 4).",
        outlier=OutlierConfig(select="all"),
    ),
)

ALGORITHMS: dict[str, AlgorithmConfig] = {preset.name: preset for preset in _PRESETS}
"""All presets by name, in the order in which they are listed to a user."""


def get_algorithm(name: str) -> AlgorithmConfig:
    """Return the preset called `name`.

    Raises:
        UnknownNameError: no such preset; the message proposes the closest name.
    """
    try:
        return ALGORITHMS[name]
    except KeyError:
        raise unknown_name("algorithm", name, ALGORITHMS) from None
