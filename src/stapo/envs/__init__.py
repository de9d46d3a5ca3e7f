"""Environments: text worlds that know nothing of models."""

from stapo.envs.protocol import Env, Observation, StepResult
from stapo.envs.registry import ENVIRONMENTS, make

__all__ = ["ENVIRONMENTS", "Env", "Observation", "StepResult", "make"]
