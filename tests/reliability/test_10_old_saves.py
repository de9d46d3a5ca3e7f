"""10. Saves of every released format can be resumed, or say what to do.

`tests/data/save-format-N` holds a tiny run as the version with save format N left it, stopped after its first
iteration. A new format gets a new folder there (`python tests/reliability/test_10_old_saves.py` writes the present
one); the old ones stay.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from stapo.cli.main import main
from stapo.errors import SaveError
from stapo.run import RunDirectory
from stapo.training.checkpoint import FORMAT, read_state

DATA = Path(__file__).resolve().parents[1] / "data"
FOLDERS = sorted(DATA.glob("save-format-*"))


def test_the_present_format_is_kept():
    assert f"save-format-{FORMAT}" in {p.name for p in FOLDERS}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_it_is_small(folder):
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 400_000


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_an_old_run_is_gone_on_with(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "run")
    assert main(["resume", str(tmp_path / "run"), "--quiet"]) == 0, capsys.readouterr().err
    assert "after iteration 1" in capsys.readouterr().err
    run = RunDirectory(tmp_path / "run")
    assert [row["iteration"] for row in run.rows("metrics")] == [1, 2]
    assert run.info()["status"] == "done"


def test_a_later_format_says_what_to_do(tmp_path):
    shutil.copytree(FOLDERS[-1], tmp_path / "run")
    save = RunDirectory(tmp_path / "run").saves.complete()[0]
    data = json.loads((save / "state.json").read_text())
    (save / "state.json").write_text(json.dumps({**data, "format": FORMAT + 1}))
    said = f"has save format {FORMAT + 1}, this version reads format {FORMAT}.*version that wrote it"
    with pytest.raises(SaveError, match=said):
        read_state(save)


def write_present() -> None:
    """Make the folder of the present format."""
    import tempfile

    import yaml
    from reliable import copying, run, settings

    data = settings(optim__iterations=2, sft__steps=3, sft__episodes=6)
    data["model"] |= {"hidden_size": 8, "intermediate_size": 8, "vocab_size": 300}
    data["eval"] = {"episodes": 1, "greedy": False}
    data["log"] |= {"transcript_every": 0, "save_seconds": 1000.0}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "copies").mkdir()
        (folder / "run.yaml").write_text(yaml.safe_dump(data))
        argv = ["train", str(folder / "run.yaml"), "--quiet", "--out", str(folder / "run")]
        assert run(argv, folder / "log", lambda: copying(folder)) == 0, (folder / "log").read_text()
        for copy in sorted((folder / "copies").iterdir()):
            newest = RunDirectory(copy).saves.complete()[0]
            if read_state(newest).iteration == 1:
                target = DATA / f"save-format-{FORMAT}"
                shutil.rmtree(target, ignore_errors=True)
                # One save, and nothing that going on does not need.
                for path in [*RunDirectory(copy).saves.complete()[1:], copy / "checkpoints"]:
                    shutil.rmtree(path)
                shutil.copytree(copy, target, ignore=shutil.ignore_patterns(".lock"))
                info = json.loads((target / "run.json").read_text())
                (target / "run.json").write_text(json.dumps({**info, "command": ["stapo", "train"]}, indent=1))
                return


if __name__ == "__main__":
    sys.path.insert(0, str(DATA.parent))
    write_present()
