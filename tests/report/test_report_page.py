"""The page as a whole: self-contained, safe, the same every time, and there whatever the run lacks."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import math
import random
import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import pytest
from markupsafe import Markup
from matplotlib.figure import Figure
from report_rows import EVALS, eval_row, metrics_row, step, trajectory

from slow import slow_except
from stapo.errors import RunDirectoryError
from stapo.html import drawing
from stapo.report import write_report
from stapo.run import RunDirectory

VOID = {"meta", "br", "hr", "img", "input", "link"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></pre></details><b>bold</b>",
    "{{ 7 * 7 }}{% raw %}",
    "<!-- -->&lt;&#60;",
    "\u202egnp.exe\u202c\u200f",
    "\x00\x07\x1b[31mred\x1b[0m",
    "\ud800 lone surrogate \udfff",
    "𝕬 👩‍🚀 e\u0301 中文 עברית",
    "javascript:alert(1)",
    "' onmouseover='alert(1)",
]


class Page(HTMLParser):
    """Collects tags and checks that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.stack, tag
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def words(self) -> str:
        return " ".join("".join(self.text).split()).replace("\N{NARROW NO-BREAK SPACE}", " ")


def page_of(run: RunDirectory) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def test_the_page_is_valid_and_needs_nothing_from_outside(make_run):
    text = write_report(make_run()).read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags["link"] == page.tags["iframe"] == page.tags["img"] == 0
    assert page.tags["script"] == 1
    for tag, name, value in page.attributes:
        assert name not in ("src", "srcset", "action", "data", "background"), (tag, name)
        if name.endswith("href"):
            assert value is not None
            assert value.startswith("#"), (tag, value)
        assert not name.startswith("on"), (tag, name)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    ids = Counter(value for _, name, value in page.attributes if name == "id")
    assert [i for i, n in ids.items() if n > 1] == []
    targets = {value[1:] for _, name, value in page.attributes if name.endswith("href") and value}
    assert targets <= set(ids)


def test_the_policy_allows_this_script_and_no_other(make_run):
    text = write_report(make_run()).read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script.group(1).encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("text", HOSTILE)
def test_foreign_text_never_becomes_markup(make_run, text, config):
    harmless = write_report(make_run(transcripts={1: [_with_text("plain")]}, evals=[], config=config))
    expected = Page(harmless.read_text(encoding="utf-8")).tags
    harmless.unlink()
    run = RunDirectory(harmless.parent)
    (run.path / "transcripts" / "iteration-00001.jsonl").unlink()
    run.append("transcripts/iteration-00001", _with_text(text))
    page = page_of(run)
    page.tags["mark"] = expected["mark"]  # one mark per line, and some of these texts have other line ends
    assert page.tags == expected
    raw = (run.path / "report.html").read_text(encoding="utf-8")
    for forbidden in ("\x00", "\x1b", "\u202e", "\u200f", "\ud800"):
        assert forbidden not in raw


ODD: list[Any] = [
    7,
    -1,
    "x",
    [],
    {},
    {"a": {"b": 1}},
    None,
    True,
    math.inf,
    10**400,
    [["x"]],
    "\ud800",
    [None, 1],
    1e308,
]


def _changed(row: Any, rng: random.Random) -> Any:
    """The row with about one value in ten, at any depth, replaced by one of another type or size."""
    if rng.random() < 0.1:
        return copy.deepcopy(rng.choice(ODD))
    if isinstance(row, dict):
        return {key: _changed(value, rng) for key, value in row.items()}
    return [_changed(value, rng) for value in row] if isinstance(row, list) else row


@pytest.mark.usefixtures("unsaved")
@pytest.mark.parametrize("seed", range(4))
def test_rows_with_values_of_other_types_are_a_page_all_the_same(make_run, seed):
    rng = random.Random(seed)
    metrics = [_changed(metrics_row(i), rng) for i in (1, 2, 3)]
    evals = [_changed(eval_row(i, "greedy", 0.5), rng) for i in (0, 3)]
    siblings = {i: [_changed(trajectory(i, member=m), rng) for m in range(3)] for i in (1, 2)}
    page = page_of(make_run(metrics=metrics, evals=evals, transcripts=siblings))
    assert "Trajectories" in page.words()


def test_a_negative_error_and_a_type_in_the_place_of_types(make_run):
    wrong = {**eval_row(3, "greedy", 0.5), "success_standard_error": -1.0}
    metrics = [{**metrics_row(i), "success_by_type": "x", "stop_reasons": [1], "seconds": 7} for i in (1, 2)]
    odd = [trajectory(1, steps=[7]), trajectory(1, member="a"), trajectory(1, steps=[step(0, outlier={"a": 1})])]
    run = make_run(metrics=metrics, evals=[eval_row(0, "greedy", 0.5), wrong], transcripts={1: odd})
    assert "iteration-00001.jsonl holds 2 records of another form" in page_of(run).words()


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("password", ["hunter2", "p/w?d", "a b'c", "x@y#z"])
def test_a_password_that_an_older_run_holds_is_blanked(make_run, config, password):
    address = f"http://user:{password}@host:8000/search"
    config["env"]["options"] = {"retriever": address, "more": {"of": [f"see {address}"]}}
    run = make_run(config=config)
    info = json.loads((run.path / "run.json").read_text())
    info["command"] = ["stapo", "train", "--env.retriever", address]
    (run.path / "run.json").write_text(json.dumps(info))
    page = page_of(run)
    assert "host:8000/search" in page.words()
    assert "retriever: http://***@host" in page.words()
    assert password not in page.words()
    assert "user:" not in page.words()


def _with_text(text: str) -> dict:
    texts = dict.fromkeys(("observation", "prompt", "blind_prompt", "action", "problem"), text)
    foreign = step(0, **texts, response=f"{text} and more", valid=False, outlier="low")
    return trajectory(1, task_id=text, task_type=text, goal=text, stop_reason=text, steps=[foreign])


@pytest.mark.slow
def test_hostile_names_of_types_modes_and_settings(make_run, config):
    types = dict.fromkeys([*HOSTILE, "_hidden", "a$b$c"], 0.5)
    config["env"]["name"] = config["algorithm"]["name"] = "".join(HOSTILE).replace("\ud800", "").replace("\udfff", "")
    by_type = {name: {"episodes": 3, "success": 0.5} for name in types}
    evals = [eval_row(0, text, 0.5) | {"by_type": by_type, "protocol": text} for text in HOSTILE]
    page = page_of(make_run(metrics=[metrics_row(1) | {"success_by_type": types}], evals=evals, config=config))
    assert page.tags["script"] == 1
    assert page.tags["img"] == 0


@pytest.mark.usefixtures("no_plots")
def test_a_response_with_a_script_is_shown_as_text(make_run):
    attack = "<script>alert(1)</script>"
    run = make_run(transcripts={1: [trajectory(1, steps=[step(0, response=attack)])]})
    text = write_report(run).read_text(encoding="utf-8")
    assert attack not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_the_same_run_gives_the_same_page(make_run):
    run = make_run()
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert not list(run.path.glob("*.tmp"))


@pytest.mark.usefixtures("unsaved")
@pytest.mark.parametrize("status", ["running", "stopped", "failed", "done", "something new"])
def test_a_run_without_anything_has_a_page(make_run, status):
    words = page_of(make_run(empty=True, evals=None, status=status)).words()
    assert "No iteration was logged yet" in words
    assert "No transcript was written" in words
    assert "No evaluation was logged" in words
    assert "no SFT" in words


@pytest.mark.usefixtures("no_plots")
def test_an_interrupted_run_says_so_and_names_the_last_short_evaluation(make_run):
    run = make_run(evals=EVALS[:3], metrics=[metrics_row(1), metrics_row(2)], status="running")
    run.finish("stopped", reason="interrupted")
    words = page_of(run).words()
    assert "for 2 of 3 iterations" in words
    assert "The run was stopped by hand before its end. Reason: interrupted" in words
    assert (
        "Success in sampled play was 10.0 ± 3.0 % before RL; the evaluation after RL is missing, the last short"
        in words
    )
    assert "after 2 iterations, gave 30.0 ± 10.2 %" in words


@pytest.mark.usefixtures("no_plots")
def test_the_words_carry_the_key_numbers(make_run):
    words = page_of(make_run()).words()
    assert (
        "stapo trained a small model after 20 supervised steps on maze (split 'train', seed 3) for 3 iterations"
        in words
    )
    assert "of 2 task groups × 2 attempts" in words
    # 0.108 -> 0.500 with 102 episodes each: (0.5 - 0.1) / sqrt(.108 * .892 / 102 + .5 * .5 / 102) = 6.9
    assert "from 10.0 ± 3.0 % to 50.0 ± 5.0 %, a gain of 6.9 standard errors" in words
    assert "from 20.0 ± 4.0 % to 22.0 ± 4.1 %, a change within the noise (0.3 standard errors)" in words
    assert "100 episodes of split 'heldout', sampled" in words
    assert "stapo train 'a b'" in words


@pytest.mark.usefixtures("unsaved")
@pytest.mark.parametrize("key", slow_except(sorted(metrics_row(1)), *sorted(metrics_row(1))[::9]))
def test_no_part_of_a_metrics_row_is_needed(make_run, key):
    rows = [metrics_row(i) for i in (1, 2, 3)]
    del rows[0][key]
    rows[1][key] = None
    assert page_of(make_run(metrics=rows, transcripts={})).tags["figure"] == 18
    assert page_of(make_run(metrics=rows[:2], transcripts={})).tags["figure"] == 18


@pytest.mark.usefixtures("unsaved")
def test_rows_full_of_nulls(make_run):
    def hollow(value):
        if isinstance(value, dict):
            return {k: hollow(v) for k, v in value.items()}
        return [hollow(v) for v in value] if isinstance(value, list) else None

    metrics = [hollow(metrics_row(1)) | {"iteration": 1}]
    evals = [hollow(eval_row(0, "sampled", 0.1)) | {"iteration": 0, "mode": "sampled"}]
    record = hollow(trajectory(1))
    page = page_of(make_run(metrics=metrics, evals=evals, transcripts={1: [record]}, sft=[{"step": None}]))
    assert page.tags["figure"] == 18


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("key", sorted({*trajectory(1), *step(0)} - {"steps"}))
def test_no_part_of_a_transcript_is_needed(make_run, key):
    record = trajectory(1)
    record.pop(key, None)
    for part in record["steps"]:
        part.pop(key, None)
    assert page_of(make_run(transcripts={1: [record]})).tags["li"] >= 3


@pytest.mark.usefixtures("unsaved")
def test_a_critic_is_drawn_where_there_was_one(make_run):
    values = ({"mean_value": 0.1 * i, "mean_target": 0.3, "explained_variance": 0.2 * i - 0.3} for i in (1, 2, 3))
    run = make_run(metrics=[metrics_row(i) | {"critic": row} for i, row in enumerate(values, start=1)])
    assert 'id="plot-critic"' in write_report(run).read_text()
    assert 'id="plot-critic"' not in write_report(make_run()).read_text()


@pytest.mark.usefixtures("unsaved")
def test_environments_and_named_rewards_are_drawn_where_there_are_any(make_run, monkeypatch):
    ids = ('id="plot-environments"', 'id="plot-rewards"')
    assert not any(i in write_report(make_run()).read_text() for i in ids)
    part = {"success": 0.5, "valid_actions": 1.0, "entropy": {"mean": 0.3}, "outlier": {"flagged_share": 0.02}}
    tidy = {"mean": 0.2, "std": 0.1, "advantage_share": 0.3}
    rewards = {"tidy": tidy, "a.b": {"mean": 1, "advantage_share": None}}
    rows = [metrics_row(i) | {"envs": {"shop": part, "home": 7}, "rewards": rewards} for i in (1, 2)]
    assert all(i in write_report(make_run(metrics=rows)).read_text() for i in ids)
    figures = {}

    def render(key, label, draw, *, panels=1):
        figures[key] = Figure().subplots(panels, 1, squeeze=False)[:, 0]
        draw(figures[key][0].figure, list(figures[key]))
        return Markup("<svg></svg>")

    monkeypatch.setattr(drawing, "render", render)
    write_report(make_run(metrics=rows))
    won, *_, flagged = figures["environments"]
    assert [(ln.get_label(), list(ln.get_ydata())) for ln in won.lines] == [("shop", [0.5, 0.5])]
    assert [list(ln.get_ydata()) for ln in flagged.lines] == [[0.02, 0.02]]
    mean, share = figures["rewards"]
    assert [(ln.get_label(), list(ln.get_ydata())) for ln in mean.lines] == [("a.b", [1, 1]), ("tidy", [0.2, 0.2])]
    assert [0.3, 0.3] in [list(ln.get_ydata()) for ln in share.lines]
    many = {f"reward {n:02}": tidy for n in range(14)}
    assert (
        "Of 14 names the first 12 are drawn" in page_of(make_run(metrics=[metrics_row(1) | {"rewards": many}])).words()
    )


@pytest.mark.slow
def test_one_iteration_is_enough_for_every_plot(make_run):
    page = page_of(make_run(metrics=[metrics_row(1)]))
    assert page.tags["svg"] == page.tags["figure"] == 18


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("name", ["metrics", "evals", "sft", "transcripts/iteration-00001"])
def test_damaged_files_are_named_and_the_rest_is_shown(make_run, name):
    run = make_run()
    path = run.path / f"{name}.jsonl"
    path.write_text(path.read_text() + "{broken}\n" + path.read_text())
    words = page_of(run).words()
    assert f"{path.name} is damaged (line " in words
    assert str(run.path) not in words


@pytest.mark.usefixtures("no_plots")
def test_a_line_that_is_still_being_written_is_left_out_silently(make_run):
    run = make_run()
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 4, "succ')
    assert "damaged" not in page_of(run).words()


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("text", ["[1, 2", "- a\n- b\n", "", "just text"])
def test_an_unreadable_configuration_costs_names_only(make_run, text):
    run = make_run()
    (run.path / "config.yaml").write_text(text)
    assert "config.yaml cannot be read" in page_of(run).words()


@pytest.mark.usefixtures("no_plots")
def test_an_unwritable_page_is_an_error_of_ours(make_run):
    run = make_run()
    (run.path / "report.html").mkdir()
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        write_report(run)


@pytest.mark.usefixtures("unsaved")
@pytest.mark.slow
def test_thousands_of_iterations_are_thinned(make_run):
    page = page_of(make_run(metrics=[metrics_row(i) for i in range(1, 3002)], transcripts={}))
    assert "Plots show every 4th iteration." in page.words()
    assert "for 3001 of 3 iterations" in page.words()


@pytest.mark.usefixtures("no_plots")
def test_an_environment_needs_no_types_and_any_evaluation_mode_is_shown(make_run):
    evals = [eval_row(0, "nucleus", 0.4) | {"by_type": {}}, eval_row(3, "nucleus", 0.1) | {"by_type": None}]
    words = page_of(make_run(evals=evals, metrics=[metrics_row(1) | {"success_by_type": {}}])).words()
    assert "nucleus, before" in words
    assert "a loss of" in words
    assert "got worse by" in words


@pytest.mark.usefixtures("no_plots")
def test_like_is_compared_with_like(make_run):
    later = eval_row(3, "sampled", 0.9, episodes=30)
    words = page_of(make_run(evals=[*EVALS, later])).words()
    assert "from 10.0 ± 3.0 % to 50.0 ± 5.0 %" in words
    words = page_of(make_run(evals=[EVALS[0], later])).words()
    assert "from 10.0 ± 3.0 % to 90.0 ± 5.5 %" in words


@pytest.mark.usefixtures("no_plots")
def test_a_run_that_was_gone_on_with_says_so(make_run):
    run = make_run()
    run.note_resume(["stapo", "train"], "000004", 2)
    run.note_resume(["stapo", "resume", "x"], "000009", 7)
    assert "2 times, after iteration 2, 7" in write_report(run).read_text()
    run.write_info({**run.info(), "resumed": "often"})
    assert "resumed" not in write_report(run).read_text()


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(
    "rows, columns",
    [
        ([(3, "sampled"), (3, "greedy")], ["sampled, after", "greedy, after"]),
        ([(0, "sampled")], ["sampled, before"]),
        ([(0, "sampled"), (3, "sampled"), (3, "greedy")], ["sampled, before", "after", "change", "greedy, after"]),
    ],
)
def test_what_was_not_evaluated_has_no_column(make_run, rows, columns):
    page = write_report(make_run(evals=[eval_row(when, mode, 0.5) for when, mode in rows])).read_text(encoding="utf-8")
    table = page.partition("Success before and after RL")[2].partition("</table>")[0]
    assert re.findall(r'<th scope="col">([^<]*)</th>', table) == ["task type", "episodes", *columns]
    assert table.partition("<tbody>")[2].partition("</tr>")[0].count("<td>") == 2 + len(columns)
