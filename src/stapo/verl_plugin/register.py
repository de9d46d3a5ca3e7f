"""What verl loads at start, through the entry-point group `verl.plugins`: importing this registers everything.

verl logs a plugin that fails at debug level and goes on without it; `stapo.verl_plugin.launch` looks whether it did.
"""

from __future__ import annotations

from stapo.verl_plugin import agent_loop, trainer
from stapo.verl_plugin.engine import register_engine

register_engine()

__all__ = ["agent_loop", "trainer"]
