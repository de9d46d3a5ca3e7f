"""Tests with the packages of others whose protocols we speak, in an environment of their own (`make test-ecosystem`).

Where a package is missing, its tests are skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "adapters")]
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def served():
    """Serve an environment by the command line; gives its address."""
    processes = []

    def serve(*argv):
        command = [sys.executable, "-m", "stapo", "serve-env", *argv, "--port", "0"]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        line = processes[-1].stdout.readline()
        return line.split("on ws://")[1].split()[0].removesuffix("/ws")

    yield serve
    for process in processes:
        process.terminate()
        assert process.wait(60) == 143
