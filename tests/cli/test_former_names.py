"""Settings, flags and files under the names of the version before."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from stapo.cli.main import main
from stapo.config.presets import load_config
from stapo.config.run_config import read_run_config
from stapo.former_names import FormerNameWarning, with_present_flags, with_present_names
from stapo.run import RunDirectory

OLD = Path(__file__).resolve().parents[1] / "data" / "save-format-1"


def test_groups_and_options_get_their_present_names():
    old = {"warm_start": {"steps": 3}, "env": {"name": "webshop", "options": {"catalogue_seed": 5, "size": "tiny"}}}
    old["algorithm"] = {"outlier": {"min_spread": 0.1}}
    new, used = with_present_names(old)
    assert new == {
        "sft": {"steps": 3},
        "env": {"name": "webshop", "options": {"catalog_seed": 5, "size": "tiny"}},
        "algorithm": {"outlier": {"min_scale": 0.1}},
    }
    assert used == ["warm_start", "env.options.catalogue_seed", "algorithm.outlier.min_spread"]
    assert "warm_start" in old
    assert "catalogue_seed" in old["env"]["options"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--warm-start.steps", "5"], ["--sft.steps", "5"]),
        (["--warm_start.steps=5"], ["--sft.steps=5"]),
        (["--warm-starts", "2"], ["--starts", "2"]),
        (["--env.catalogue_seed", "5"], ["--env.catalog_seed", "5"]),
        (["--algorithm.outlier.min_spread", ".1"], ["--algorithm.outlier.min-scale", ".1"]),
        (["--warm-starter"], ["--warm-starter"]),
    ],
)
def test_flags(given, expected):
    assert with_present_flags(given)[0] == expected


def test_a_file_with_a_former_name_is_read_and_says_so(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("extends: tiny\nwarm_start: {steps: 0}\n")
    assert main(["train", str(tmp_path / "mine.yaml"), "--dry-run", "--no-probe"]) == 0
    assert "warm_start is called sft now" in capsys.readouterr().err


def test_former_names_of_some_algorithms_and_of_files_that_are_extended(tmp_path, capsys):
    (tmp_path / "base.yaml").write_text("extends: tiny\nper_algorithm: {'gr*': {warm_start: {steps: 7}}}\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\nsft: {episodes: 5}\n")
    assert main(["train", str(tmp_path / "mine.yaml"), "--algorithm", "grpo", "--dry-run", "--no-probe"]) == 0
    out, err = capsys.readouterr()
    sft = yaml.safe_load(out)["sft"]
    assert (sft["steps"], sft["episodes"]) == (7, 5)
    assert err.count("warm_start is called sft now") == 1


def test_former_names_from_python():
    with pytest.warns(FormerNameWarning, match="overrides: warm_start is called sft now"):
        assert load_config("tiny", base={"warm_start": {"steps": 7}}).sft.steps == 7
    with pytest.warns(FormerNameWarning, match="mapping: warm_start is called sft now"):
        assert load_config({"warm_start": {"steps": 7}}).sft.steps == 7


def test_a_former_flag_is_said_once(capsys):
    assert main(["train", "--warm-start.steps", "7", "--warm-start.episodes", "5", "--dry-run", "--no-probe"]) == 0
    out, err = capsys.readouterr()
    assert yaml.safe_load(out)["sft"]["steps"] == 7
    assert err.count("--warm-start has another name now, --sft;") == 1


def test_both_names_at_once_are_refused(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("warm_start: {steps: 0}\nsft: {steps: 2}\n")
    assert main(["train", str(tmp_path / "mine.yaml"), "--dry-run"]) == 2
    assert "unknown key 'warm_start'" in capsys.readouterr().err


def test_a_run_of_the_version_before_is_read(tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    assert read_run_config(run).sft.steps == 3
    rows = run.rows("sft")
    assert rows
    assert run.row_file("sft").name == "warm_start.jsonl"
