"""`stapo report`, on a run that the command line itself has made."""

from __future__ import annotations

import webbrowser

import pytest

from stapo.cli.main import main
from stapo.run import RunDirectory

pytestmark = pytest.mark.usefixtures("drawn_plots")

SMALL = {
    "sft.steps": 4,
    "sft.episodes": 12,
    "sft.batch_size": 8,
    "rollout.groups": 2,
    "rollout.group_size": 2,
    "optim.iterations": 2,
    "eval.episodes": 4,
    "log.transcript_every": 1,
    "env.max_steps": 4,
    "env.games_per_type": 4,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    overrides = [word for key, value in SMALL.items() for word in (f"--{key}", str(value))]
    assert main(["train", "tiny", "--quiet", "--out", str(out), *overrides]) == 0
    return out


def test_training_leaves_a_complete_report(trained):
    text = (trained / "report.html").read_text(encoding="utf-8")
    assert "Missing</h3>" not in text
    assert "stapo on alfworld" in text
    assert text.count('class="group box"') == 4
    # Two iterations of four short episodes need not flag a step; everything else has to be there.
    assert text.count("<svg ") >= 17


def test_the_report_can_be_written_anew(trained, capsys):
    (trained / "report.html").unlink()
    assert main(["report", str(trained)]) == 0
    assert capsys.readouterr().out.strip() == str(trained / "report.html")
    assert (trained / "report.html").is_file()


def test_open_shows_it(trained, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(webbrowser, "open", lambda uri: shown.append(uri))
    assert main(["report", "--open", str(trained)]) == 0
    assert shown == [(trained / "report.html").resolve().as_uri()]
    assert "no web browser was found" in capsys.readouterr().out


def test_a_run_that_never_got_going(tmp_path, capsys):
    RunDirectory.create(tmp_path / "run", {"seed": 0}, ["stapo", "train"])
    assert main(["report", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize(
    "argv, said",
    [
        ([], "needs a run directory"),
        (["nowhere"], "does not exist"),
        (["a", "b"], "at most 1 argument"),
        (["a", "--opne"], "Did you mean '--open'"),
    ],
)
def test_wrong_input_is_one_line(capsys, argv, said):
    assert main(["report", *argv]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_help(capsys):
    assert main(["report", "--help"]) == 0
    assert "--open" in capsys.readouterr().out
