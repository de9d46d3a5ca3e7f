"""The environments of the reliability suite, each in a form that breaks once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from stapo.envs.alfworld.env import AlfworldEnv
from stapo.envs.protocol import StepResult
from stapo.envs.registry import ENVIRONMENTS
from stapo.envs.search.env import SearchEnv
from stapo.envs.sokoban.env import SokobanEnv
from stapo.envs.webshop.env import WebShopEnv


def _step(self: Any, action: str) -> StepResult:
    """The first environment that hears the word breaks; the file tells the others that it happened."""
    if "boom" in action and not self.broke.exists():
        self.broke.touch()
        if self.fault == "os_exit":
            os._exit(3)
        raise ValueError("the world broke")
    return super(type(self), self).step(action)


def _init(self: Any, broke: str = "", fault: str = "raise", **options: Any) -> None:
    super(type(self), self).__init__(**options)
    self.broke, self.fault = Path(broke), fault


class FragileAlfworld(AlfworldEnv):
    __init__, step = _init, _step  # type: ignore[assignment]


class FragileSearch(SearchEnv):
    __init__, step = _init, _step  # type: ignore[assignment]


class FragileSokoban(SokobanEnv):
    __init__, step = _init, _step  # type: ignore[assignment]


class FragileWebShop(WebShopEnv):
    __init__, step = _init, _step  # type: ignore[assignment]


FRAGILE = {
    "alfworld": FragileAlfworld,
    "search": FragileSearch,
    "sokoban": FragileSokoban,
    "webshop": FragileWebShop,
}
for _name, _cls in FRAGILE.items():
    ENVIRONMENTS.register(f"fragile-{_name}", _cls)  # type: ignore[arg-type]
