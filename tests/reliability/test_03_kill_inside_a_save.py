"""3. Killed between any two file operations of a save: the old save is found or the new one, never a mixture.

Python reports every file operation to an audit hook; the child dies in the hook, as under SIGKILL, before the n-th
operation below the run's folder, for every n there is.
"""

from __future__ import annotations

import os
import signal
import sys

import pytest
from reliable import assert_same, contents, run, settings, start, train, wait, write_settings

from stapo.errors import SaveError
from stapo.run import RunDirectory
from stapo.run.saves import SaveStore

OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate"}


def die_before(number, folder, counter=None):
    """Kill this process before its n-th file operation below `folder`; 0 only counts, into the file `counter`."""
    seen = 0

    def hook(event, args):
        nonlocal seen
        if event not in OPERATIONS or not any(isinstance(a, str | os.PathLike) and folder in str(a) for a in args):
            return
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
        if counter is not None:
            os.write(counter, b".")

    sys.addaudithook(hook)


def in_child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return wait(pid, 600)


def fill(text):
    def write(folder):
        for name in ("a", "b", "c"):
            (folder / name).write_text(text * 100)
        (folder / "policy").mkdir()
        (folder / "policy" / "weights").write_bytes(text.encode() * 5000)

    return write


def text_of(path):
    found = {(path / name).read_text()[:3] for name in ("a", "b", "c", "policy/weights")}
    assert len(found) == 1, f"a mixture: {found}"
    return found.pop()


def test_old_or_new_never_a_mixture(tmp_path):
    def store(number):
        made = SaveStore(tmp_path / str(number) / "saves")
        made.write(fill("one"), 2)
        made.write(fill("two"), 2)
        return made

    log = os.open(tmp_path / "count", os.O_RDWR | os.O_CREAT)
    made = store(0)
    assert in_child(lambda: (die_before(0, str(made.folder), log), made.write(fill("new"), 2))) == 0
    operations = os.fstat(log).st_size
    assert operations > 25
    found = []
    for number in range(1, operations + 1):
        made = store(number)

        def work(made=made, number=number):
            die_before(number, str(made.folder))
            made.write(fill("new"), 2)

        assert in_child(work) == -signal.SIGKILL
        path, reasons = made.newest_good(lambda path: None)
        assert reasons == []
        found.append(text_of(path))
        # Retention never takes the last good one, and the next save works whatever was left lying about.
        assert len(made.complete()) >= 2
        assert text_of(made.write(fill("yet"), 2)) == "yet"
        made.sweep()
        assert sorted(p.name for p in made.folder.iterdir()) == sorted(p.name for p in made.complete())
    assert set(found) == {"two", "new"}
    # Once the new one is there it stays: no operation leads back to the old one.
    assert found == sorted(found, reverse=True)


@pytest.mark.slow
def test_killed_before_any_file_operation_of_a_run(tmp_path):
    """The whole command: configuration, rows, checkpoints, saves and tidying up; a sample of all its operations."""
    data = settings(optim__iterations=2)
    expected = contents(train(tmp_path, data, name="undisturbed"))
    source, folder, log = write_settings(tmp_path, data), tmp_path / "run", tmp_path / "log"
    argv = ["train", str(source), "--quiet", "--out", str(folder)]
    step, deaths = 1, 0
    while True:
        # Each attempt gets a little further than the last one, and dies at an operation of another kind.
        code = wait(start(argv, log, lambda step=step: die_before(step, str(folder))))
        if code == 0:
            break
        assert code == -signal.SIGKILL, log.read_text()[-2000:]
        step, deaths = step + 1 + step // 6, deaths + 1
    assert deaths > 12
    assert_same(expected, contents(RunDirectory(folder)))


def test_an_interrupted_creation_is_begun_again(tmp_path):
    data = settings(optim__iterations=0, sft__steps=5)
    source, folder = write_settings(tmp_path, data), tmp_path / "run"
    argv = ["train", str(source), "--quiet", "--out", str(folder)]
    for number in range(1, 9):
        assert wait(start(argv, tmp_path / "log", lambda number=number: die_before(number, str(folder)))) is not None
    assert run(argv, tmp_path / "log") == 0


def test_without_any_good_save_there_is_an_error(tmp_path):
    store = SaveStore(tmp_path / "saves")
    assert store.newest_good(lambda path: None) == (None, [])
    path = store.write(fill("one"), 2)
    (path / "a").write_text("x")
    with pytest.raises(SaveError, match=r"no save of this run can be used: .*/a' has 1 bytes, expected 300"):
        store.newest_good(lambda path: None)
