"""Environments: text worlds that know nothing of models."""

from stapo.envs.check import check_env
from stapo.envs.protocol import (
    CommandShapes,
    Demonstrator,
    Env,
    Expert,
    HasDemonstrator,
    HasJudge,
    Judge,
    Observation,
    StepResult,
    Tool,
    read_call,
    write_call,
)
from stapo.envs.registry import ENVIRONMENTS, make

__all__ = [
    "ENVIRONMENTS",
    "CommandShapes",
    "Demonstrator",
    "Env",
    "Expert",
    "HasDemonstrator",
    "HasJudge",
    "Judge",
    "Observation",
    "StepResult",
    "Tool",
    "check_env",
    "make",
    "read_call",
    "write_call",
]
