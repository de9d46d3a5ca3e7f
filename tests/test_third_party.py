"""A package of somebody else: what it registers by entry points is listed, checked and trained with.

`third_party` is what an installation leaves in a folder of packages: a module, and its list of entry points.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import yaml

import stapo
from stapo.cli.main import main

PACKAGES = Path(__file__).resolve().parent / "third_party"
KINDS = {
    "stapo.environments": "acme-lights",
    "stapo.advantage_estimators": "acme-centered",
    "stapo.prompt_styles": "acme-terse",
    "stapo.trackers": "acme-file",
}
SETTINGS = {
    "seed": 3,
    "env": {"name": "acme-lights"},
    "agent": {
        "prompt": "acme-terse", "response": "action", "history_length": 1, "max_prompt_tokens": 200,
        "max_response_tokens": 8,
    },
    "model": {
        "hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32, "vocab_size": 320, "device": "cpu",
    },
    "sft": {"steps": 60, "episodes": 24, "batch_size": 8, "learning_rate": 0.02, "curriculum": 0.0, "stop_at": 1.0},
    "rollout": {"groups": 2, "group_size": 4, "workers": 1},
    "algorithm": {
        "name": "grpo", "advantage": {"episode": "acme-centered"}, "loss": {"beta": 0.0},
    },
    "optim": {"iterations": 2, "learning_rate": 0.01, "mini_batch": 16},
    "eval": {"split": "heldout", "episodes": 3},
    "log": {"transcript_every": 1, "threads": 1, "trackers": ["acme-file"]},
}  # fmt: skip


@pytest.fixture
def acme(monkeypatch):
    """The package as if it were installed, for this process and those that it starts."""
    monkeypatch.syspath_prepend(PACKAGES)
    return importlib.import_module("acme_agents")


def test_it_is_short():
    lines = [file.read_text().count("\n") for file in PACKAGES.rglob("*") if file.is_file() and file.suffix != ".pyc"]
    assert sum(lines) < 150


def test_everything_of_it_is_listed(acme, capsys):
    assert main(["plugins", "--json"]) == 0
    rows = {(row["group"], row["name"]): row for row in json.loads(capsys.readouterr().out)}
    for group, name in KINDS.items():
        assert (rows[group, name]["package"], rows[group, name]["error"]) == ("acme-agents", None)


def test_its_environment_follows_the_protocol(acme):
    assert "the goal is hidden" in stapo.check_env(acme.LightsEnv())


def test_it_trains_from_a_file(acme, tmp_path):
    """Played in a worker process, which finds the package as well."""
    file, run = tmp_path / "acme.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(SETTINGS))
    assert main(["train", str(file), "--out", str(run)]) == 0
    check_run(run)
    sent = [json.loads(line) for line in (run / "trackers" / "acme.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = {step: scalars["episode/success_rate"] for step, scalars, histograms in sent if histograms}
    assert rates == {row["iteration"]: row["success"] for row in rows}


def test_it_trains_from_python(acme, tmp_path):
    more = {"sft.steps": 0, "rollout.workers": 0, "optim.iterations": 1, "eval.episodes": 1}
    run = stapo.train(stapo.load_config(SETTINGS, **more), tmp_path / "run")
    assert run.status == "done"
    check_run(run.path, learned=False)


def check_run(run, learned=True):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == ([1, 2] if learned else [1])
    assert all(row["failures"] == {} for row in rows)
    assert list(rows[0]["success_by_type"]) == ["lamp"]
    episodes = [json.loads(line) for line in (run / "transcripts" / "iteration-00001.jsonl").read_text().splitlines()]
    prompts = [step["prompt"] for episode in episodes for step in episode["steps"]]
    assert all("\n! switch on the " in f"\n{prompt}" and prompt.endswith("\nIt is dark.\n?") for prompt in prompts)
    assert any(episode["won"] for episode in episodes) or not learned
    for group in (0, 1):
        steps = [step for episode in episodes if episode["group"] == group for step in episode["steps"]]
        mean = sum(step["return"] for step in steps) / len(steps)
        expected = [step["return"] - mean for step in steps]
        assert [step["episode_advantage"] for step in steps] == pytest.approx(expected, abs=1e-6)
