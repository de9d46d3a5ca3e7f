"""`stapo compare`: the plan on the way in, equal conditions in every run, the same results whatever cut it short."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from types import SimpleNamespace

import pytest
import yaml

from forked import ForkedStapo
from stapo.cli.compare_command import plan_from
from stapo.cli.main import main
from stapo.comparison import jobs
from stapo.run import RunDirectory

TINY = {
    "env": {"name": "alfworld", "options": {"scenes": "tiny", "games_per_type": 6, "max_steps": 8}},
    "agent": {"prompt": "compact", "response": "action", "max_prompt_tokens": 600, "max_response_tokens": 8},
    "sft": {"steps": 30, "episodes": 12, "batch_size": 8, "learning_rate": 0.01},
    "rollout": {"groups": 2, "group_size": 3, "anchor": "observation_and_admissible", "reward_scale": 1.0},
    "model": {"architecture": "qwen3", "hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32,
              "vocab_size": 400, "device": "cpu"},
    "algorithm": {"name": "stapo", "outlier": {"select": "all"}},
    "optim": {"iterations": 3, "learning_rate": 5e-3, "mini_batch": 12},
    "eval": {"episodes": 24, "greedy": False},
    "log": {"transcript_every": 1, "transcript_groups": 2, "grace": 20.0, "save_seconds": 0.0},
}  # fmt: skip
"""Runs of a second or two. They win nothing: what the numbers mean is tested in tests/comparison."""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("settings") / "small.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def words(source, out, *more):
    return ["compare", source, "--algorithms", "grpo", "stapo", "--seeds", "0", "1", "--out", out, *more]


def compare(*argv):
    return subprocess.run(
        [sys.executable, "-m", "stapo.cli.main", *map(str, argv)], capture_output=True, text=True, timeout=900
    )


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """An undisturbed comparison: its folder and what it printed. The slow tests below start processes for the same."""
    out = tmp_path_factory.mktemp("compare") / "whole"
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(jobs, "subprocess", SimpleNamespace(Popen=ForkedStapo, DEVNULL=subprocess.DEVNULL))
        code = main(list(map(str, words(source, out, "--jobs", "2"))))
    assert code == 0, printed.getvalue()
    return out, printed.getvalue()


@pytest.fixture(scope="module")
def undisturbed(source, whole):
    """The numbers of an undisturbed comparison, whatever tests have done with its folder."""
    out, _ = whole
    assert main(["compare", "--out", str(out)]) == 0
    return numbers(out)


def numbers(out):
    """results.json without what a clock or the name of the folder decides."""

    def strip(value):
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if k not in ("seconds", "commands", "interrupted")}
        return [strip(v) for v in value] if isinstance(value, list) else value

    return strip(json.loads((out / "results.json").read_text()))


def test_results(whole):
    out, printed = whole
    found = json.loads((out / "results.json").read_text())
    assert found["complete"]
    assert [(v["label"], v["done"], v["failed"]) for v in found["variants"]] == [("grpo", 2, 0), ("stapo", 2, 0)]
    grpo, stapo = found["variants"]
    successes = [run["final"]["sampled"]["success"] for run in stapo["runs"]]
    assert stapo["final"]["sampled"]["mean"] == pytest.approx(sum(successes) / 2)
    gap = stapo["difference"]["sampled"]
    assert gap["by_seed"] == pytest.approx(
        [
            s["final"]["sampled"]["success"] - g["final"]["sampled"]["success"]
            for g, s in zip(grpo["runs"], stapo["runs"], strict=True)
        ]
    )
    assert gap["pairs"] == 48
    assert sum(part["pairs"] for part in gap["by_type"].values()) == 48
    assert grpo["difference"] == {}
    for text in ("grpo", "stapo", "minus grpo", "2 of 2", "results.json"):
        assert text in printed
    page = (out / "report.html").read_text()
    assert 'href="runs/stapo/seed-1/report.html"' in page
    assert page.count("<svg") == 3


def test_counts_are_those_of_the_runs(whole):
    out, _ = whole
    run = json.loads((out / "results.json").read_text())["variants"][1]["runs"][0]
    rows = RunDirectory.open(out / run["folder"]).rows("metrics")
    assert run["iterations"] == 3
    assert run["environment_steps"] == sum(row["rows"] for row in rows)
    steps = [
        s
        for path in RunDirectory.open(out / run["folder"]).transcripts()
        for line in path.read_text().splitlines()
        for s in json.loads(line)["steps"]
    ]
    assert run["environment_steps"] == len(steps)
    assert run["generated_tokens"] == sum(s["tokens"] for s in steps)


def test_conditions_are_equal(whole):
    out, _ = whole
    runs = {
        (name, seed): RunDirectory.open(out / "runs" / name / f"seed-{seed}")
        for name in ("grpo", "stapo")
        for seed in (0, 1)
    }
    for seed in (0, 1):
        one, two = runs["grpo", seed], runs["stapo", seed]
        start = (out / "starts" / f"0{seed}" / "checkpoints" / "final" / "model.safetensors").read_bytes()
        assert (one.checkpoint("start") / "model.safetensors").read_bytes() == start
        assert (two.checkpoint("start") / "model.safetensors").read_bytes() == start
        played = [
            [json.loads(line)["task_id"] for line in r.transcripts()[0].read_text().splitlines()] for r in (one, two)
        ]
        assert played[0] == played[1]
        tasks = [[row["task_id"] for row in r.rows("eval_episodes")] for r in (one, two)]
        assert tasks[0] == tasks[1]
        assert len(tasks[0]) == 24
        # The start was evaluated once, where it was made.
        assert [row["iteration"] for row in one.rows("evals")] == [3]
        assert len(RunDirectory.open(out / "starts" / f"0{seed}").rows("evals")) == 1
    assert (out / "starts/00/checkpoints/final/model.safetensors").read_bytes() != (
        out / "starts/01/checkpoints/final/model.safetensors"
    ).read_bytes()
    assert runs["grpo", 0].config()["algorithm"]["name"] == "grpo"


def test_again_trains_nothing(whole, source, capsys):
    out, _ = whole
    before = numbers(out)
    assert main(list(map(str, words(source, out)))) == 0
    assert "done already: 6 of 6 starts and runs" in capsys.readouterr().err
    assert main(["compare", "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "results.json").read_text())
    assert numbers(out) == before


def test_another_plan_is_refused_with_the_difference(whole, source, capsys):
    out, _ = whole
    assert main(list(map(str, words(source, out, "--optim.learning-rate", "0.1", "--starts", "1")))) == 2
    err = capsys.readouterr().err
    assert "optim.learning_rate: 0.005 in the folder, 0.1 now" in err
    assert "start of seed 1: 1 in the folder, 0 now" in err
    assert "Traceback" not in err


def test_baseline(whole, capsys):
    out, _ = whole
    assert main(["compare", "--out", str(out), "--json", "--baseline", "stapo"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["variants"][1]["difference"] == {}
    assert found["variants"][0]["difference"]["sampled"]["pairs"] == 48
    assert main(["compare", "--out", str(out), "--baseline", "stappo"]) == 2
    assert "unknown variant 'stappo'. Did you mean 'stapo'?" in capsys.readouterr().err
    # The choice stands until another is made.
    for words_of_it, chosen in (([], "stapo"), (["--baseline", "grpo"], "grpo"), ([], "grpo")):
        assert main(["compare", "--out", str(out), *words_of_it]) == 0
        assert json.loads((out / "results.json").read_text())["baseline"] == chosen


@pytest.mark.slow
@pytest.mark.parametrize("signum, code", [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_interrupted_and_gone_on_with_it_is_the_same(undisturbed, source, tmp_path, signum, code):
    out = tmp_path / "cut"
    argv = [sys.executable, "-m", "stapo.cli.main", *map(str, words(source, out, "--jobs", "2"))]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    end = time.monotonic() + 600
    while not list(out.glob("runs/*/*/metrics.jsonl")):
        assert time.monotonic() < end, (tmp_path / "log").read_text()
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signum)
    assert process.wait(200) == code
    done = compare("compare", "--out", out, "--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert numbers(out) == undisturbed
    assert "Traceback" not in (tmp_path / "log").read_text()


# -- plans -------------------------------------------------------------------------------------------------------------


def dry(capsys, *argv):
    assert main(["compare", *map(str, argv), "--dry-run"]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_dry_run(capsys, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = dry(capsys, source, "--algorithms", "grpo", "gigpo", "--seeds", "3", "5", "--out", "x", "--jobs", "2")
    # 2 variants x 2 seeds x 3 iterations x 2 groups x 3 attempts
    assert "episodes:    72 in training" in out
    assert "runs:        4, 2 at a time" in out
    assert "stapo train x/settings/gigpo-seed-5.yaml --quiet --out x/runs/gigpo/seed-5" in out
    # 3 and 5 modulo 2 are both 1
    assert "starts:      1" in out
    assert "--out x/starts/01" in out
    assert list(tmp_path.iterdir()) == []


def test_vary(capsys, source):
    out = dry(
        capsys, source, "--algorithms", "stapo", "--seeds", "0", "--vary", "algorithm.outlier.lam=1.0,3.0",
        "optim.learning-rate=1e-3,1e-4", "--jobs", "1",
    )  # fmt: skip
    labels = [f"stapo,lam={lam},learning_rate={rate}" for lam in ("1.0", "3.0") for rate in ("1e-3", "1e-4")]
    assert f"variants:    {', '.join(labels)}" in out


def test_settings_that_vary_together(capsys, source, tmp_path):
    out = dry(
        capsys, source, "--algorithms", "stapo", "--seeds", "0", "--vary",
        "algorithm.selective.alpha+algorithm.selective.gamma=0.003,0.03", "--jobs", "1",
    )  # fmt: skip
    assert "variants:    stapo,alpha=0.003,gamma=0.003, stapo,alpha=0.03,gamma=0.03\n" in out
    plan = plan_from(str(source), ["stapo"], ["algorithm.loss.beta+optim.epochs=1,2"], [], None, [], "")
    settings = [variant.settings for variant in plan.variants]
    assert [(s["algorithm"]["loss"]["beta"], s["optim"]["epochs"]) for s in settings] == [(1.0, 1), (2.0, 2)]


def test_a_given_model_is_the_start_of_all(capsys, source):
    out = dry(
        capsys, source, "--algorithms", "grpo", "--seeds", "0", "1", "--model.path", "some/model",
        "--sft.steps", "0", "--optim.learning-rate", "1e-5",
    )  # fmt: skip
    assert "evaluation of the given model: 1" in out


def test_several_environments(capsys, tmp_path):
    small, path = TINY["env"], tmp_path / "both.yaml"
    both = {"easy": small, "hard": {**small, "weight": 2, "options": {**small["options"], "max_steps": 9}}}
    path.write_text(yaml.safe_dump({**{key: part for key, part in TINY.items() if key != "env"}, "envs": both}))
    assert "runs:        2, " in dry(capsys, path, "--algorithms", "grpo", "stapo", "--seeds", "0")
    both["hard"]["split"] = "none"
    path.write_text(yaml.safe_dump({"envs": both}))
    assert main(["compare", str(path), "--algorithms", "grpo", "--seeds", "0", "--dry-run"]) == 2
    assert "unknown split 'none'" in capsys.readouterr().err


def test_help_teaches(capsys):
    assert main(["compare", "--help"]) == 0
    out = capsys.readouterr().out
    for shown in ("usage: stapo compare", "examples:", "--algorithms A B", "--optim.learning-rate"):
        assert shown in out


GOOD = ("--algorithms", "grpo")


@pytest.mark.parametrize(
    "argv, said",
    [
        ((), "'stapo compare' needs algorithms"),
        (("--algorithms",), "--algorithms needs names"),
        (("--algorithms", "grpoo"), "unknown algorithm 'grpoo'. Did you mean 'grpo'?"),
        (("--algorithms", "grpo", "grpo"), "--algorithms names 'grpo' twice"),
        ((*GOOD, "--seeds"), "--seeds needs whole numbers"),
        ((*GOOD, "--seeds", "0", "1", "0"), "--seeds names a seed twice (0)"),
        ((*GOOD, "--seeds", "x"), "--seeds is 'x', expected a whole number of 0 or more"),
        ((*GOOD, "--jobs", "0"), "--jobs is '0', expected a whole number of 1 or more"),
        ((*GOOD, "--starts", "0"), "--starts is '0', expected a whole number of 1 or more"),
        ((*GOOD, "--episodes", "-1"), "--episodes is '-1'"),
        ((*GOOD, "--vary"), "--vary needs SETTING=VALUE"),
        ((*GOOD, "--vary", "algorithm.outlier.lam"), "expected SETTING=VALUE"),
        ((*GOOD, "--vary", "algorithm.outlier.lam="), "expected SETTING=VALUE"),
        ((*GOOD, "--vary", "algorithm.outlier.lam=1,,2"), "in which '' is not a value"),
        ((*GOOD, "--vary", "algorithm.outlier.lam+=1,2"), "--vary cannot change ''"),
        ((*GOOD, "--vary", "optim.epochs+optim.epochs=1,2"), "names 'optim.epochs' twice"),
        ((*GOOD, "--vary", "algorithm.outlier.lam=1,1"), "names the value 1 twice"),
        ((*GOOD, "--vary", "algorithm.outlier.lamb=1"), "unknown key 'algorithm.outlier.lamb'. Did you mean 'lam'?"),
        ((*GOOD, "--vary", "algorithm.outlier.lam=much"), "algorithm.outlier.lam is 'much', expected float"),
        ((*GOOD, "--vary", "eval.episodes=1,2"), "--vary cannot change 'eval.episodes'"),
        ((*GOOD, "--vary", "algorithm.name=grpo"), "--vary cannot change 'algorithm.name'"),
        ((*GOOD, "--vary", "optim.epochs=1,2", "--optim.epochs", "3"), "given by --vary and by --optim.epochs"),
        ((*GOOD, "--algorithm", "grpo"), "Did you mean '--algorithms'?"),
        ((*GOOD, "--seed", "1"), "Did you mean '--seeds'?"),
        ((*GOOD, "--env.split", "tarin"), "unknown split 'tarin'"),
        ((*GOOD, "--env.gamse", "x"), "has no option 'gamse'. Did you mean 'games'?"),
        ((*GOOD, "--optim.epochs", "0"), "optim.epochs is 0, expected a whole number of 1 or more"),
        (("tinny", *GOOD), "unknown preset or file 'tinny'. Did you mean 'tiny'?"),
        ((*GOOD, "--baseline", "gipgo"), "unknown variant 'gipgo'"),
    ],
)
def test_bad_input_is_one_clear_error(capsys, tmp_path, monkeypatch, argv, said):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["compare", *argv])
    except SystemExit as end:  # wrong overrides leave as those of 'stapo train' do
        code = end.code
    err = capsys.readouterr().err
    assert code == 2
    assert said in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_else(capsys, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "file").write_text("")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "compare.json").write_text("{")
    for name, said in (
        ("full", "is not empty and holds no comparison"),
        ("run", "holds a single run"),
        ("file", "is not a folder"),
        ("broken", "cannot be read"),
    ):
        assert main(["compare", *GOOD, "--out", str(tmp_path / name)]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
    assert (tmp_path / "full" / "letter.txt").read_text() == "dear"


def test_two_may_not_write_one_folder(capsys, source, tmp_path):
    from stapo.run.lock import RunLock

    (tmp_path / "x").mkdir()
    with RunLock(tmp_path / "x"):
        assert main(list(map(str, words(source, tmp_path / "x")))) == 2
    assert "is going on in another process" in capsys.readouterr().err
