"""4. Full disk, read-only folder, failed delete: a clear error, old saves intact, stop or go on by choice."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat

import pytest
from reliable import assert_same, contents, run, settings, train, wait, write_settings

from slow import slow_except
from stapo import atomic_io
from stapo.errors import SaveError
from stapo.run import RunDirectory
from stapo.run.saves import SaveStore, check_sealed


def small_files(most):
    """Let the system refuse every write beyond `most` bytes of a file, to libraries in other languages, too."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    return limit


def fill(folder):
    (folder / "a").write_text("abc")


@pytest.mark.parametrize("most", slow_except([1500, 4500, 30_000, 60_000], 4500))
def test_no_room_for_a_save(tmp_path, most):
    """Weights, optimizer, manifest or marker: whatever it is that does not fit, the error names the save."""
    data = settings(optim__iterations=2)
    run_ = train(tmp_path, data)
    before = {p.name for p in run_.saves.complete()}
    log = tmp_path / "log"
    code = run(["resume", str(run_.path), "--iterations", "4", "--quiet"], log, small_files(most))
    assert code in (1, 2)
    last = log.read_text().strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "File too large" in last
    assert "Traceback" not in log.read_text()
    assert before <= {p.name for p in run_.saves.complete()} | before
    for path in run_.saves.complete():
        check_sealed(path)
    # With room again, the same command ends as if nothing had happened.
    assert run(["resume", str(run_.path), "--iterations", "4", "--quiet"], log) == 0
    whole = train(tmp_path, settings(optim__iterations=2), name="other")
    assert run(["resume", str(whole.path), "--iterations", "4", "--quiet"], log) == 0
    assert_same(contents(whole), contents(run_))


def test_go_on_without_saves_by_choice(tmp_path, monkeypatch):
    def full(self, fill, keep):
        raise SaveError("no room.")

    def in_child():
        SaveStore.write = full

    source = write_settings(tmp_path, settings(log__on_save_error="continue"))
    argv = ["train", str(source), "--quiet", "--out", str(tmp_path / "run")]
    assert run(argv, tmp_path / "log", in_child) == 0
    said = (tmp_path / "log").read_text()
    assert "no room. The run goes on without this save" in said
    whole = train(tmp_path, settings(), name="whole")
    assert (
        RunDirectory(tmp_path / "run").checkpoint("final").joinpath("model.safetensors").read_bytes()
        == (whole.checkpoint("final") / "model.safetensors").read_bytes()
    )
    source = write_settings(tmp_path, settings(log__on_save_error="stop"))
    argv[-1] = str(tmp_path / "stopped")
    assert run(argv, tmp_path / "log", in_child) == 1
    assert RunDirectory(tmp_path / "stopped").info()["status"] == "failed"


def test_a_folder_that_cannot_be_written(tmp_path):
    """As an ordinary user; root may write anywhere."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:3]:  # one more where workers of pytest have folders of their own
        parent.chmod(parent.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    store = SaveStore(tmp_path / "saves")
    path = store.write(fill, 2)
    store.folder.chmod(0o555)
    pid = os.fork()
    if pid == 0:
        code = 9
        try:
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            store.write(fill, 2)
        except SaveError as err:
            text = str(err)
            code = 3 if "Permission denied" in text and "cannot be saved" in text and "untouched" in text else 8
        finally:
            os._exit(code)
    assert wait(pid) == 3
    store.folder.chmod(0o755)
    assert store.complete() == [path]
    check_sealed(path)


def test_a_delete_that_fails_is_survived(tmp_path, monkeypatch):
    store = SaveStore(tmp_path / "saves")
    for _ in range(2):
        store.write(fill, 2)

    def stuck(path, *args, **kwargs):
        raise OSError(errno.EBUSY, "Device or resource busy")

    with monkeypatch.context() as patch:
        patch.setattr(atomic_io.shutil, "rmtree", stuck)
        newest = store.write(fill, 2)
    assert store.complete()[0] == newest
    assert len(store.complete()) == 2
    store.sweep()
    assert not [p for p in store.folder.iterdir() if p.name.startswith(".")]


def test_a_row_that_does_not_fit_leaves_no_broken_line(tmp_path):
    """The write stops in the middle of a line; what was written of it is cut off again."""
    run_ = RunDirectory.create(tmp_path / "run", {}, [])
    run_.append("metrics", {"iteration": 1})
    size = (run_.path / "metrics.jsonl").stat().st_size

    def work():
        small_files(size + 10)()
        try:
            run_.append("metrics", {"iteration": 2, "text": "x" * 100})
        except OSError as err:
            os._exit(4 if "earlier rows are untouched" in str(err) else 5)

    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(9)
    assert wait(pid) == 4
    assert (run_.path / "metrics.jsonl").stat().st_size == size
    assert run_.rows("metrics") == [{"iteration": 1}]
