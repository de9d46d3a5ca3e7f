"""The pieces of an algorithm that are chosen by name, and are open to other packages.

What a function of each kind is given and returns say the protocols `stapo.algo.credit.AdvantageEstimator`,
`stapo.algo.credit.StepCredit`, `stapo.algo.step_scores.StepScore` and `stapo.algo.loss.PolicyLossFunction`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stapo.registry import Registry, no_function

ADVANTAGE_ESTIMATORS: Registry[Callable[..., Any]] = Registry(
    "advantage estimator", "stapo.advantage_estimators", no_function
)
STEP_CREDITS: Registry[Callable[..., Any]] = Registry("step credit", "stapo.step_credits", no_function)
STEP_SCORES: Registry[Callable[..., Any]] = Registry("step score", "stapo.step_scores", no_function)
POLICY_LOSSES: Registry[Callable[..., Any]] = Registry("policy loss", "stapo.policy_losses", no_function)
