"""The pages in a real Chromium, on a real run: what a reader does, and what live runs add."""

from __future__ import annotations

import json

from stapo.run import RunDirectory


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
    members = page.locator(".member")
    members.first.wait_for()
    assert members.count() == len(iteration["groups"][0]["members"])
    members.nth(1).locator("a.act").nth(2).click()
    page.get_by_role("heading", name="Step 2").wait_for()
    group = iteration["groups"][0]
    place = {"iteration": 2, "group": group["group"], "member": group["members"][1]["member"], "step": 2}
    step = server.api("step", run="toy", **place)["step"]
    page.get_by_role("heading", name="trajectory-blind prompt").wait_for()
    shown = page.locator("pre.text").all_inner_texts()
    assert step["blind_prompt"].strip() in [text.strip() for text in shown]
    assert step["prompt"].strip() in [text.strip() for text in shown]


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


def test_a_narrow_page_fits(view, runs, page):
    server = view(runs)
    page.set_viewport_size({"width": 400, "height": 800})
    group = server.api("iteration", run="toy", iteration=1)["groups"][0]
    place = f"it/1/g/{group['group']}"
    for path in ("", "/it/1", f"/{place}", f"/{place}/m/0/s/0", "/settings"):
        page.goto(f"{server.url}#/run/toy{path}")
        page.locator("main").wait_for()
        page.wait_for_function("document.documentElement.scrollWidth <= 400")
