"""The list of environments and the one way to build one."""

from __future__ import annotations

import inspect
from typing import Any

from stapo.envs.protocol import Env
from stapo.errors import ConfigError, did_you_mean
from stapo.registry import Registry

ENVIRONMENTS: Registry[type[Env]] = Registry(
    "environment",
    "stapo.environments",
    {
        "alfworld": "stapo.envs.alfworld.env:AlfworldEnv",
        "search": "stapo.envs.search.env:SearchEnv",
        "webshop": "stapo.envs.webshop.env:WebShopEnv",
    },
)


def make(name: str, **options: Any) -> Env:
    """Build the environment called `name`.

    Args:
        name: a registered environment; `stapo envs` lists them.
        options: keyword arguments of that environment.

    Raises:
        UnknownNameError: no environment has this name.
        ConfigError: an option that the environment does not know.
    """
    cls = ENVIRONMENTS.get(name)
    parameters = inspect.signature(cls).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for option in options:
            if option not in parameters:
                raise ConfigError(
                    f"environment '{name}' has no option '{option}'.{did_you_mean(option, parameters)} "
                    f"Options: {', '.join(sorted(parameters))}."
                )
    return cls(**options)
