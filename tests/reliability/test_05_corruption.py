"""5. Corruption is detected: one flipped byte, a cut or a missing file, a foreign file, in any file of a save.

The file is named; automatic resume falls back to the previous good save and says so; the end is that of an undisturbed
run. An explicit path (`stapo eval` on a damaged checkpoint) is an error.
"""

from __future__ import annotations

import shutil

import pytest
from reliable import assert_same, contents, copying, run, settings, train, write_settings

from stapo.errors import SaveError
from stapo.run import RunDirectory
from stapo.run.saves import SaveStore, check_sealed
from stapo.training.checkpoint import read_state

FILES = [
    "state.json", "optimizer.safetensors", "random.safetensors", "policy/model.safetensors", "policy/config.json",
    "policy/tokenizer.json", "reference/model.safetensors", "manifest.json", "COMPLETE",
]  # fmt: skip


def flip(path):
    # A hard link shares its bytes with the checkpoint it was made of: damage this one alone.
    data = bytearray(path.read_bytes())
    path.unlink()
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def cut(path):
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) // 2])


def remove(path):
    path.unlink()


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A run as it was after its second iteration, and what an undisturbed one came to."""
    folder = tmp_path_factory.mktemp("half")
    source, log = write_settings(folder, settings()), folder / "log"
    (folder / "copies").mkdir()
    argv = ["train", str(source), "--quiet", "--out", str(folder / "whole")]
    assert run(argv, log, lambda: copying(folder)) == 0, log.read_text()
    after_two = [
        copy
        for copy in sorted((folder / "copies").iterdir())
        if read_state(SaveStore(copy / "saves").complete()[0]).iteration == 2
    ]
    return RunDirectory(after_two[0]), contents(RunDirectory(folder / "whole"))


@pytest.fixture
def damaged(half, tmp_path):
    stopped, expected = half
    shutil.copytree(stopped.path, tmp_path / "run")
    return RunDirectory(tmp_path / "run"), expected


def resume(made, folder):
    code = run(["resume", str(made.path), "--quiet"], folder / "log")
    return code, (folder / "log").read_text()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [flip, cut, remove], ids=lambda d: d.__name__)
def test_every_file_is_guarded(damaged, name, damage):
    made, _ = damaged
    newest = made.saves.complete()[0]
    damage(newest / name)
    if (name, damage) == ("COMPLETE", remove):
        assert newest not in made.saves.complete()
        return
    with pytest.raises(SaveError) as error:
        check_sealed(newest)
    assert name in str(error.value)


@pytest.mark.parametrize(
    "name, damage, said",
    [
        ("policy/model.safetensors", flip, "policy/model.safetensors' was changed since it was written"),
        pytest.param("optimizer.safetensors", cut, "optimizer.safetensors' has", marks=pytest.mark.slow),
        pytest.param("state.json", remove, "state.json' is missing", marks=pytest.mark.slow),
    ],
)
def test_resume_falls_back_and_says_so(damaged, tmp_path, name, damage, said):
    made, expected = damaged
    newest, older = made.saves.complete()
    damage(newest / name)
    code, text = resume(made, tmp_path)
    assert code == 0, text
    assert said in text
    assert f"from {older.name} of its saves" in text
    assert_same(expected, contents(made))
    assert (made.path / "saves" / f"damaged-{newest.name}").is_dir()


def test_a_foreign_file(damaged, tmp_path):
    made, _ = damaged
    newest = made.saves.complete()[0]
    (newest / "policy" / "optimizer.pt").write_bytes(b"from elsewhere")
    code, text = resume(made, tmp_path)
    assert code == 0
    assert "policy/optimizer.pt' is a foreign file" in text


def test_a_save_of_another_run(damaged, tmp_path):
    made, expected = damaged
    other = train(tmp_path, settings(seed=9, optim__iterations=1), name="other")
    # Its iterations are among those done, its rows among those written: only its settings tell.
    shutil.copytree(other.saves.complete()[-1], made.path / "saves" / "000099")
    code, text = resume(made, tmp_path)
    assert code == 0
    assert "000099' belongs to another run: its seed is 9, this run's is 3" in text
    assert_same(expected, contents(made))


def test_nothing_good_left(damaged, tmp_path):
    made, _ = damaged
    before = {p: p.read_bytes() for p in made.path.rglob("*.jsonl")}
    for path in made.saves.complete():
        flip(path / "policy" / "model.safetensors")
    code, text = resume(made, tmp_path)
    assert code == 1
    assert "no save of this run can be used" in text
    assert {p: p.read_bytes() for p in made.path.rglob("*.jsonl")} == before


def test_rows_that_are_gone(damaged, tmp_path):
    """Metrics cut short by somebody: a save that counts on them is not used, an older one that does not is."""
    made, expected = damaged
    newest, older = made.saves.complete()
    path = made.path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    code, text = resume(made, tmp_path)
    assert code == 0
    assert "metrics.jsonl' holds less than was written" in text
    assert f"from {older.name} of its saves" in text
    assert_same(expected, contents(made))
    assert newest.name != older.name


def test_all_rows_gone(damaged, tmp_path):
    made, _ = damaged
    (made.path / "sft.jsonl").unlink()
    code, text = resume(made, tmp_path)
    assert code == 1
    assert "sft.jsonl' holds less than was written" in text


def test_half_a_line_at_the_end_is_cut_off(damaged, tmp_path):
    made, expected = damaged
    with (made.path / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 3, "succ')
    code, _ = resume(made, tmp_path)
    assert code == 0
    assert_same(expected, contents(made))


@pytest.mark.parametrize("damage", [flip, cut, remove], ids=lambda d: d.__name__)
def test_an_explicit_path_raises(damaged, tmp_path, damage):
    made, _ = damaged
    damage(made.checkpoint("start") / "model.safetensors")
    code = run(["eval", str(made.path), "--checkpoint", "start", "--episodes", "1", "--seeds", "0"], tmp_path / "log")
    text = (tmp_path / "log").read_text()
    assert code in (1, 2)
    assert "checkpoints/start/model.safetensors'" in text
    assert "Traceback" not in text
