"""10. A run of the version before is resumed, reported, evaluated and diagnosed, with the numbers of that version.

`tests/data/run-of-before-sft` holds a run as that version left it, stopped after its first iteration of two, and what
it gave in the end: the rows of the undisturbed run, an evaluation and a diagnosis of its policy.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stapo.cli.main import main
from stapo.former_names import with_present_names
from stapo.run import RunDirectory

FOLDER = Path(__file__).resolve().parents[1] / "data" / "run-of-before-sft"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
PLACES = ("run", "seconds", "versions", "path", "time")
"""Keys of what depends on the place, the machine or the day."""


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """The old run, resumed to its end by this version."""
    folder = tmp_path_factory.mktemp("old") / "run"
    shutil.copytree(FOLDER / "run", folder)
    assert main(["resume", str(folder), "--quiet"]) == 0
    return folder


def printed(capsys, *argv):
    assert main([*map(str, argv), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "warning" not in err
    return json.loads(out)


def same(found, expected):
    """Every number of the old version is there and is the same; this version may add others."""
    if isinstance(expected, dict):
        assert set(expected) <= set(found)
        for key, value in expected.items():
            if key not in PLACES:
                same(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, float):
        # Another processor rounds otherwise.
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)
    else:
        assert found == expected


def test_resumed_it_ends_with_the_numbers_of_the_old_version(resumed):
    run = RunDirectory(resumed)
    same(run.rows("metrics"), EXPECTED["metrics"])
    same(run.rows("evals"), EXPECTED["evals"])
    assert run.info()["status"] == "done"
    assert [row["step"] for row in run.rows("sft")] == [3]
    assert not (resumed / "sft.jsonl").exists()


def test_its_report_is_written(resumed):
    (resumed / "report.html").unlink()
    assert main(["report", str(resumed)]) == 0
    assert "alfworld" in (resumed / "report.html").read_text(encoding="utf-8")


def test_its_policy_is_evaluated(resumed, capsys):
    same(printed(capsys, "eval", resumed, "--episodes", 2, "--seeds", 0), EXPECTED["eval"])


def test_its_policy_is_diagnosed(resumed, capsys):
    found = printed(capsys, "diagnose", resumed, "--tasks", 2)
    expected = EXPECTED["diagnosis"]["diagnoses"]
    for diagnosis in expected:
        settings, _ = with_present_names({"algorithm": {"outlier": diagnosis["protocol"]["outlier"]}})
        diagnosis["protocol"]["outlier"] = settings["algorithm"]["outlier"]
    same(found["diagnoses"], expected)
