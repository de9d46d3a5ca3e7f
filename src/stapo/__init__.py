"""stapo: train LLM agents over many steps.

    config = stapo.load_config("tiny", algorithm="gigpo", seed=1)
    run = stapo.train(config, "runs/a")
    result = stapo.evaluate(run, split="heldout", episodes=200)
    stapo.diagnose(run)
    stapo.compare(["gigpo", "stapo"], seeds=[0, 1, 2])

Environments, algorithms, prompts and the rest are registered by `stapo.register_...`, or by entry points of a package.
The command line is `stapo`; see `stapo --help`. The pure functions of the math are in `stapo.algo`.
"""

from __future__ import annotations

from functools import reduce
from importlib import import_module
from typing import TYPE_CHECKING, Any

from stapo.errors import ConfigError, EnvError, StapoError, UnknownNameError

if TYPE_CHECKING:
    from stapo import algo
    from stapo.agent.prompts import PromptFields
    from stapo.agent.registries import PROMPT_STYLES, RESPONSE_FORMATS
    from stapo.algo.registries import ADVANTAGE_ESTIMATORS, POLICY_LOSSES, STEP_CREDITS, STEP_SCORES
    from stapo.api.comparing import Comparison, compare
    from stapo.api.diagnosing import Diagnosis, diagnose
    from stapo.api.evaluation import Endpoint, Evaluation, evaluate
    from stapo.api.exporting import export
    from stapo.api.runs import Run, train
    from stapo.api.settings import load_config
    from stapo.config.run_config import RunConfig
    from stapo.envs import Env, Observation, StepResult, make
    from stapo.envs.check import check_env
    from stapo.envs.registry import ENVIRONMENTS
    from stapo.retrieval.opening import RETRIEVERS
    from stapo.trackers import TRACKERS
    from stapo.training.callbacks import (
        BatchEvent,
        Callback,
        EndEvent,
        Episode,
        EvaluationEvent,
        RolloutEvent,
        SaveEvent,
        StageEvent,
        StartEvent,
        StopTraining,
        UpdateEvent,
    )

    register_algorithm = algo.register_algorithm
    register_environment = ENVIRONMENTS.register
    register_advantage_estimator = ADVANTAGE_ESTIMATORS.register
    register_step_credit = STEP_CREDITS.register
    register_step_score = STEP_SCORES.register
    register_policy_loss = POLICY_LOSSES.register
    register_prompt_style = PROMPT_STYLES.register
    register_response_format = RESPONSE_FORMATS.register
    register_retriever = RETRIEVERS.register
    register_tracker = TRACKERS.register

__version__ = "0.1.0.dev0"

__all__ = [
    "BatchEvent",
    "Callback",
    "Comparison",
    "ConfigError",
    "Diagnosis",
    "EndEvent",
    "Endpoint",
    "Env",
    "EnvError",
    "Episode",
    "Evaluation",
    "EvaluationEvent",
    "Observation",
    "PromptFields",
    "RolloutEvent",
    "Run",
    "RunConfig",
    "SaveEvent",
    "StageEvent",
    "StapoError",
    "StartEvent",
    "StepResult",
    "StopTraining",
    "UnknownNameError",
    "UpdateEvent",
    "__version__",
    "algo",
    "check_env",
    "compare",
    "diagnose",
    "evaluate",
    "export",
    "load_config",
    "make",
    "register_advantage_estimator",
    "register_algorithm",
    "register_environment",
    "register_policy_loss",
    "register_prompt_style",
    "register_response_format",
    "register_retriever",
    "register_step_credit",
    "register_step_score",
    "register_tracker",
    "train",
]

# Imported on first use: `import stapo` waits for neither torch nor transformers.
_HOMES = {
    "algo": "stapo.algo",
    "check_env": "stapo.envs.check:check_env",
    "RunConfig": "stapo.config.run_config:RunConfig",
    "PromptFields": "stapo.agent.prompts:PromptFields",
    "load_config": "stapo.api.settings:load_config",
    "register_algorithm": "stapo.algo:register_algorithm",
    "register_environment": "stapo.envs.registry:ENVIRONMENTS.register",
    "register_advantage_estimator": "stapo.algo.registries:ADVANTAGE_ESTIMATORS.register",
    "register_step_credit": "stapo.algo.registries:STEP_CREDITS.register",
    "register_step_score": "stapo.algo.registries:STEP_SCORES.register",
    "register_policy_loss": "stapo.algo.registries:POLICY_LOSSES.register",
    "register_prompt_style": "stapo.agent.registries:PROMPT_STYLES.register",
    "register_response_format": "stapo.agent.registries:RESPONSE_FORMATS.register",
    "register_retriever": "stapo.retrieval.opening:RETRIEVERS.register",
    "register_tracker": "stapo.trackers:TRACKERS.register",
}
_HOMES |= {name: f"stapo.envs:{name}" for name in ("Env", "Observation", "StepResult", "make")}
_HOMES |= {name: f"stapo.api.runs:{name}" for name in ("Run", "train")}
_HOMES |= {name: f"stapo.api.evaluation:{name}" for name in ("Endpoint", "Evaluation", "evaluate")}
_HOMES["export"] = "stapo.api.exporting:export"
_HOMES |= {name: f"stapo.api.comparing:{name}" for name in ("Comparison", "compare")}
_HOMES |= {name: f"stapo.api.diagnosing:{name}" for name in ("Diagnosis", "diagnose")}
_HOMES |= {
    name: f"stapo.training.callbacks:{name}"
    for name in __all__
    if name.endswith("Event") or name in ("Callback", "Episode", "StopTraining")
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stapo' has no attribute '{name}'")
    module, _, path = _HOMES[name].partition(":")
    found: Any = import_module(module)
    return reduce(getattr, path.split("."), found) if path else found
