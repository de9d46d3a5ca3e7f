"""The generator of large run folders writes what a training writes, and as much as it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from stapo.run import RunDirectory
from stapo.run.per_token import decode_per_token
from stapo.run.scored_prompts import scored_prompts
from stapo.run.step_table import StepTable

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "big_run.py"


def test_a_generated_run_reads_as_one_of_a_training(tmp_path):
    spec = importlib.util.spec_from_file_location("big_run", SCRIPT)
    big_run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(big_run)
    steps = big_run.write_big_run(tmp_path / "big", iterations=7, groups=1, members=12, turns=2, played=2)
    run = RunDirectory.open(tmp_path / "big")
    assert run.remarks() == []
    assert [row["iteration"] for row in run.rows("metrics")] == list(range(1, 8))
    table = StepTable(run.path)
    table.refresh()
    assert table.remarks == []
    assert table.rows == steps == 7 * 12 * 2
    columns = table.columns
    flagged = np.flatnonzero(columns["acted_on"] == 1)
    assert len(flagged)
    np.testing.assert_array_equal(np.isnan(columns["r_ta"]), columns["acted_on"] == 0)
    record = table.trajectory(int(flagged[0]))
    step = record["steps"][columns["step"][flagged[0]]]
    assert "Your goal" in step["observation"] or "goal" in step["prompt"]
    assert decode_per_token(step)["kl"].mean() > 0
    assert scored_prompts(record, step["step"]).full == step["prompt"]
    # Texts come again, numbers do not.
    first = [columns["entropy"][columns["iteration"] == i][0] for i in (1, 3)]
    assert first[0] != first[1]
