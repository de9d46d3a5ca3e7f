"""Baselines: episode credit, step credit, ratios and aggregations of other papers; equal weights for trajectories."""

from __future__ import annotations

from stapo.algo.config import (
    AdvantageConfig,
    AlgorithmConfig,
    ModulationConfig,
    OutlierConfig,
    PolicyLossConfig,
    SelectiveConfig,
)

_OFF = SelectiveConfig(alpha=0.0, gamma=0.0)
_NO_FLAGS = OutlierConfig(select="none")
_EPISODE_ONLY = AdvantageConfig(step_advantage=False)
_UNBENT = ModulationConfig()
_CLIPPED = PolicyLossConfig()


def baseline(
    name: str,
    paper: str,
    description: str,
    *,
    advantage: AdvantageConfig = _EPISODE_ONLY,
    modulation: ModulationConfig = _UNBENT,
    loss: PolicyLossConfig = _CLIPPED,
) -> AlgorithmConfig:
    """An algorithm that flags no step and asks nothing of single steps."""
    return AlgorithmConfig(
        name=name,
        paper=paper,
        description=description,
        advantage=advantage,
        modulation=modulation,
        outlier=_NO_FLAGS,
        selective=_OFF,
        loss=loss,
    )


PRESETS: tuple[AlgorithmConfig, ...] = (
    baseline(
        "grpo",
        "DeepSeekMath (GRPO), arXiv 2402.03300",
        "Episode return against the group's other attempts; no step-level credit.",
    ),
    baseline(
        "dr-grpo",
        "Understanding R1-Zero-Like Training (Dr. GRPO), arXiv 2503.20783",
        "GRPO without division by the standard deviation or by the length of a response.",
        advantage=AdvantageConfig(step_advantage=False, advantage_norm="none"),
        loss=PolicyLossConfig(aggregation="sequence-sum-norm"),
    ),
    baseline(
        "rloo",
        "Back to Basics (RLOO), arXiv 2402.14740",
        "Episode return minus the mean of the group's other attempts.",
        advantage=AdvantageConfig(step_advantage=False, episode="rloo"),
    ),
    baseline(
        "reinforce++",
        "REINFORCE++, arXiv 2501.03262",
        "Return whitened over the whole batch; no groups.",
        advantage=AdvantageConfig(step_advantage=False, episode="batch", discount=1.0),
    ),
    baseline(
        "gspo",
        "GSPO, arXiv 2507.18071",
        "GRPO with one probability ratio per response, clipped very tightly.",
        loss=PolicyLossConfig(ratio="sequence", clip_low=3e-4, clip_high=4e-4),
    ),
    baseline(
        "gigpo",
        "GiGPO, arXiv 2505.10978",
        "GRPO plus a step advantage among steps that saw the same state.",
        advantage=AdvantageConfig(),
    ),
    baseline(
        "hgpo",
        "HGPO, arXiv 2602.22817",
        "Step advantages among steps with the same last 1, 2, … observations, averaged.",
        advantage=AdvantageConfig(episode="none", step_groups="history", ddof=0),
    ),
    baseline(
        "empg",
        "EMPG, arXiv 2509.09265",
        "GRPO with advantages scaled by certainty, and a bonus for a certain next step.",
        modulation=ModulationConfig(kind="empg"),
    ),
    baseline(
        "ppo",
        "PPO, arXiv 1707.06347",
        "Return minus the value that a critic expects of the state; no groups.",
        advantage=AdvantageConfig(step_advantage=False, episode="gae"),
    ),
)

CREDIT: tuple[AlgorithmConfig, ...] = (
    baseline(
        "pgpo",
        "PGPO, arXiv 2609.02236",
        "Step advantages plus the change in a state's mean return, weighted by the task's failure rate.",
        advantage=AdvantageConfig(episode="none", step_credit="pgpo"),
    ),
    baseline(
        "graphgpo",
        "GraphGPO, arXiv 2605.26684",
        "GRPO plus step advantages from the distance to success in the graph of all attempts.",
        advantage=AdvantageConfig(step_credit="graphgpo"),
    ),
    baseline(
        "g2po",
        "G2PO, arXiv 2606.22995",
        "GRPO plus step advantages from the values of states in the graph of all attempts.",
        advantage=AdvantageConfig(step_credit="g2po"),
    ),
    baseline(
        "gigpo-tmn",
        "BATON, arXiv 2609.19830",
        "GiGPO with equal weight per trajectory, whatever its length (trajectory mass normalization).",
        advantage=AdvantageConfig(equal_mass="trajectory"),
    ),
)
