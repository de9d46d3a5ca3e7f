"""6. A folder without its completion marker is never picked, counted for retention, or deleted as the oldest."""

from __future__ import annotations

import pytest
from reliable import run, settings, train

from stapo.errors import SaveError
from stapo.run.saves import MARKER, SaveStore, check_sealed


def fill(folder):
    (folder / "a").write_text("abc")


@pytest.fixture
def store(tmp_path):
    made = SaveStore(tmp_path / "saves")
    for _ in range(3):
        made.write(fill, 5)
    return made


def test_not_picked(store):
    newest = store.complete()[0]
    (newest / MARKER).unlink()
    assert newest not in store.complete()
    assert store.newest_good(lambda path: None)[0].name == "000002"
    with pytest.raises(SaveError, match="has no file COMPLETE"):
        check_sealed(newest)


def test_not_counted_and_not_deleted(store):
    """Two unfinished ones lie about: retention of two keeps two finished ones all the same."""
    for name in ("000007", "000008"):
        (store.folder / name).mkdir()
        (store.folder / name / "a").write_text("abc")
    path = store.write(fill, 2)
    assert [p.name for p in store.complete()] == [path.name, "000003"]
    assert {"000007", "000008"} <= {p.name for p in store.folder.iterdir()}


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_retention_keeps_the_newest(tmp_path, keep):
    made = SaveStore(tmp_path / "saves")
    for count in range(1, 6):
        made.write(fill, keep)
        assert len(made.complete()) == min(count, keep)
    assert [p.name for p in made.complete()] == [f"{n:06d}" for n in range(5, 5 - keep, -1)]


def test_a_failed_write_deletes_nothing(store):
    def fail(folder):
        fill(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(SaveError, match="No space left on device"):
        store.write(fail, 1)
    assert len(store.complete()) == 3
    assert sorted(p.name for p in store.folder.iterdir()) == ["000001", "000002", "000003"]


def test_through_the_command(tmp_path):
    made = train(tmp_path, settings(optim__iterations=2))
    newest, older = made.saves.complete()
    (newest / MARKER).unlink()
    log = tmp_path / "log"
    assert run(["resume", str(made.path), "--iterations", "3", "--quiet"], log) == 0
    assert f"from {older.name} of its saves" in log.read_text()
