"""Algorithms with dynamic sampling: groups whose attempts all scored the same are replaced."""

from __future__ import annotations

from dataclasses import replace

from stapo.algo.config import AlgorithmConfig, PolicyLossConfig, SamplingConfig
from stapo.algo.presets import baselines, selective

_SAMPLING = SamplingConfig(dynamic=True)
_HIGHER_CLIP = PolicyLossConfig(clip_high=0.28)
_BY_NAME = {preset.name: preset for preset in (*baselines.PRESETS, *selective.PRESETS)}

PRESETS: tuple[AlgorithmConfig, ...] = (
    replace(
        _BY_NAME["grpo"],
        name="dapo",
        paper="DAPO, arXiv 2503.14476",
        description="GRPO with a higher upper clip, a mean over tokens, and dynamic sampling.",
        loss=replace(_HIGHER_CLIP, aggregation="token"),
        sampling=_SAMPLING,
    ),
    replace(
        _BY_NAME["gigpo"],
        name="gigpo-dynamic",
        paper="STAPO, arXiv 2607.04963, table 4",
        description="GiGPO with DAPO's upper clip and dynamic sampling (table 4).",
        loss=_HIGHER_CLIP,
        sampling=_SAMPLING,
    ),
    replace(
        _BY_NAME["stapo"],
        name="stapo-dynamic",
        description="STAPO with DAPO's upper clip and dynamic sampling (table 4).",
        loss=_HIGHER_CLIP,
        sampling=_SAMPLING,
    ),
)
