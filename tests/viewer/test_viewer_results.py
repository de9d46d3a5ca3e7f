"""Comparisons and diagnoses open in the viewer; a step tells how to play on from it."""

from __future__ import annotations

import json
import shlex

import pytest

from stapo.cli.main import main


@pytest.fixture
def comparison(runs):
    """A folder as `stapo compare` leaves it, around a real run."""
    folder = runs / "both"
    (folder / "runs" / "stapo").mkdir(parents=True)
    (runs / "toy").rename(folder / "runs" / "stapo" / "seed-0")
    final = {"sampled": {"success": 0.5}}
    run = {"seed": 0, "status": "done", "error": "", "folder": "runs/stapo/seed-0", "final": final}
    spread = {"sampled": {"mean": 0.5, "sd": 0.1, "n": 1}}
    difference = {"sampled": {"mean": 0.06, "low": 0.03, "high": 0.096}}
    variant = {"label": "stapo", "runs": [run], "start": spread, "final": spread, "difference": difference}
    results = {"complete": True, "baseline": "gigpo", "protocols": {"sampled": "4 episodes"}, "variants": [variant]}
    results |= {"pairing": "Paired.", "interval": "Bootstrap.", "remarks": [], "seeds": [0]}
    (folder / "compare.json").write_text(json.dumps({"cells": [{}]}))
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_a_comparison_opens(view, runs, comparison, page):
    page.goto(view(runs).url)
    page.get_by_role("link", name="both", exact=True).click()
    row = page.locator("tr", has_text="+6.0")
    row.wait_for()
    assert "+3.0 to +9.6" in row.inner_text()
    page.get_by_role("link", name="stapo, seed 0").click()
    page.locator("figure").first.wait_for()


def test_a_comparison_without_results_says_so(view, runs, comparison):
    (comparison / "results.json").unlink()
    status, _, body = view(runs).raw("/api/comparison?run=both")
    assert (status, b"is not there yet" in body) == (404, True)


def test_results_of_another_form_cost_their_page_alone(view, runs, comparison, page):
    (comparison / "results.json").write_text(json.dumps({"variants": [{"label": 3}], "seeds": None}))
    server = view(runs)
    page.goto(f"{server.url}#/comparison/both")
    page.get_by_text("This page cannot show what the run holds").wait_for()
    page.get_by_role("link", name="stapo view").click()
    page.get_by_role("link", name="both", exact=True).wait_for()


def test_a_diagnosis_opens(view, runs, page):
    assert main(["diagnose", str(runs / "toy")]) == 0
    folder = runs / "toy" / "diagnosis"
    document = json.loads((folder / "final" / "diagnosis.json").read_text())
    (folder / "broken").mkdir()
    (folder / "broken" / "diagnosis.json").write_text("[")
    page.goto(f"{view(runs).url}#/run/toy/diagnosis")
    for table in document["tables"]:
        page.get_by_role("heading", name=table["title"]).wait_for()
    shown = page.locator("tbody td").all_text_contents()
    assert shown == [cell for table in document["tables"] for row in table["rows"] for cell in row]
    page.get_by_text("broken/diagnosis.json' cannot be read").wait_for()


def test_play_from_a_step(toy_run, monkeypatch, capsys):
    line = (sorted((toy_run / "transcripts").iterdir())[0]).read_text().splitlines()[0]
    record = json.loads(line)
    at = f"{record['iteration']}/{record['group']}/{record['member']}/2"
    monkeypatch.setattr("builtins.input", lambda prompt: "quit")
    assert main(["play", "--from", str(toy_run), "--at", at]) == 0
    out = capsys.readouterr().out
    assert record["steps"][2]["observation"] in out
    assert [f"> {step['action']}" in out for step in record["steps"]][:2] == [True, True]
    assert "otherwise than" not in out


def test_the_page_prints_that_command(view, toy_run):
    server = view(toy_run)
    group = server.api("iteration", run="run", iteration=1)["groups"][0]
    place = {"iteration": 1, "group": group["group"], "member": group["members"][0]["member"], "step": 1}
    words = shlex.split(server.api("step", run="run", **place)["step"]["play"])
    assert words == ["stapo", "play", "--from", str(toy_run), "--at", f"1/{place['group']}/{place['member']}/1"]


@pytest.mark.parametrize(
    "args, said",
    [
        (["--at", "1/0/0/0"], "--at is for --from RUN"),
        (["--from", "{run}"], "expected iteration/group/member/step"),
        (["--from", "{run}", "--at", "1/0/0"], "expected iteration/group/member/step"),
        (["--from", "{run}", "--at", "77/0/0/0"], "no transcript of iteration 77. Take one of: 1, 2"),
        (["--from", "{run}", "--at", "1/0/0/99"], "no step 99"),
        (["--from", "{run}", "--at", "1/0/0/0", "--seed", "3"], "brings its own seed"),
    ],
)
def test_wrong_places(toy_run, capsys, args, said):
    assert main(["play", *(arg.replace("{run}", str(toy_run)) for arg in args)]) == 2
    assert said in capsys.readouterr().err
