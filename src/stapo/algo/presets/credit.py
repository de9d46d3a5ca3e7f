"""Credit assignment from the states that steps lead to, and equal weights for trajectories."""

from __future__ import annotations

from stapo.algo.config import AdvantageConfig
from stapo.algo.presets.baselines import baseline

PRESETS = (
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
