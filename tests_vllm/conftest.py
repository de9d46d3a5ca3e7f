"""Tests of generating with the real vLLM on a CPU, in an environment of its own (`make test-vllm`); tiny models.

In an environment without vLLM everything here is skipped.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests"

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]),
}
sys.path.insert(0, str(TESTS))

collect_ignore = (
    [] if find_spec("vllm") else [p.name for p in HERE.glob("test_*.py") if p.name != "test_vllm_is_there.py"]
)
