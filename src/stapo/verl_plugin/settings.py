"""Our run configuration inside verl's: one mapping, `data.stapo`, that every process of a run can read."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data
from stapo.errors import EngineError

KEY = "stapo"
"""Key under verl's `data`: the section that data set, agent loop and trainer all are given."""


def run_config_of(data_config: Any) -> RunConfig:
    """The run configuration in verl's `data` section.

    Raises:
        EngineError: there is none.
        ConfigError: it names a key or value that this version does not know.
    """
    from omegaconf import OmegaConf

    if KEY not in data_config:
        raise EngineError(
            "verl's configuration has no data.stapo, so stapo does not know what to play. Start runs with 'stapo verl'."
        )
    return _read(json.dumps(OmegaConf.to_container(data_config[KEY], resolve=True), sort_keys=True))


@lru_cache(maxsize=8)
def _read(text: str) -> RunConfig:
    return from_data(RunConfig, json.loads(text))


TRAIN = "stapo-train"
"""What stands for a training file."""

EVALUATION = "stapo-eval"
"""What stands for a validation file."""

AGENT = "stapo"
"""Name of the agent loop."""
