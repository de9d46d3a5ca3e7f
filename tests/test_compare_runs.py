"""`scripts/compare_runs.py` finds any number that differs between two runs, and nothing else."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "compare_runs.py"


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("compare_runs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["compare_runs"] = module
    spec.loader.exec_module(module)
    return module.main


def edit_row(path, change):
    lines = path.read_text().splitlines()
    row = json.loads(lines[0])
    change(row)
    path.write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n")


def flip_a_bit(path):
    weights = load_file(path)
    name = sorted(weights)[0]
    weights[name].view(torch.int32).view(-1)[0] ^= 1
    save_file(weights, path, {"format": "pt"})


DAMAGE = {
    "metrics 1.entropy.mean": lambda run: edit_row(
        run / "metrics.jsonl", lambda row: row["entropy"].update(mean=row["entropy"]["mean"] * (1 + 1e-15))
    ),
    "metrics 1.success: only in A": lambda run: edit_row(run / "metrics.jsonl", lambda row: row.pop("success")),
    "evals 1.episodes": lambda run: edit_row(run / "evals.jsonl", lambda row: row.update(episodes=7)),
    "checkpoints/final": lambda run: flip_a_bit(run / "checkpoints" / "final" / "model.safetensors"),
    "save/optimizer": lambda run: flip_a_bit(sorted((run / "saves").iterdir())[-1] / "optimizer.safetensors"),
    "iteration-00002 1 step 0": lambda run: edit_row(
        run / "transcripts" / "iteration-00002.jsonl", lambda row: row["steps"][0].update(response="x")
    ),
    "no number, only words and times": lambda run: edit_row(
        run / "metrics.jsonl", lambda row: (row["seconds"].update(total=1e9), row.update(warnings=["other words"]))
    ),
}


@pytest.mark.parametrize("found", DAMAGE)
def test_what_differs_is_found(main, toy_run, tmp_path, capsys, found):
    for name in ("one", "two"):
        shutil.copytree(toy_run, tmp_path / name / "run")
    DAMAGE[found](tmp_path / "two" / "run")
    same = found.startswith("no number")
    assert main(str(tmp_path / "one"), str(tmp_path / "two")) == (0 if same else 1)
    said = capsys.readouterr().out
    assert ("equal |" if same else "differs |") in said
    assert same or f"run: {found}" in said


def test_former_names_are_the_same_rows(main, toy_run, tmp_path, capsys):
    rows = '{"step": 10, "loss": 2.5}\n'
    for name, file in (("one", "warm_start.jsonl"), ("two", "sft.jsonl")):
        shutil.copytree(toy_run, tmp_path / name)
        (tmp_path / name / file).write_text(rows)
    assert main(str(tmp_path / "one"), str(tmp_path / "two")) == 0
    (tmp_path / "two" / "sft.jsonl").write_text(rows.replace("2.5", "2.25"))
    assert main(str(tmp_path / "one"), str(tmp_path / "two")) == 1
    assert "sft 1.loss: 2.5 / 2.25" in capsys.readouterr().out


def test_a_run_that_is_missing_differs(main, toy_run, tmp_path, capsys):
    (tmp_path / "two").mkdir()
    assert main(str(toy_run.parent), str(tmp_path / "two")) == 1
    assert "only in A" in capsys.readouterr().out
