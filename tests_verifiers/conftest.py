"""Tests with verifiers itself, in an environment of its own (`make test-verifiers`).

It and the newest OpenEnv ask for different versions of mcp.
"""

from __future__ import annotations

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
