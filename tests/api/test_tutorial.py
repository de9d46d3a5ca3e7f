"""The tutorial's package, docs/environments/tutorial.md: listed, checked, trained from its file and from Python."""

from __future__ import annotations

import importlib
import json
import shutil
import tomllib
from pathlib import Path

import pytest

import stapo
from stapo.cli.main import main
from stapo.envs import read_call

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "examples" / "file_agent"
FAST = {
    "model.hidden_size": 32, "model.layers": 1, "model.intermediate_size": 64, "sft.steps": 100, "sft.episodes": 24,
    "sft.batch_size": 8, "sft.learning_rate": 0.01, "rollout.groups": 2, "rollout.group_size": 4, "optim.iterations": 1,
    "eval.episodes": 4, "eval.greedy": False, "log.transcript_every": 1,
}  # fmt: skip


@pytest.fixture
def files(monkeypatch, tmp_path):
    """The package as `pip install` leaves it, by its own list of entry points."""
    place = tmp_path / "packages"
    shutil.copytree(PACKAGE, place)
    project = tomllib.loads((place / "pyproject.toml").read_text())["project"]
    info = place / f"file_agent-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"]["stapo.environments"]
    (info / "entry_points.txt").write_text(
        "[stapo.environments]\n" + "".join(f"{k} = {v}\n" for k, v in points.items())
    )
    monkeypatch.syspath_prepend(place)
    return importlib.import_module("files_env")


def test_the_page_shows_the_files():
    page = (ROOT / "docs" / "environments" / "tutorial.md").read_text()
    for name in ("files_env.py", "train.yaml", "pyproject.toml"):
        assert (PACKAGE / name).read_text() in page, name


def test_the_environment_is_short():
    lines = (PACKAGE / "files_env.py").read_text().split("class Demonstrator")[0].splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 60


def test_it_follows_the_protocol(files):
    assert len(stapo.check_env(files.FilesEnv())) >= 5


def test_it_trains_from_its_file(files, tmp_path, capsys):
    argv = ["train", str(PACKAGE / "train.yaml"), "--out", str(tmp_path / "run"), "--quiet"]
    for key, value in FAST.items():
        argv += [f"--{key}", str(value)] if value is not False else [f"--{'.no-'.join(key.rsplit('.', 1))}"]
    assert main(argv) == 0, capsys.readouterr().err
    (row,) = (json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert row["failures"] == {}
    assert set(row["rewards"]) == {"env", "tidy"}
    assert row["rewards"]["tidy"]["mean"] <= row["rewards"]["env"]["mean"]
    lines = (tmp_path / "run" / "transcripts" / "iteration-00001.jsonl").read_text().splitlines()
    episodes = [json.loads(line) for line in lines]
    calls = [read_call(step["action"]) for episode in episodes for step in episode["steps"] if step["valid"]]
    assert None not in calls
    # Names stay as they are written: of either case, and Chinese.
    assert {arguments["path"] for name, arguments in calls if name == "read"} & set(files.NAMES)


@pytest.mark.slow
def test_it_trains_from_python(files, tmp_path):
    run = stapo.train(stapo.load_config(PACKAGE / "train.yaml", **{**FAST, "sft.steps": 2}), tmp_path / "run")
    assert (run.status, len(run.metrics)) == ("done", 1)
