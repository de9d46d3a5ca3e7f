"""From run directories to numbers and a page. The runs here are written by hand, so that every number is known."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest

from stapo.cli.compare_view import show
from stapo.comparison.figures import Curves, band
from stapo.comparison.jobs import Ended
from stapo.comparison.page import render_page, write_page
from stapo.comparison.plan import Variant, cell_folder, extended, label_of, plan_of, read_plan, start_folder, write_plan
from stapo.comparison.results import results
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.errors import ConfigError
from stapo.run import RunDirectory

BASE = to_data(from_data(RunConfig, {"optim": {"iterations": 2}, "rollout": {"groups": 2, "group_size": 2}}))
TASKS = ["a/1", "a/2", "b/1", "b/2"]
WON = {
    ("grpo", 0): [1, 0, 0, 0],
    ("grpo", 1): [0, 0, 1, 0],
    ("stapo", 0): [1, 1, 1, 0],
    ("stapo", 1): [0, 1, 1, 0],
}


def plan_for(labels=("grpo", "stapo"), seeds=(0, 1), starts=None, base=BASE):
    variants = [
        Variant(label, label, {}, {**base, "algorithm": {**base["algorithm"], "name": label}}) for label in labels
    ]
    return plan_of(base, variants, seeds, starts, "stapo compare")


def evaluation(run, iteration, won):
    for n, (task, w) in enumerate(zip(TASKS, won, strict=True)):
        row = {"iteration": iteration, "mode": "sampled", "seed": 0, "episode": n, "task_id": task}
        run.append("eval_episodes", {**row, "task_type": task[0], "won": bool(w), "score": 1.0 * w, "steps": 3})
    types = {t: {"success": float(np.mean([w for x, w in zip(TASKS, won, strict=True) if x[0] == t]))} for t in "ab"}
    row = {"iteration": iteration, "mode": "sampled", "final": True, "protocol": "four tasks", "episodes": 4}
    run.append("evals", {**row, "success": float(np.mean(won)), "by_type": types, "errors": 0})


def write_runs(folder, plan, leave_out=()):
    for start in plan.starts:
        run = RunDirectory.create(start_folder(folder, start), {}, [])
        evaluation(run, 0, [start, 0, 0, 0])
        run.finish("done", iterations=0, seconds={"sft": 1.0})
    for cell in plan.cells:
        if cell in leave_out:
            continue
        run = RunDirectory.create(cell_folder(folder, cell), {}, [])
        for i in (1, 2):
            outlier = {"flagged_share": 0.1 * i}
            row = {"iteration": i, "success": 0.5, "rows": 10 * i, "episodes": 4, "outlier": outlier}
            run.append("metrics", {**row, "response_tokens": 2.5})
        evaluation(run, 2, WON[cell.label, cell.seed])
        run.finish("done", iterations=2, seconds={"sft": 0.0, "rl": 60.0})


def test_numbers(tmp_path):
    plan = plan_for()
    write_runs(tmp_path, plan)
    found = results(plan, tmp_path, {}, "grpo")
    grpo, stapo = found["variants"]
    assert found["complete"]
    assert found["protocols"] == {"sampled": "four tasks"}
    assert (grpo["final"]["sampled"]["mean"], grpo["final"]["sampled"]["sd"]) == (0.25, 0.0)
    # 3/4 and 2/4: mean 5/8, sample deviation (1/4) / sqrt(2)
    assert stapo["final"]["sampled"]["mean"] == 0.625
    assert stapo["final"]["sampled"]["sd"] == pytest.approx(0.25 / 2**0.5)
    # starts win 0 and 1 of 4
    assert stapo["start"]["sampled"]["mean"] == 0.125
    gap = stapo["difference"]["sampled"]
    assert (gap["seeds"], gap["by_seed"], gap["mean"], gap["pairs"]) == ([0, 1], [0.5, 0.25], 0.375, 8)
    assert 0 <= gap["low"] < 0.375 < gap["high"] <= 1
    # type a: seed 0 (1,1) against (1,0), seed 1 (0,1) against (0,0); type b: (1,0) against (0,0), (1,0) against (1,0)
    assert gap["by_type"]["a"]["by_seed"] == [0.5, 0.5]
    assert gap["by_type"]["b"]["by_seed"] == [0.5, 0.0]
    run = stapo["runs"][0]
    assert (run["environment_steps"], run["generated_tokens"], run["episodes"]) == (30, 75, 8)
    # (0.1 * 10 + 0.2 * 20) / 30
    assert run["flagged_share"] == pytest.approx(1 / 6)
    assert stapo["totals"]["seconds"] == 60.0
    assert run["folder"] == "runs/stapo/seed-0"


def test_what_is_missing_counts_for_nothing_and_is_named(tmp_path):
    plan = plan_for()
    lost = next(c for c in plan.cells if (c.label, c.seed) == ("stapo", 1))
    write_runs(tmp_path, plan, leave_out=[lost])
    found = results(plan, tmp_path, {lost.name: Ended("failed", 1, "no <bread>")}, "grpo")
    stapo = found["variants"][1]
    assert not found["complete"]
    assert (stapo["done"], stapo["failed"]) == (1, 1)
    assert stapo["runs"][1]["error"] == "no <bread>"
    assert stapo["final"]["sampled"] == {
        "mean": 0.75,
        "sd": None,
        "n": 1,
        "task_score": None,
        "by_type": stapo["final"]["sampled"]["by_type"],
    }
    # only seed 0 has both
    assert stapo["difference"]["sampled"]["seeds"] == [0]
    assert stapo["difference"]["sampled"]["mean"] == 0.5
    page = write_page(plan, tmp_path, found).read_text()
    assert "stapo, seed 1: failed. no &lt;bread&gt;" in page
    assert "<bread>" not in page


@pytest.mark.parametrize(
    "name, text",
    [
        ("eval_episodes.jsonl", '{"iteration": 2, "mode": "sampled", "seed": 0}\n'),
        ("evals.jsonl", '{"iteration": 2, "mode": "sampled", "final": true, "success": "all"}\n'),
        ("metrics.jsonl", "[7]\n"),
        ("metrics.jsonl", '{"iteration": 2, "rows": "many"}\n'),
    ],
)
def test_a_damaged_run_counts_for_nothing_and_costs_no_other(tmp_path, name, text):
    plan = plan_for()
    write_runs(tmp_path, plan)
    cell = next(c for c in plan.cells if (c.label, c.seed) == ("stapo", 1))
    (cell_folder(tmp_path, cell) / name).write_text(text)
    found = results(plan, tmp_path, {}, "grpo")
    grpo, stapo = found["variants"]
    assert [run["status"] for run in grpo["runs"] + stapo["runs"]] == ["done", "done", "done", "damaged"]
    assert stapo["runs"][1]["error"]
    assert stapo["runs"][1]["final"] == {}
    assert (found["complete"], stapo["done"]) == (False, 1)
    assert stapo["final"]["sampled"]["mean"] == 0.75
    assert stapo["difference"]["sampled"]["seeds"] == [0]
    assert "stapo, seed 1: damaged. " in write_page(plan, tmp_path, found).read_text()


def test_scores_of_tasks_that_are_judged_by_degrees(tmp_path, capsys):
    plan = plan_for()
    write_runs(tmp_path, plan)
    for cell in plan.cells:
        place = cell_folder(tmp_path, cell) / "evals.jsonl"
        score = 0.5 if cell.label == "grpo" else 0.7 + 0.1 * cell.seed
        place.write_text(json.dumps({**json.loads(place.read_text()), "task_score": score}) + "\n")
    found = results(plan, tmp_path, {}, "grpo")
    scores = [variant["final"]["sampled"]["task_score"] for variant in found["variants"]]
    assert [score["mean"] for score in scores] == [0.5, 0.75]
    assert "<td>75.0 %</td>" in write_page(plan, tmp_path, found).read_text()
    show(found, sys.stdout)
    row = next(line for line in capsys.readouterr().out.splitlines() if "stapo" in line and "sampled" in line)
    assert [cell.strip() for cell in row.split("│")][3:7] == ["0.125", "0.625", "0.177", "0.750"]


def test_unequal_budgets_are_said(tmp_path, capsys):
    plan = plan_for()
    assert results(plan, tmp_path, {}, "grpo")["remarks"] == []
    larger = json.loads(json.dumps(BASE))
    larger["rollout"]["group_size"] = 3
    plan = plan_of(BASE, [plan.variants[0], Variant("stapo", "stapo", {}, larger)], (0, 1), None, "stapo compare")
    write_runs(tmp_path, plan)
    found = results(plan, tmp_path, {}, "grpo")
    # 2 iterations x 2 groups x 2 or 3
    assert "(grpo: 8 episodes; stapo: 12 episodes)" in found["remarks"][0]
    show(found, sys.stdout)
    assert "grpo: 8 episodes; stapo: 12" in " ".join(capsys.readouterr().out.split())
    assert "stapo: 12 episodes" in write_page(plan, tmp_path, found).read_text()


def test_long_labels_are_whole_in_a_line_of_80(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    labels = ("stapo,sampler=uniform", "stapo,sampler=informative")
    plan = plan_for()
    write_runs(tmp_path, plan)
    found = results(plan, tmp_path, {}, "grpo")
    found["variants"] = [{**variant, "label": label} for variant, label in zip(found["variants"], labels, strict=True)]
    show({**found, "baseline": labels[0]}, sys.stdout)
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    shown = "".join(row[1].strip() for row in rows)
    assert shown == "".join(labels) * 2
    assert "0.125" in " ".join(cell for row in rows for cell in row)


def test_nothing_done_yet(tmp_path):
    plan = plan_for()
    found = results(plan, tmp_path, {}, "grpo")
    assert not found["complete"]
    assert {run["status"] for v in found["variants"] for run in v["runs"]} == {"not begun"}
    assert "No run has finished." in render_page(found, [Curves("grpo", [], []), Curves("stapo", [], [])], "x")


def test_the_page_stands_alone(tmp_path):
    plan = plan_for()
    write_runs(tmp_path, plan)
    for folder in (cell_folder(tmp_path, plan.cells[-1]), start_folder(tmp_path, plan.starts[0])):
        (folder / "report.html").write_text("x")
    page = write_page(plan, tmp_path, results(plan, tmp_path, {}, "grpo")).read_text()
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    for shown in ("+37.5", "62.5 %", 'href="runs/stapo/seed-1/report.html"', 'href="starts/00/report.html"'):
        assert shown in page


def test_bands():
    mean, sd = band([np.array([0.0, 1.0, 0.5]), np.array([1.0, 1.0])])
    assert mean.tolist() == [0.5, 1.0, 0.5]
    assert sd[:2].tolist() == [pytest.approx(0.5**0.5), 0.0]
    assert np.isnan(sd[2])


# -- plans -------------------------------------------------------------------------------------------------------------


def test_seeds_share_starts():
    plan = plan_for(seeds=(0, 1, 2, 3, 7))
    assert {c.seed: c.start for c in plan.cells} == {0: 0, 1: 1, 2: 2, 3: 0, 7: 1}
    assert plan.starts == [0, 1, 2]
    assert [(c.label, c.seed) for c in plan.cells][:3] == [("grpo", 0), ("stapo", 0), ("grpo", 1)]
    # 10 cells x 2 iterations x 2 groups x 2 attempts
    assert plan.episodes() == 80


def test_settings_of_starts_and_cells(tmp_path):
    plan = plan_for(base={**BASE, "sft": {**BASE["sft"], "steps": 9}})
    start, cell = plan.start_settings(1), plan.cell_settings(plan.cells[0], tmp_path)
    assert (start["seed"], start["optim"]["iterations"], start["sft"]["steps"]) == (1, 0, 9)
    assert (cell["seed"], cell["optim"]["iterations"], cell["sft"]["steps"]) == (0, 2, 0)
    assert cell["model"]["path"] == str((tmp_path / "starts/00/checkpoints/final").resolve())
    assert not cell["eval"]["at_start"]
    assert plan.base["model"]["path"] is None
    # Its tokenizer was trained here; a model of the user keeps its chat template.
    assert (cell["model"]["chat_template"], plan.base["model"]["chat_template"]) == ("none", "auto")


def test_a_model_of_the_user_is_used_as_it_is(tmp_path):
    plan = plan_for(base={**BASE, "model": {**BASE["model"], "path": "mine"}})
    assert plan.starts == [0]
    assert plan.cell_settings(plan.cells[-1], tmp_path)["model"]["path"] == "mine"
    warm = {**BASE["sft"], "steps": 5}
    plan = plan_for(base={**BASE, "model": {**BASE["model"], "path": "mine"}, "sft": warm})
    assert plan.starts == [0, 1]
    assert plan.cell_settings(plan.cells[-1], tmp_path)["model"]["path"].endswith("starts/01/checkpoints/final")
    (tmp_path / "warm").mkdir()
    assert plan.cell_settings(plan.cells[-1], tmp_path)["model"]["path"].endswith("warm/01/checkpoints/final")


def test_plans_are_kept_and_extended(tmp_path):
    old = plan_for(labels=("grpo",), seeds=(0, 1))
    write_plan(tmp_path, old)
    assert read_plan(tmp_path) == old
    more = extended(old, plan_for(labels=("stapo",), seeds=(1, 2), starts=2), tmp_path)
    assert more.cells[:2] == old.cells
    assert {(c.label, c.seed, c.start) for c in more.cells} == {
        (label, seed, seed % 2) for label in ("grpo", "stapo") for seed in (0, 1, 2)
    }
    assert extended(more, more, tmp_path) == more


def test_other_settings_are_refused(tmp_path):
    other = {**BASE, "optim": {**BASE["optim"], "iterations": 3}}
    with pytest.raises(ConfigError) as refused:
        extended(plan_for(), plan_for(base=other), tmp_path)
    # once, although base and both variants differ in it
    assert str(refused.value).count("optim.iterations: 2 in the folder, 3 now") == 1


def test_labels():
    assert label_of("stapo", {}) == "stapo"
    assert label_of("stapo", {"algorithm.outlier.lam": 1.5, "optim.epochs": 2}) == "stapo,lam=1.5,epochs=2"
    both = {"algorithm.advantage.omega": 1, "algorithm.loss.omega": 2}
    assert label_of("x", both) == "x,algorithm.advantage.omega=1,algorithm.loss.omega=2"
    assert label_of("x", {"a.b": "../up", "a.c": True, "a.d": None}) == "x,b=.._up,c=true,d=none"
    with pytest.raises(ConfigError, match="would be called 'grpo'"):
        plan_for(labels=("grpo", "grpo"))


def test_a_run_is_a_link_only_where_its_report_is(tmp_path):
    plan = plan_for()
    write_runs(tmp_path, plan)
    there = cell_folder(tmp_path, plan.cells[0])
    (there / "report.html").write_text("x")
    page = write_page(plan, tmp_path, results(plan, tmp_path, {}, "grpo")).read_text(encoding="utf-8")
    links = [target for target in re.findall(r'<a href="([^"]+)"', page) if not target.startswith("#")]
    assert links == [f"{there.relative_to(tmp_path).as_posix()}/report.html"]
