"""stapo: train LLM agents over many steps.

    env = stapo.make("alfworld")
    stapo.check_env(env)

The command line is `stapo`; see `stapo --help`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stapo.errors import StapoError

if TYPE_CHECKING:
    from stapo.envs import Env, Observation, StepResult, make
    from stapo.envs.check import check_env

__version__ = "0.1.0.dev0"

__all__ = ["Env", "Observation", "StapoError", "StepResult", "__version__", "check_env", "make"]

_HOMES = {
    "Env": "stapo.envs",
    "Observation": "stapo.envs",
    "StepResult": "stapo.envs",
    "check_env": "stapo.envs.check",
    "make": "stapo.envs",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'stapo' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
