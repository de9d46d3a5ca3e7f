"""17. Malformed outputs through every response format and environment, by the script that tries 10,000 of them."""

from __future__ import annotations

from pathlib import Path

from forked import run_script

ROOT = Path(__file__).resolve().parents[2]


def test_a_few_hundred_outputs_break_nothing(tmp_path):
    """Every kind of output is among them, and so are texts of 100,000 characters."""
    script = ROOT / "scripts" / "try_model_outputs.py"
    code, printed = run_script(script, tmp_path, "--count", "500", "--seed", "3")
    assert code == 0, printed
    # A slow machine also prints how far it is.
    table = [line for line in printed.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert rows[-1][:5] == ["all", "500", "0", "0", "0"]
    assert len(rows) == 13
    assert ["100,000 characters", "5", "0", "0", "0"] in [row[:5] for row in rows]
