"""The pages in a real Chromium, on a real run: what a reader does, and what live runs add."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stapo.run import RunDirectory

CONTRAST = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")


def test_from_the_list_to_a_step(view, runs, page):
    server = view(runs)
    page.goto(server.url)
    page.get_by_role("link", name="toy").click()
    page.get_by_role("heading", name="stapo on toy").wait_for()
    assert page.locator("figure .line").count() > 10
    # A click on a point of a curve opens the rollouts of its iteration.
    chart = page.locator("#plot-success svg").first
    box = chart.bounding_box()
    chart.click(position={"x": box["width"] - 20, "y": box["height"] / 2})
    page.wait_for_url("**/#/run/toy/it/2")
    groups = page.locator(".group")
    groups.first.wait_for()
    iteration = server.api("iteration", run="toy", iteration=2)
    assert groups.count() == len(iteration["groups"])
    groups.first.get_by_role("link").first.click()
    members = page.locator(".aligned thead th")
    members.first.wait_for()
    group = iteration["groups"][0]
    assert members.count() == 1 + len(group["members"])
    member = group["members"][1]["member"]
    page.locator(f'.aligned a.act[href$="/m/{member}/s/2"]').click()
    page.get_by_role("heading", name="Step 2").wait_for()
    place = {"iteration": 2, "group": group["group"], "member": member, "step": 2}
    scored = server.api("step", run="toy", **place)["step"]["scored"]
    page.get_by_label("side by side").check()
    shown = page.locator(".even pre.text").all_text_contents()
    assert shown == [scored["full"], scored["blind"]]


def test_a_deep_link_opens_a_step(view, runs, page):
    server = view(runs)
    group = server.api("iteration", run="toy", iteration=1)["groups"][0]
    page.goto(f"{server.url}#/run/toy/it/1/g/{group['group']}/m/{group['members'][0]['member']}/s/1")
    page.get_by_role("heading", name="Step 1").wait_for()


def test_new_iterations_appear_without_a_reload(view, runs, page):
    run = RunDirectory(runs / "toy")
    run.write_info({**run.info(), "status": "running"})
    server = view(runs)
    with run.lock():
        page.goto(f"{server.url}#/run/toy")
        page.locator(".status.running").wait_for()
        page.get_by_text("the newest, 2").wait_for()
        records = [json.loads(line) for line in run.transcripts()[-1].read_text().splitlines()]
        run.write_rows("transcripts/iteration-00003", [record | {"iteration": 3} for record in records])
        run.append("metrics", {**run.rows("metrics")[-1], "iteration": 3})
        page.get_by_role("link", name="the newest, 3").click()
        page.locator(".group").first.wait_for()


def test_hostile_text_is_text(view, runs, page):
    transcript = sorted((runs / "toy" / "transcripts").iterdir())[0]
    record = json.loads(transcript.read_text().splitlines()[0])
    hostile = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u202ecod"
    record |= {"goal": hostile, "task_type": hostile, "task_id": hostile, "stop_reason": hostile}
    for step in record["steps"]:
        step |= dict.fromkeys(("observation", "action", "response", "prompt", "blind_prompt", "problem"), hostile)
    transcript.write_text(json.dumps(record) + "\n")
    server = view(runs)
    at = server.api("run", run="toy")["transcripts"][0]
    place = f"{server.url}#/run/toy/it/{at}"
    group = f"{place}/g/{record['group']}"
    for url in (place, group, f"{group}/m/{record['member']}/s/0"):
        page.goto(url)
        page.get_by_text("<script>document.title='owned'</script>").first.wait_for()
        page.get_by_text(r"\u{202e}cod").first.wait_for()
        assert page.locator("#app script, #app img").count() == 0
        assert "owned" not in page.title()


def test_a_step_that_did_not_fit_on_the_page_opens(view, runs, page, monkeypatch):
    from stapo.viewer import rollouts

    monkeypatch.setattr(rollouts, "_MOST_STEPS", 4)
    server = view(runs)
    record = json.loads(RunDirectory(runs / "toy").transcripts()[0].read_text().splitlines()[-1])
    page.goto(f"{server.url}#/run/toy/it/1/g/{record['group']}/m/{record['member']}/s/1")
    page.get_by_role("heading", name="Step 1").wait_for()
    page.get_by_role("link", name=record["goal"]).wait_for()
    page.get_by_text(f"step 2 of {len(record['steps'])}").wait_for()
    page.keyboard.press("n")
    page.wait_for_url("**/s/2")


def test_a_wrong_address_says_so(view, runs, page):
    server = view(runs)
    page.goto(f"{server.url}#/run/nope")
    page.get_by_text("there is no run 'nope' here").wait_for()
    assert all("404" in text for text in page.said)
    page.said.clear()


def test_the_token_comes_with_the_address(view, runs, page):
    server = view(runs, token="sesame")
    page.goto(f"{server.url}#token=sesame")
    page.get_by_role("link", name="toy").wait_for()
    assert "sesame" not in page.url


def every_page(server):
    group = server.api("iteration", run="toy", iteration=1)["groups"][0]
    steps = group["members"][0]["steps"]
    place = f"#/run/toy/it/1/g/{group['group']}"
    own = ("", "/it/1", "/steps", "/steps?flag=any", "/whatif/1", "/diagnosis", "/settings")
    inside = ("", f"/m/{group['members'][0]['member']}/s/0", f"/a/{steps[0]['anchor_group']}")
    return ["#/", "#/overlay/toy/other", *(f"#/run/toy{path}" for path in own), *(place + path for path in inside)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_400_pixels_and_has_contrast(view, runs, page, until, scheme):
    shutil.copytree(runs / "toy", runs / "other")
    server = view(runs)
    page.set_viewport_size({"width": 400, "height": 800})
    page.emulate_media(color_scheme=scheme)
    for path in every_page(server):
        page.goto(server.url + path)
        until(page, "document.querySelector('main :is(table, pre, figure, .group, .none)')")
        until(page, "document.documentElement.scrollWidth <= 400")
        assert page.evaluate(CONTRAST) == [], path


def test_every_page_works_from_the_keyboard(view, runs, page, until):
    """A curve opens its iteration with arrow keys and Enter; what scrolls can be reached; what is used has a name."""
    server = view(runs)
    page.goto(f"{server.url}#/run/toy")
    chart = page.locator("#plot-success svg").first
    chart.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.wait_for_url("**/it/1")
    for path in every_page(server):
        page.goto(server.url + path.replace("/other", "/toy"))
        until(page, "document.querySelector('main :is(table, pre, figure, .group, .none)')")
        scrolling = "[...document.querySelectorAll('#app :is(.list, .aligned, pre.text)')]"
        assert page.evaluate(f"{scrolling}.filter(e => e.tabIndex < 0).length") == 0, path
        unnamed = "[...document.querySelectorAll('#app :is(a, button, input, select, [role=img], [role=region])')]"
        named = "e.ariaLabel || e.textContent.trim() || e.labels?.length"
        assert page.evaluate(f"{unnamed}.filter(e => !({named})).map(e => e.outerHTML)") == [], path
