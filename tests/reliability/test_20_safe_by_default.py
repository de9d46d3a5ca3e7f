"""20. Safe by default.

1. Only safetensors and JSON are on the way back in: a pickle in place of any file of a save or of a checkpoint, or
   beside it, is refused or never looked at, and never run.
2. No code of this package unpickles, runs remote code or listens (tests/test_safety.py reads it for the first two).
3. The report escapes model text: test 17 has 10,000 of them.
"""

from __future__ import annotations

import ast
import os
import shutil
from itertools import product
from pathlib import Path

import pytest
from reliable import run, settings, train

from slow import slow_except
from stapo.errors import ConfigError
from stapo.run import RunDirectory
from stapo.serving.server import listen

SOURCE = Path(__file__).resolve().parents[2] / "src" / "stapo"


def bomb(marker):
    """Bytes whose unpickling makes the folder `marker`; written by hand, since nothing here imports pickle."""
    return b"cos\nmkdir\n(S'" + str(marker).encode() + b"'\ntR."


def test_the_bomb_is_live(tmp_path):
    """In a child, with the module that the rest of this project never imports."""
    marker = tmp_path / "marker"
    (tmp_path / "bomb").write_bytes(bomb(marker))
    loader = f"import pickle; pickle.load(open({str(tmp_path / 'bomb')!r}, 'rb'))"
    assert os.spawnlp(os.P_WAIT, "python3", "python3", "-c", loader) == 0
    assert marker.is_dir()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return train(tmp_path_factory.mktemp("made"), settings(optim__iterations=1))


FILES = [
    "state.json", "optimizer.safetensors", "random.safetensors", "policy/model.safetensors", "policy/config.json",
    "policy/tokenizer.json", "policy/tokenizer_config.json", "reference/model.safetensors", "manifest.json", "COMPLETE",
]  # fmt: skip


# A file whose hash does not fit is refused whatever it is; with hashes that fit, each is read in its own way.
ENOUGH = [(name, True) for name in FILES if name not in ("manifest.json", "COMPLETE")]
ENOUGH += [("optimizer.safetensors", False), ("manifest.json", False)]


@pytest.mark.parametrize("name, resealed", slow_except(product(FILES, [False, True]), *ENOUGH))
def test_a_pickle_in_place_of_a_file_of_a_save(made, tmp_path, name, resealed):
    """Even where somebody has made the hashes fit: what is loaded is read as safetensors or JSON, or not at all."""
    shutil.copytree(made.path, tmp_path / "run")
    copy, marker = RunDirectory(tmp_path / "run"), tmp_path / "marker"
    for save in copy.saves.complete():
        (save / name).unlink()
        (save / name).write_bytes(bomb(marker))
        if resealed and name not in ("manifest.json", "COMPLETE"):
            from stapo.run.saves import MANIFEST, MARKER, _seal

            for file in (MANIFEST, MARKER):
                (save / file).unlink()
            _seal(save)
    code = run(["resume", str(copy.path), "--iterations", "2", "--quiet"], tmp_path / "log")
    said = (tmp_path / "log").read_text()
    assert code in (1, 2), said
    assert "Traceback" not in said
    assert not marker.exists()
    if not resealed:
        assert "no save of this run can be used" in said


@pytest.mark.parametrize("name", ["optimizer.pt", "pytorch_model.bin", "policy/pytorch_model.bin", "training_args.bin"])
def test_a_pickle_beside_the_files_of_a_save(made, tmp_path, name):
    shutil.copytree(made.path, tmp_path / "run")
    copy, marker = RunDirectory(tmp_path / "run"), tmp_path / "marker"
    for save in copy.saves.complete():
        (save / name).write_bytes(bomb(marker))
    assert run(["resume", str(copy.path), "--iterations", "2", "--quiet"], tmp_path / "log") == 1
    assert f"{name}' is a foreign file" in (tmp_path / "log").read_text()
    assert not marker.exists()


CHECKPOINT = ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
OLD = [(name, False) for name in CHECKPOINT]


@pytest.mark.parametrize(
    "name, sealed", slow_except(product(CHECKPOINT, [True, False]), ("model.safetensors", True), *OLD)
)
def test_a_pickle_in_a_checkpoint(made, tmp_path, name, sealed):
    shutil.copytree(made.path, tmp_path / "run")
    folder, marker = RunDirectory(tmp_path / "run").checkpoint("final"), tmp_path / "marker"
    (folder / name).write_bytes(bomb(marker))
    (folder / "pytorch_model.bin").write_bytes(bomb(marker))
    if not sealed:
        for file in ("manifest.json", "COMPLETE"):
            (folder / file).unlink()
    code = run(["eval", str(tmp_path / "run"), "--episodes", "1", "--seeds", "0"], tmp_path / "log")
    said = (tmp_path / "log").read_text()
    assert code == 2, said
    assert "Traceback" not in said
    assert not marker.exists()
    if sealed:
        assert f"checkpoints/final/{name}'" in said


# A socket that nobody binds cannot listen.
LISTENING = {"bind", "serve_forever", "create_server", "start_server", "run_app", "HTTPServer"}


def listens(source):
    return sorted(
        node.attr if isinstance(node, ast.Attribute) else node.id
        for node in ast.walk(ast.parse(source))
        if (isinstance(node, ast.Attribute) and node.attr in LISTENING)
        or (isinstance(node, ast.Name) and node.id in LISTENING)
    )


def test_nothing_listens():
    found = {str(p.relative_to(SOURCE)): listens(p.read_text()) for p in SOURCE.rglob("*.py")}
    assert len(found) > 100
    # A function's arguments are bound to its signature there, not a socket to an address.
    assert found.pop("api/settings.py") == ["bind"]
    # Servers that are asked for by a command share one place; on the machine's own address unless told otherwise.
    assert {name: calls for name, calls in found.items() if calls} == {"serving/server.py": ["bind"]}
    with pytest.raises(ConfigError, match="token"):
        listen("0.0.0.0", 0, token=None)


@pytest.mark.parametrize("source", ["s.bind(('', 1))", "http.server.HTTPServer(a, b)", "asyncio.start_server(f)"])
def test_the_check_finds(source):
    assert listens(source)
