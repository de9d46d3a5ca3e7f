"""The algorithms as pure functions: arrays in, arrays out, no I/O and no state.

Nothing here knows an environment, a model class or a trainer; the embedded engine and the verl
plugin call the same functions. Names are loaded on first use, so that reading a configuration does
not import torch.

Shape letters in argument names: B rows (steps), L response tokens, V vocabulary, H hidden size,
K flagged rows, N tokens in a flat list.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stapo.algo.anchors import anchor_groups as anchor_groups
    from stapo.algo.anchors import exact_groups as exact_groups
    from stapo.algo.anchors import similarity_groups as similarity_groups
    from stapo.algo.checks import require_finite as require_finite
    from stapo.algo.config import AdvantageConfig as AdvantageConfig
    from stapo.algo.config import AlgorithmConfig as AlgorithmConfig
    from stapo.algo.config import CriticConfig as CriticConfig
    from stapo.algo.config import ModulationConfig as ModulationConfig
    from stapo.algo.config import OutlierConfig as OutlierConfig
    from stapo.algo.config import PolicyLossConfig as PolicyLossConfig
    from stapo.algo.config import SamplingConfig as SamplingConfig
    from stapo.algo.config import SelectiveConfig as SelectiveConfig
    from stapo.algo.correction import Correction as Correction
    from stapo.algo.correction import correction_weights as correction_weights
    from stapo.algo.correction import mismatch as mismatch
    from stapo.algo.credit import AdvantageEstimator as AdvantageEstimator
    from stapo.algo.credit import Advantages as Advantages
    from stapo.algo.credit import CreditRows as CreditRows
    from stapo.algo.credit import StepCredit as StepCredit
    from stapo.algo.credit import batch_advantages as batch_advantages
    from stapo.algo.credit import compute_advantages as compute_advantages
    from stapo.algo.credit import episode_advantages as episode_advantages
    from stapo.algo.credit import leave_one_out_advantages as leave_one_out_advantages
    from stapo.algo.credit import step_advantages as step_advantages
    from stapo.algo.critic import ValueLoss as ValueLoss
    from stapo.algo.critic import explained_variance as explained_variance
    from stapo.algo.critic import gae_advantages as gae_advantages
    from stapo.algo.critic import value_loss as value_loss
    from stapo.algo.g2po import state_values as state_values
    from stapo.algo.graphgpo import distance_rewards as distance_rewards
    from stapo.algo.graphgpo import distances_behind as distances_behind
    from stapo.algo.groups import GroupStats as GroupStats
    from stapo.algo.groups import group_normalize as group_normalize
    from stapo.algo.groups import group_statistics as group_statistics
    from stapo.algo.head import FlaggedScores as FlaggedScores
    from stapo.algo.head import TokenMasks as TokenMasks
    from stapo.algo.head import flagged_scores as flagged_scores
    from stapo.algo.head import score_tokens as score_tokens
    from stapo.algo.head import two_context_kl as two_context_kl
    from stapo.algo.history import history_advantages as history_advantages
    from stapo.algo.history import history_groups as history_groups
    from stapo.algo.loss import BaseLoss as BaseLoss
    from stapo.algo.loss import LossDenominators as LossDenominators
    from stapo.algo.loss import PolicyLoss as PolicyLoss
    from stapo.algo.loss import PolicyLossFunction as PolicyLossFunction
    from stapo.algo.loss import aggregate as aggregate
    from stapo.algo.loss import base_loss as base_loss
    from stapo.algo.loss import k3 as k3
    from stapo.algo.loss import mean_stats as mean_stats
    from stapo.algo.loss import policy_loss as policy_loss
    from stapo.algo.loss import reference_kl as reference_kl
    from stapo.algo.mass import trajectory_mass as trajectory_mass
    from stapo.algo.modulation import entropy_scale as entropy_scale
    from stapo.algo.modulation import modulated_advantages as modulated_advantages
    from stapo.algo.outliers import Outliers as Outliers
    from stapo.algo.outliers import select_outliers as select_outliers
    from stapo.algo.outliers import step_entropy as step_entropy
    from stapo.algo.pgpo import potential_differences as potential_differences
    from stapo.algo.pgpo import success_rates as success_rates
    from stapo.algo.presets import ALGORITHM_FAMILIES as ALGORITHM_FAMILIES
    from stapo.algo.presets import ALGORITHMS as ALGORITHMS
    from stapo.algo.presets import algorithm_names as algorithm_names
    from stapo.algo.presets import get_algorithm as get_algorithm
    from stapo.algo.presets import register_algorithm as register_algorithm
    from stapo.algo.registries import ADVANTAGE_ESTIMATORS as ADVANTAGE_ESTIMATORS
    from stapo.algo.registries import POLICY_LOSSES as POLICY_LOSSES
    from stapo.algo.registries import STEP_CREDITS as STEP_CREDITS
    from stapo.algo.registries import STEP_SCORES as STEP_SCORES
    from stapo.algo.returns import episode_returns as episode_returns
    from stapo.algo.returns import step_returns as step_returns
    from stapo.algo.rewards import RewardAdvantages as RewardAdvantages
    from stapo.algo.rewards import cost_rewards as cost_rewards
    from stapo.algo.rewards import reward_advantages as reward_advantages
    from stapo.algo.selective import SelectiveTerms as SelectiveTerms
    from stapo.algo.selective import masked_mean_weights as masked_mean_weights
    from stapo.algo.selective import selective_divisor as selective_divisor
    from stapo.algo.selective import selective_loss as selective_loss
    from stapo.algo.selective import selective_terms as selective_terms
    from stapo.algo.selective import token_kl as token_kl
    from stapo.algo.selective import unflatten_tokens as unflatten_tokens
    from stapo.algo.step_scores import EntropyScores as EntropyScores
    from stapo.algo.step_scores import ScoreRows as ScoreRows
    from stapo.algo.step_scores import StateEntropies as StateEntropies
    from stapo.algo.step_scores import StepScore as StepScore
    from stapo.algo.step_scores import entropy_scores as entropy_scores
    from stapo.algo.step_scores import normalized_entropy as normalized_entropy
    from stapo.algo.step_scores import state_key as state_key

_NAMES = {
    "anchors": "anchor_groups exact_groups similarity_groups",
    "checks": "require_finite",
    "config": "AdvantageConfig AlgorithmConfig CriticConfig ModulationConfig OutlierConfig PolicyLossConfig "
    "SamplingConfig SelectiveConfig",
    "correction": "Correction correction_weights mismatch",
    "credit": "AdvantageEstimator Advantages CreditRows StepCredit batch_advantages compute_advantages "
    "episode_advantages leave_one_out_advantages step_advantages",
    "critic": "ValueLoss explained_variance gae_advantages value_loss",
    "g2po": "state_values",
    "graphgpo": "distance_rewards distances_behind",
    "groups": "GroupStats group_normalize group_statistics",
    "head": "FlaggedScores TokenMasks flagged_scores score_tokens two_context_kl",
    "history": "history_advantages history_groups",
    "loss": "BaseLoss LossDenominators PolicyLoss PolicyLossFunction aggregate base_loss k3 mean_stats policy_loss "
    "reference_kl",
    "mass": "trajectory_mass",
    "modulation": "entropy_scale modulated_advantages",
    "outliers": "Outliers select_outliers step_entropy",
    "pgpo": "potential_differences success_rates",
    "presets": "ALGORITHMS ALGORITHM_FAMILIES algorithm_names get_algorithm register_algorithm",
    "registries": "ADVANTAGE_ESTIMATORS POLICY_LOSSES STEP_CREDITS STEP_SCORES",
    "returns": "episode_returns step_returns",
    "rewards": "RewardAdvantages cost_rewards reward_advantages",
    "selective": "SelectiveTerms masked_mean_weights selective_divisor selective_loss selective_terms token_kl "
    "unflatten_tokens",
    "step_scores": "EntropyScores ScoreRows StateEntropies StepScore entropy_scores normalized_entropy state_key",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'stapo.algo' has no attribute {name!r}")
    return getattr(import_module(f"stapo.algo.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
