"""The settings of a run: one tree of frozen dataclasses, from presets, YAML files or mappings.

Nothing here needs torch.
"""

from stapo.config.environment import EnvConfig, MixedEnvConfig
from stapo.config.presets import load_config, preset_names
from stapo.config.run_config import LogConfig, RunConfig, read_run_config
from stapo.config.schema import from_data, to_data

__all__ = [
    "EnvConfig",
    "LogConfig",
    "MixedEnvConfig",
    "RunConfig",
    "from_data",
    "load_config",
    "preset_names",
    "read_run_config",
    "to_data",
]
