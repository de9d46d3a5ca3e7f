"""17. Malformed outputs through every response format and environment, by the script that tries 10,000 of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_few_hundred_outputs_break_nothing():
    """Every kind of output is among them, and so are texts of 100,000 characters."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "try_model_outputs.py", "--count", "500", "--seed", "3"],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()]
    assert rows[-1][:5] == ["all", "500", "0", "0", "0"]
    assert len(rows) == 13
    assert ["100,000 characters", "5", "0", "0", "0"] in [row[:5] for row in rows]
