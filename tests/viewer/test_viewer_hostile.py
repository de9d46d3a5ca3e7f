"""Runs from others, damaged runs and runs that go on, in a real Chromium.

1. Hostile text is shown as text on every page, and the pages stay usable.
2. Texts, responses and trajectories beyond all measure cost their own length alone.
3. Damage is named, and the rest is there.
4. A run that a trainer is writing is followed without a reload, and is none the worse for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hostile_runs import SHOWN, with_a_huge_observation, with_hostile_texts, with_many_steps, with_many_tokens

from stapo.run import RunDirectory
from toy_world import toy_settings

TESTS = Path(__file__).resolve().parents[1]
TRAINER = (
    "import sys, toy_world; from stapo.cli.main import main; toy_world.register_toy(); sys.exit(main(sys.argv[1:]))"
)


def becomes(page, count):
    page.locator(f'[data-count="{count}"]').wait_for()


def first_place(server):
    """Address of the first group of iteration 1, and of its first member."""
    group = server.api("iteration", run="toy", iteration=1)["groups"][0]
    at = f"{server.url}#/run/toy/it/1/g/{group['group']}"
    return group, at, f"{at}/m/{group['members'][0]['member']}/s/0"


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_hostile_text_acts_on_no_page(view, runs, page):
    with_hostile_texts(runs / "toy")
    server = view(runs)
    group, place, step = first_place(server)
    anchor = group["members"][0]["steps"][0]["anchor_group"]
    for url in (f"{server.url}#/run/toy/steps", f"{server.url}#/run/toy/it/1", place, f"{place}/a/{anchor}", step):
        page.goto(url)
        page.locator("main :is(a, h2, p, pre, td)").filter(has_text=SHOWN[:40]).first.wait_for()
        assert page.locator("#app script, #app img").count() == 0
        assert "owned" not in page.title()
        assert "\u202e" not in page.locator("#app").inner_text()
        assert "\x1b" not in page.locator("#app").inner_text()


def test_hostile_text_can_be_chosen_and_searched(view, runs, page):
    with_hostile_texts(runs / "toy")
    steps = [
        s
        for path in sorted((runs / "toy" / "transcripts").iterdir())
        for line in path.open()
        for s in json.loads(line)["steps"]
    ]
    hostile = sum("<script>" in step["action"] for step in steps)
    assert 0 < hostile < len(steps)
    page.goto(f"{view(runs).url}#/run/toy/steps")
    becomes(page, len(steps))
    choice = page.get_by_label("stop reason")
    label = next(option for option in choice.locator("option").all_inner_texts() if "script" in option)
    choice.select_option(label=label)
    becomes(page, hostile)
    page.get_by_role("button", name="clear").click()
    page.get_by_role("searchbox").fill("<script>document.title")
    page.keyboard.press("Enter")
    becomes(page, hostile)


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_an_observation_of_ten_megabytes_is_cut_and_said_to_be(view, runs, page):
    with_a_huge_observation(runs / "toy")
    server = view(runs)
    _, place, step = first_place(server)
    page.goto(step)
    page.get_by_text("more characters in the transcript file").first.wait_for()
    assert len(page.locator("#app").inner_text()) < 500_000
    page.goto(place)
    page.locator(".act").first.wait_for()
    page.goto(f"{server.url}#/run/toy/steps?q=long%20long")
    becomes(page, 4)


def test_a_response_of_many_tokens_opens(view, runs, page):
    with_many_tokens(runs / "toy")
    page.goto(first_place(view(runs))[2])
    page.get_by_text("The first 4,000 tokens of the response are colored.").wait_for()
    page.get_by_role("heading", name="Full and trajectory-blind prompt").wait_for()
    assert len(page.locator(".tokens").inner_text()) == 200_000


@pytest.mark.slow
def test_a_trajectory_of_100_000_steps_is_filtered_and_opened(view, runs, page):
    with_many_steps(runs / "toy")
    (runs / "toy" / "transcripts" / "iteration-00002.jsonl").unlink()
    server = view(runs)
    page.goto(f"{server.url}#/run/toy/steps")
    becomes(page, 100_000)
    valid = json.loads((runs / "toy" / "transcripts" / "iteration-00001.jsonl").read_text())["steps"][0]["valid"]
    page.get_by_label("invalid").check()
    becomes(page, 0 if valid else 100_000)
    page.goto(f"{server.url}#/run/toy/it/1/g/0/m/0/s/7000")
    page.get_by_role("heading", name="Step 0").wait_for()
    page.get_by_role("heading", name="Numbers").wait_for()


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_damage_is_named_and_the_rest_is_there(view, runs, page):
    run = runs / "toy"
    summary = run / "steps.jsonl"
    lines = summary.read_bytes().splitlines(keepends=True)
    summary.write_bytes(lines[0][:100] + b"\n" + lines[1])
    path = run / "transcripts" / "iteration-00001.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:2]) + whole[2][:50])
    left = sum(len(json.loads(line)["steps"]) for line in whole[:2])
    left += sum(len(json.loads(line)["steps"]) for line in (run / "transcripts" / "iteration-00002.jsonl").open())
    server = view(runs)
    page.goto(f"{server.url}#/run/toy/steps")
    becomes(page, left)
    page.get_by_text("steps.jsonl, row 1, is damaged").wait_for()
    page.get_by_text("iteration-00001.jsonl ends within a line").wait_for()
    _, _, step = first_place(server)
    page.goto(step)
    page.get_by_role("heading", name="Numbers").wait_for()


def test_odd_numbers_of_tokens_and_prompts_cost_themselves_alone(view, runs, page):
    path = runs / "toy" / "transcripts" / "iteration-00001.jsonl"
    records = [json.loads(line) for line in path.open()]
    for record in records:
        record["frame"] = 7
        record["steps"][0]["per_token"] = {"characters": "?"}
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    _, _, step = first_place(server := view(runs))
    page.goto(step)
    page.get_by_text("the scored prompts of step 0 cannot be read").wait_for()
    page.get_by_role("heading", name="Numbers").wait_for()
    assert server.api("step", run="toy", iteration=1, group=0, member=0, step=0)["step"]["response"]


# -- 4 -----------------------------------------------------------------------------------------------------------------


def test_a_run_that_is_cut_back_is_shown_as_it_is_then(view, runs, page):
    run = RunDirectory(runs / "toy")
    run.write_info({**run.info(), "status": "running"})
    counts = [sum(row["trajectories"]["steps"]) for row in run.rows("steps")]
    with run.lock():
        page.goto(f"{view(runs).url}#/run/toy/steps")
        becomes(page, sum(counts))
        metrics = run.rows("metrics")
        (run.path / "steps.jsonl").write_bytes((run.path / "steps.jsonl").read_bytes().splitlines(keepends=True)[0])
        (run.path / "transcripts" / "iteration-00002.jsonl").unlink()
        run.write_rows("metrics", metrics[:1])
        becomes(page, counts[0])


@pytest.mark.slow
def test_a_run_is_followed_while_a_trainer_writes_it(view, toy_model, tmp_path, page):
    settings = toy_settings(toy_model, optim__iterations=6, eval__at_start=False)
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-c", TRAINER, "train", str(tmp_path / "toy.yaml"), "--quiet", "--out"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(TESTS)])}
    alone = subprocess.run([*command, str(tmp_path / "alone")], env=env, capture_output=True, check=False)
    assert alone.returncode == 0, alone.stderr
    trainer = subprocess.Popen([*command, str(tmp_path / "runs" / "toy")], env=env)
    try:
        started = tmp_path / "runs" / "toy" / "run.json"
        while not started.exists():
            assert trainer.poll() is None
            page.wait_for_timeout(50)
        page.goto(f"{view(tmp_path / 'runs').url}#/run/toy/steps")
        page.get_by_text("running").first.wait_for()
        # No reload from here on.
        steps = sum(sum(row["trajectories"]["steps"]) for row in RunDirectory(tmp_path / "alone").rows("steps"))
        becomes(page, steps)
        page.locator(".status.done").wait_for()
        assert trainer.wait(300) == 0
    finally:
        trainer.kill()
        trainer.wait()
    files = ["steps.jsonl", *(f"transcripts/iteration-{i:05d}.jsonl" for i in range(1, 7))]
    for name in files:
        assert (tmp_path / "runs" / "toy" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
