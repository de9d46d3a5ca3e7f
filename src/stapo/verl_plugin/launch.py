"""Starting verl: is it there, is it the version that the plugin was written for, did it load the plugin."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import NoReturn

from stapo.errors import EngineError
from stapo.verl_plugin.hydra import refuse_secrets

VERL_VERSION = "0.9.1"
"""The one version that the plugin was written for and tested with."""

INSTALL = "python -m venv .venv-verl && .venv-verl/bin/pip install -c constraints-verl.txt -e '.[verl]'"
"""How an environment with verl is made, in a checkout; docs/scaling.md has the whole story."""

GROUP, ENTRY_POINT, MODULE = "verl.plugins", "stapo", "stapo.verl_plugin.register"

_ENVIRONMENT = {"VERL_ENGINE_VENDOR": "stapo"}


def command(overrides: Sequence[str], python: str = "python") -> list[str]:
    """The words of verl's command line.

    Raises:
        ConfigError: a secret is among them.
    """
    refuse_secrets(overrides)
    return [python, "-m", "verl.trainer.main_ppo", *overrides]


def require_verl() -> None:
    """Look for verl without importing it.

    Raises:
        EngineError: it is missing, or of another version.
    """
    try:
        found = version("verl")
    except PackageNotFoundError as err:
        raise EngineError(
            f"verl is not installed in this environment, expected verl {VERL_VERSION}. It needs one of its own: "
            f"{INSTALL}"
        ) from err
    if found != VERL_VERSION:
        raise EngineError(
            f"verl {found} is installed, and the plugin was written for verl {VERL_VERSION}: what it overrides may "
            f"have moved. Install that version: {INSTALL}"
        )


def require_registration() -> None:
    """Import verl and look whether it has loaded the plugin: what fails there is logged at debug level alone.

    Raises:
        EngineError: trainer, agent loop or engine is not registered; the reason is named.
    """
    import_module("verl")
    missing = _missing()
    if not missing:
        return
    points = {point.name: point.value for point in entry_points(group=GROUP)}
    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto")
    said = f"verl did not register stapo's {' and '.join(missing)}, and would train something else"
    if points.get(ENTRY_POINT) != MODULE:
        raise EngineError(
            f"{said}: this installation of stapo has no entry point '{ENTRY_POINT}' in the group '{GROUP}'. Install "
            f"it anew: {INSTALL}"
        )
    if policy != "auto" and ENTRY_POINT not in [name.strip() for name in policy.split(",")]:
        raise EngineError(
            f"{said}: VERL_USE_EXTERNAL_PLUGINS is '{policy}', which leaves the plugin out. Unset it, or add "
            f"'{ENTRY_POINT}'."
        )
    try:
        import_module(MODULE)
    except Exception as err:
        raise EngineError(f"{said}: loading the plugin raised {type(err).__name__}: {err}") from err
    missing = _missing()
    if missing:
        raise EngineError(
            f"{said}, though the plugin loads. Is another plugin in the way? Loaded: {', '.join(points)}."
        )
    raise EngineError(f"{said} when it was imported, though the plugin loads now; something else imported verl first.")


def _missing() -> list[str]:
    trainers = import_module("verl.trainer.ppo.v1.trainer_base").TRAINER_REGISTRY
    loops = import_module("verl.experimental.agent_loop.agent_loop")._agent_loop_registry
    engines = import_module("verl.workers.engine").EngineRegistry._engines
    engine = engines.get("language_model", {}).get("fsdp2", {}).get(("cuda", "stapo"))
    found = {"trainer": trainers.get("stapo"), "agent loop": loops.get("stapo"), "engine": engine}
    return [what for what, value in found.items() if value is None]


def launch(overrides: Sequence[str]) -> NoReturn:
    """Become verl: this process is replaced, so signals and the exit code are verl's own.

    Raises:
        EngineError: verl is missing, of another version, or did not load the plugin.
    """
    require_verl()
    os.environ.update(_ENVIRONMENT)
    require_registration()
    sys.stdout.flush()
    os.execv(sys.executable, command(overrides, sys.executable))
