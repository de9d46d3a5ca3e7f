"""Packages that only some users need: imported where they are used, with an error that names the extra."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from stapo.errors import ConfigError


def need(module: str, package: str, extra: str, purpose: str) -> Any:
    """Import a module of an optional package.

    Raises:
        ConfigError: it is not installed; the message says what to install.
    """
    try:
        return import_module(module)
    except ImportError as err:
        raise ConfigError(
            f"{purpose} needs the package '{package}' ({err}). Install it with: pip install '.[{extra}]' "
            "in a clone of the repository"
        ) from err
