"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before anything imports torch: its threads would fight over two cores, and sums would depend on their number.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Nothing in the suite may ask the network for a model.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Models that tests write show no bars among what commands say.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with data of the original environments; tests that need it skip without it."""
    path = Path(os.environ.get("STAPO_SHARED", ROOT.parent / "shared"))
    if not (path / "data").is_dir():
        pytest.skip(f"no recorded data in {path}; set STAPO_SHARED to the folder with data/")
    return path


@pytest.fixture(autouse=True)
def own_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of one test are hidden in its own messages alone: some are words, such as "given"."""
    from stapo import texts

    monkeypatch.setattr(texts, "_secrets", texts._Secrets())


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Built catalogs and indexes of the suite do not go into the user's cache, nor come from there."""
    os.environ["STAPO_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def empty_plots() -> Iterator[Callable[..., Any]]:
    """Plots of reports stay empty: drawing them would take longer than most runs of the suite. Yields what draws."""
    from markupsafe import Markup

    from stapo.html import drawing

    def empty(key: str, label: str, draw: object, *, panels: int = 1) -> Markup:
        return Markup('<svg role="img" aria-label="{}"></svg>').format(label)

    draw = drawing.render
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "render", empty)
        yield draw


@pytest.fixture(scope="module")
def drawn_plots(empty_plots: Callable[..., Any]) -> Iterator[None]:
    """Plots are drawn in the modules that ask for it, since they are the subject."""
    from stapo.html import drawing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "render", empty_plots)
        yield


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a saved policy for the toy world; importing torch is left to the tests that ask for it."""
    from toy_world import small_policy

    folder = tmp_path_factory.mktemp("toy") / "model"
    small_policy().save(folder)
    return folder


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    """A finished run of two iterations in the toy world with every checkpoint, for reading; copy it to change it."""
    import yaml

    from stapo.cli.main import main
    from toy_world import toy_settings

    folder = tmp_path_factory.mktemp("toy-run")
    (folder / "toy.yaml").write_text(yaml.safe_dump(toy_settings(toy_model, log__checkpoint_every=1)))
    assert main(["train", str(folder / "toy.yaml"), "--quiet", "--out", str(folder / "run")]) == 0
    return folder / "run"
