"""Which trajectories are shown, and how their text and numbers are prepared."""

from __future__ import annotations

import re

import pytest
from report_rows import step, trajectory

from slow import slow_except
from stapo.html.pages import prompt_lines, readable
from stapo.report import write_report
from stapo.report.data import read_run
from stapo.report.trajectories import Selection, evenly_spaced, place, select_trajectories
from stapo.texts import escape_control_chars


def choose(run, budget: int) -> Selection:
    return select_trajectories(read_run(run), [], budget)


def long_trajectory(iteration: int, member: int = 0, *, steps: int = 10, prompt: int = 4000) -> dict:
    rows = [step(k, prompt="p" * prompt, blind_prompt="b" * prompt) for k in range(steps)]
    rows[3]["outlier"] = "high"
    return trajectory(iteration, member=member, steps=rows)


def test_small_transcripts_are_shown_in_full(make_run):
    chosen = choose(make_run(), 10**6)
    assert [(g.iteration, g.prompts, len(g.members)) for g in chosen.groups] == [(1, "all", 2), (3, "all", 2)]
    assert chosen.note == ""


def test_prompts_go_before_trajectories_do(make_run):
    run = make_run(transcripts={i: [long_trajectory(i, m) for m in range(2)] for i in (1, 2, 3)})
    # 60 steps of 8 000 characters of prompts and 1 500 of markup; 6 of them are flagged.
    full, flagged, none = choose(run, 700_000), choose(run, 170_000), choose(run, 120_000)
    assert {g.prompts for g in full.groups} == {"all"}
    assert {g.prompts for g in flagged.groups} == {"flagged"}
    assert "prompts are left out except at flagged steps" in flagged.note
    assert {g.prompts for g in none.groups} == {"none"}
    assert [len(c.groups) for c in (full, flagged, none)] == [3, 3, 3]


def test_then_the_middle_goes_and_both_ends_stay(make_run):
    run = make_run(transcripts={i: [long_trajectory(i, m) for m in range(2)] for i in range(1, 6)})
    chosen = choose(run, 75_000)  # about two groups of two
    assert [g.iteration for g in chosen.groups] == [1, 5]
    assert "3 task groups did not fit" in chosen.note
    assert "transcripts folder" in chosen.note


def test_a_group_that_is_too_large_loses_siblings_but_never_all(make_run):
    run = make_run(transcripts={1: [long_trajectory(1, m) for m in range(8)]})
    (group,) = choose(run, 50_000).groups
    assert (len(group.members), group.left_out) == (3, 5)
    (group,) = choose(run, 1).groups
    assert (len(group.members), group.left_out) == (1, 7)


def test_many_files_are_thinned_to_both_ends_and_some_between(make_run):
    run = make_run(transcripts={i: [trajectory(i)] for i in range(10, 310, 10)})
    chosen = choose(run, 10**7)
    assert [g.iteration for g in chosen.groups] == [10, 70, 130, 180, 240, 300]
    assert "of 30 transcript files 6 can be seen" in chosen.note
    assert evenly_spaced([], 6) == []


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("prompt", slow_except([100, 3_000, 40_000], 3_000))
def test_the_page_stays_under_five_megabytes(make_run, prompt):
    records = [long_trajectory(i, m, steps=40, prompt=prompt) for i in (1,) for m in range(32)]
    page = write_report(make_run(transcripts={i: [r | {"iteration": i} for r in records] for i in range(1, 8)}))
    assert page.stat().st_size < 4_400_000  # plots add less than half a megabyte
    assert "transcripts folder" in page.read_text(encoding="utf-8")


@pytest.mark.usefixtures("no_plots")
def test_a_step_shows_its_numbers_and_both_prompts(make_run):
    text = write_report(make_run()).read_text(encoding="utf-8")
    first = text[text.index('id="t1-0-0-1"') :]
    first = re.sub(r"<[^>]*>", " ", first[: first.index("</li>")])
    for shown in ("A +0.35", "A_E +0.25", "A_S +0.10", "H 0.8", "H_n +3.10", "anchor 1", "2 steps", "3 tokens",
                  "high-entropy outlier", "return 0.9", "trajectory-blind prompt", "goal reach the exit"):  # fmt: skip
        assert shown in re.sub(r"\s+", " ", first), shown
    assert "<mark>goal reach the exit</mark>" in text
    assert "<mark>now cell 1</mark>" not in text
    # Fences -2.55 and 2.65 and the value 3.1 on a bar from -4 to 4.
    assert "--lo:18.1%;--hi:83.1%" in text
    assert "left:88.8%" in text


def test_what_the_blind_prompt_lacks_is_marked():
    lines = prompt_lines({"prompt": "goal g\nnow o\n>", "blind_prompt": "now o\n>"})
    assert lines == [("goal g", True), ("now o", False), (">", False)]
    assert prompt_lines({"prompt": None}) == []


@pytest.mark.parametrize("value, expected", [(-9.0, 0.0), (-4.0, 0.0), (0.0, 50.0), (1.0, 62.5), (99.0, 100.0)])
def test_place_on_the_bar(value, expected):
    assert place(value) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("\x1b[31m", "\\u{1b}[31m"),
        ("a\u202eb", "a\\u{202e}b"),
        ("\ud800", "\\u{d800}"),
        ("中文 e\u0301 👩\u200d🚀\xa0", "中文 e\u0301 👩\u200d🚀\xa0"),
        ("\r\x85", "\\u{d}\\u{85}"),
    ],
)
def test_hidden_characters_become_visible(text, expected):
    assert escape_control_chars(text) == expected


def test_endless_text_is_cut():
    shown = readable("x" * 30_000)
    assert shown.startswith("x" * 20_000 + "… (10,000 more characters")
    assert readable(None) == ""
