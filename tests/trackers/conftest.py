"""Fixtures of the tests of trackers."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "reliability"))

from tracked import train


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    """A finished run; tests copy it."""
    return train(tmp_path_factory.mktemp("tracked") / "a run+1", toy_model)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / finished.name))


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A database of MLflow without runs, which takes seconds to make; None where MLflow is not installed."""
    if find_spec("mlflow") is None:
        return None
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").create_experiment("stapo", artifact_location=str(path.parent / "artifacts"))
    return path


@pytest.fixture
def offline(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    empty_mlflow: Path | None,
) -> Path:
    """No library reaches a network or leaves the test's folder, which is returned."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    if empty_mlflow is not None:
        for name in ("mlflow.db", "elsewhere.db"):
            shutil.copy(empty_mlflow, tmp_path / name)
    # One for all tests: trackio reads it when it is imported.
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path_factory.getbasetemp() / "trackio"))
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path
