"""Tests of the plugin inside verl: its own environment (`make test-verl`), CPU, gloo, tiny models.

Every wait has a limit. In an environment without verl everything here is skipped.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests"

os.environ |= {
    "VERL_PLATFORM": "cpu",
    "VERL_USE_EXTERNAL_MODULES": "cpu_platform,toy_plugin",
    "VERL_ENGINE_VENDOR": "stapo",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "RAY_DEDUP_LOGS": "0",
    "PYTHONPATH": os.pathsep.join([str(HERE), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]),
}
sys.path[:0] = [str(HERE), str(TESTS)]

collect_ignore = (
    [] if find_spec("verl") else [p.name for p in HERE.glob("test_*.py") if p.name != "test_verl_is_there.py"]
)
