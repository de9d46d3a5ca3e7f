"""Filters, search, keyboard, comparisons of siblings and prompts, copies: in a real Chromium, on real runs."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import yaml

from stapo.run import RunDirectory
from stapo.run.rows import read_jsonl
from stapo.run.step_table import StepTable


@pytest.fixture
def table(runs):
    found = StepTable(runs / "toy")
    found.refresh()
    return found


def counted(page):
    page.locator("[data-count]").wait_for()
    return int(page.locator("[data-count]").get_attribute("data-count"))


def becomes(page, count):
    page.locator(f'[data-count="{count}"]').wait_for()


def records(runs):
    return [r for path in sorted((runs / "toy" / "transcripts").iterdir()) for r in read_jsonl(path)]


def test_filters_count_what_the_transcripts_hold(view, runs, page):
    steps = [(r, s) for r in records(runs) for s in r["steps"]]
    page.goto(f"{view(runs).url}#/run/toy/steps")
    assert counted(page) == len(steps)
    page.get_by_label("outcome").select_option("won")
    becomes(page, sum(r["won"] for r, _ in steps))
    page.get_by_label("task type").select_option("warm")
    becomes(page, sum(r["won"] and r["task_type"] == "warm" for r, _ in steps))
    assert "won=1" in page.url
    page.get_by_role("button", name="clear").click()
    becomes(page, len(steps))
    page.get_by_label("repeated").check()
    becomes(page, sum(s["repeated"] for _, s in steps))
    page.goto(f"{page.url.partition('?')[0]}?it=2..2&tokens=2..3")
    becomes(page, sum(r["iteration"] == 2 and 2 <= s["tokens"] <= 3 for r, s in steps))


def test_search_looks_into_observations_actions_and_responses(view, runs, page):
    text = "heard something odd"
    expected = sum(text in s["observation"] for r in records(runs) for s in r["steps"])
    assert expected > 0
    page.goto(f"{view(runs).url}#/run/toy/steps")
    counted(page)
    page.keyboard.press("/")
    page.keyboard.type(text.upper())
    page.keyboard.press("Enter")
    becomes(page, expected)


def test_dragging_over_a_histogram_filters(view, runs, page, table):
    page.goto(f"{view(runs).url}#/run/toy/steps")
    everything = counted(page)
    chart = page.locator(".hist svg").nth(1)
    box = chart.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 1, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, y, steps=4)
    page.mouse.up()
    page.wait_for_url("**tokens=*")
    low, high = page.url.partition("tokens=")[2].split("..")
    assert low == ""
    tokens = table.columns["tokens"]
    becomes(page, int((tokens <= float(high)).sum()))
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] + 40, y, steps=4)
    page.mouse.up()
    page.wait_for_url("**tokens=*..")
    becomes(page, int((tokens >= float(page.url.partition("tokens=")[2].partition("..")[0])).sum()))
    page.locator(".hist").nth(1).get_by_role("button", name="all").click()
    becomes(page, everything)


def test_the_keyboard_walks_through_a_selection(view, runs, page, until, table):
    page.goto(f"{view(runs).url}#/run/toy/steps?won=1&sort=-entropy")
    rows = [row for row in range(table.rows) if table.columns["won"][row] == 1]
    rows.sort(key=lambda row: (-table.columns["entropy"][row], row))
    assert counted(page) == len(rows)
    page.locator(".list a").first.click()

    def place(row):
        at = {name: int(table.columns[name][row]) for name in ("iteration", "group", "member", "step")}
        return "**/it/{iteration}/g/{group}/m/{member}/s/{step}?won=1*".format(**at)

    page.wait_for_url(place(rows[0]))
    page.get_by_text(f"1 of {len(rows)} selected steps").wait_for()
    page.keyboard.press("n")
    page.wait_for_url(place(rows[1]))
    page.get_by_text(f"2 of {len(rows)} selected steps").wait_for()
    page.keyboard.press("p")
    page.wait_for_url(place(rows[0]))
    page.goto(f"{page.url.partition('/it/')[0]}/steps?sort=-entropy")
    counted(page)
    page.locator(".list a").nth(1).click()
    page.get_by_text(f"2 of {table.rows} selected steps").wait_for()
    page.keyboard.press("?")
    page.get_by_role("heading", name="Keyboard").wait_for()
    page.keyboard.press("Escape")
    page.goto(page.url.partition("/it/")[0] + "/it/1")
    page.locator(".group").first.wait_for()
    page.keyboard.press("N")
    page.wait_for_url("**/it/2")
    page.keyboard.press("f")
    page.wait_for_url("**/steps")
    until(page, "document.activeElement.matches('[data-filter]')")


def test_siblings_stand_in_common_rows(view, runs, page):
    group = view_group(records(runs))
    page.goto(f"{view(runs).url}#/run/toy/it/1/g/{group[0]['group']}")
    page.locator(".aligned tbody tr").first.wait_for()
    # All members begin in one state: the first row has a step of each, and tells who won with which action.
    first = page.locator(".aligned tbody tr").first
    assert first.locator("a.act").count() == len(group)
    ways = {}
    for record in group:
        ways.setdefault(record["steps"][0]["action"], []).append(record["won"])
    assert first.locator(".ways li").count() == (len(ways) if len(ways) > 1 else 0)
    assert page.locator(".aligned a.act").count() == sum(len(record["steps"]) for record in group)


def view_group(found):
    first = next(r["group"] for r in found if r["iteration"] == 1)
    return [r for r in found if r["iteration"] == 1 and r["group"] == first]


def test_a_state_lists_its_visits(view, runs, page):
    group = view_group(records(runs))
    state = group[0]["steps"][0]["anchor_group"]
    visits = [s for r in group for s in r["steps"] if s["anchor_group"] == state]
    page.goto(f"{view(runs).url}#/run/toy/it/1/g/{group[0]['group']}/a/{state}")
    page.get_by_role("heading", name=f"State {state}: {len(visits)} visits").wait_for()
    actions = page.locator("table").first.locator("tbody tr")
    assert actions.count() == len({s["action"] for s in visits})
    assert page.locator(".ebar .other").count() == sum(s["normalized_entropy"] is not None for s in visits)


def test_prompts_are_compared_and_rebuild_both(view, runs, page):
    record = view_group(records(runs))[0]
    step = record["steps"][-1]
    page.goto(f"{view(runs).url}#/run/toy/it/1/g/{record['group']}/m/{record['member']}/s/{step['step']}")
    page.locator("pre.diff").wait_for()
    parts = page.evaluate("[...document.querySelector('pre.diff').childNodes].map(n => [n.nodeName, n.textContent])")
    full = "".join(text for name, text in parts if name != "INS")
    blind = "".join(text for name, text in parts if name != "DEL")
    assert step["prompt"] in full
    assert step["blind_prompt"] in blind
    assert any(name == "DEL" for name, _ in parts)


def test_a_step_is_copied_and_a_selection_exported(view, runs, page):
    record = view_group(records(runs))[0]
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    server = view(runs)
    page.goto(f"{server.url}#/run/toy/it/1/g/{record['group']}/m/{record['member']}/s/1")
    page.get_by_text("Play from here").wait_for()
    page.keyboard.press("c")
    page.get_by_text("copied", exact=True).wait_for()
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert copied["action"] == record["steps"][1]["action"]
    assert copied["task_id"] == record["task_id"]
    page.goto(f"{server.url}#/run/toy/steps?it=1..1")
    expected = sum(len(r["steps"]) for r in records(runs) if r["iteration"] == 1)
    becomes(page, expected)
    with page.expect_download() as download:
        page.get_by_role("button", name="Export as JSONL").click()
    lines = [json.loads(line) for line in download.value.path().read_text(encoding="utf-8").splitlines()]
    assert len(lines) == expected
    assert lines[0]["prompt"] == records(runs)[0]["steps"][0]["prompt"]


def test_two_runs_over_each_other(view, runs, page):
    shutil.copytree(runs / "toy", runs / "other")
    config = yaml.safe_load((runs / "other" / "config.yaml").read_text())
    config["optim"]["learning_rate"] = 0.123
    (runs / "other" / "config.yaml").write_text(yaml.safe_dump(config))
    page.goto(view(runs).url)
    page.get_by_label("choose toy").check()
    page.get_by_label("choose other").check()
    page.get_by_role("link", name="Overlay 2 runs").click()
    row = page.locator("tr", has_text="optim.learning_rate")
    row.wait_for()
    assert "0.123" in row.inner_text()
    assert page.locator("tbody tr").count() == 1
    assert page.locator("#overlay-success .line").count() == 2
    before = page.locator("#overlay-success .dot").count()
    run = RunDirectory(runs / "other")
    run.append("metrics", {**run.rows("metrics")[-1], "iteration": 3})
    page.locator("#overlay-success .dot").nth(before).wait_for()
    chart = page.locator("#overlay-success svg")
    box = chart.bounding_box()
    chart.click(position={"x": box["width"] - 20, "y": box["height"] / 2})
    page.wait_for_url("**/it/2")


def test_flags_for_other_settings_agree_with_the_library(view, runs, page, table):
    from stapo.algo import OutlierConfig, select_outliers
    from stapo.config.run_config import read_run_config

    (batch,) = table.batch(2).values()
    own = read_run_config(RunDirectory(runs / "toy")).algorithm.outlier
    page.goto(f"{view(runs).url}#/run/toy/whatif/2")
    page.get_by_text("H_n computed here agrees").wait_for()
    known = ~(batch.entropy_b != batch.entropy_b)
    groups = [batch.entropy_b[batch.anchor_b == anchor] for anchor in np.unique(batch.anchor_b)]
    half = round(float(np.median([group.std(ddof=1) for group in groups if len(group) > 1])), 3)
    for lam, sides, floor in ((0.5, "both", 0.0), (0.25, "high", 0.0), (0.25, "low", half)):
        page.get_by_label("lambda").fill(str(lam))
        page.get_by_label("side").select_option(sides)
        page.get_by_label("minimum standard deviation").fill(str(floor))
        config = OutlierConfig(lam=lam, sides=sides, min_std=floor, n_min=own.n_min, singleton=own.singleton)
        entropy = [float(value) if here else 0.0 for value, here in zip(batch.entropy_b, known, strict=True)]
        found = select_outliers(entropy, batch.anchor_b, known, config)
        assert (found.included < known.sum()) == (floor > 0)
        row = page.locator("tr", has_text="chosen here")
        row.locator(f'[data-high="{int(found.high_b.sum())}"]').wait_for()
        row.locator(f'[data-low="{int(found.low_b.sum())}"]').wait_for()
    assert page.get_by_text("its own flags are others").count() == 0


def test_what_if_says_that_a_control_flags_otherwise(view, runs, page):
    path = runs / "toy" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["algorithm"]["outlier"]["select"] = "random"
    path.write_text(yaml.safe_dump(config))
    page.goto(f"{view(runs).url}#/run/toy/whatif/2")
    page.get_by_text("This run has outlier.select 'random'").wait_for()


def test_tokens_have_their_numbers(view, runs, page):
    record = view_group(records(runs))[0]
    page.goto(f"{view(runs).url}#/run/toy/it/1/g/{record['group']}/m/{record['member']}/s/0")
    page.locator(".token").first.wait_for()
    step = record["steps"][0]
    assert page.locator(".token").count() == step["tokens"]
    shown = "".join(t for t in page.locator(".token").all_text_contents() if t != "·")
    assert shown == step["response"]
    page.get_by_label("log-probability").check()
    assert "log-probability" in page.locator(".token").first.get_attribute("title")
