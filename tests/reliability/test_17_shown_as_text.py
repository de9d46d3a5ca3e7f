"""17, continued: the same 10,000 outputs, one by one.

1. Whether an output keeps the format is what an independent reading of the rules says; one that does not costs the
   documented penalty, and no other row.
2. Played as the collector plays them, with the outputs in memory and prompts, none is a failure of its episode.
3. Every one of them can be read in a report, character by character as `readable` spells it, and adds no tag and no
   attribute to what harmless outputs give; the page's only script is its own, the one that its policy names.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from test_17_malformed_model_output import COUNT, PROBLEMS, joined, outputs

import stapo
from stapo.agent import AgentConfig, Prompt, parse_response
from stapo.algo import get_algorithm
from stapo.html.pages import readable
from stapo.report import write_report
from stapo.rollout import Trajectory
from stapo.rollout.episode import Episode
from stapo.rollout.foreign_text import MarkerCounts
from stapo.rollout.sampler import Sample
from stapo.run import RunDirectory
from stapo.training.batch import build_batch
from stapo.training.metrics import rollout_metrics
from stapo.training.transcripts import write_transcript

PARTS = 10
"""Pages: a page holds some 1,500 steps."""
STAPO = get_algorithm("stapo")
ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


@pytest.fixture(scope="module")
def texts():
    return list(outputs())


# -- 1 -----------------------------------------------------------------------------------------------------------------


def names_a_tag(text):
    """Whether a think or action tag stands in the text: plain, closing, or with an attribute."""
    for piece in text.translate(ASCII_LOWER).split("<")[1:]:
        inside, closed, _ = piece.partition(">")
        inside = inside.lstrip(" \t").removeprefix("/").lstrip(" \t")
        for name in ("think", "action"):
            rest = inside.removeprefix(name)
            bare = rest.strip(" \t").removesuffix("/").strip(" \t") == ""
            if closed and rest != inside and (bare or (rest[0] in " \t" and "=" in rest)):
                return True
    return False


def keeps_the_format(text, response):
    """The documented rules, read with str.find instead of expressions."""
    if response == "action":
        bare = text.strip()
        return len(bare.splitlines()) == 1 and not names_a_tag(bare)
    low = text.translate(ASCII_LOWER)
    first, end = low.find("<action>"), low.find("</action>")
    if first < 0 or end < first + len("<action>") or "<think>" not in low or "</think>" not in low:
        return False
    return bool(text[first + len("<action>") : end].strip()) and not any("\u4e00" <= c <= "\u9fff" for c in text)


@pytest.mark.parametrize("response", PROBLEMS)
def test_validity_is_what_the_rules_say(texts, response):
    found = Counter()
    for text in texts:
        parsed = parse_response(text, response)
        assert parsed.valid == keeps_the_format(text, response), ascii(text[:200])
        found[parsed.valid] += 1
    assert min(found[True], found[False]) > 100


# -- 2 -----------------------------------------------------------------------------------------------------------------


class Table:
    """An encoder to which response i is the i-th text; every prompt has three tokens."""

    def __init__(self, said):
        self.said = said

    def encode(self, prompt):
        assert isinstance(prompt, Prompt)
        return [1, 2, 3]

    def length(self, ids):
        return len(ids)

    def markers(self, prompt):
        return MarkerCounts(0, 0)

    def decode(self, ids):
        return "".join(self.said[i] for i in ids)

    def opening(self, ids):
        return ""

    def parse(self, ids, agent, listed):
        return parse_response(self.decode(ids), agent.response, agent.fallback_characters, listed)


def play(said, response):
    """One episode after the other until every text was said; trajectories in groups of four."""
    env = stapo.make("alfworld", scenes="tiny", games_per_type=2, max_steps=12)
    agent = AgentConfig(prompt="compact", response=response, history_length=3)
    task, left, found = env.tasks_of("train")[0], list(range(len(said)))[::-1], []
    while left:
        trajectory = Trajectory(task, env.task_type(task), "", len(found) // 4, len(found) % 4)
        episode = Episode(
            Table(said), agent, trajectory, blind_mask="goal_history", anchor="observation", reward_scale=1.0,
            mark_parts=True,
        )  # fmt: skip
        episode.begin(env.reset(task))
        while left and not episode.done:
            assert episode.prompt() is not None
            action = episode.answer(Sample([left.pop()], [-1.0], [0.5], True))
            assert isinstance(action, str), action  # else it is a failure, in words
            episode.observe(env.step(action))
        found.append(trajectory)
    env.close()
    return found


PLAYED = [("think_action", 2, PARTS), *((name, 0, PARTS) for name in PROBLEMS if name != "think_action")]


@pytest.fixture(
    scope="module", params=[("think_action", 0, 2), *(pytest.param(p, marks=pytest.mark.slow) for p in PLAYED)], ids=str
)
def part(texts, request):
    """What was said and what was played of it, page by page; the first two pages stand for all in a short test."""
    response, first, end = request.param
    size = COUNT // PARTS
    pages = [texts[i * size : (i + 1) * size] for i in range(first, end)]
    return [text for page in pages for text in page], [play(page, response) for page in pages]


def test_every_step_is_counted_and_invalid_ones_pay(part):
    (texts, played), said = part, []
    for part in played:
        batch = build_batch(part, STAPO)
        said += [s.response for s in batch.steps]
        invalid_b = np.array([not s.valid for s in batch.steps])
        assert rollout_metrics(batch)["valid_actions"] == pytest.approx(1 - invalid_b.mean())
        free = build_batch(part, replace(STAPO, advantage=replace(STAPO.advantage, invalid_penalty=0.0)))
        cost_b = free.advantages.return_b - batch.advantages.return_b
        # 0.1 is the default of algorithm.advantage.invalid_penalty, after the paper.
        assert np.allclose(cost_b, 0.1 * invalid_b, atol=1e-6)
    assert said == texts


# -- 3 -----------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would make of a page: attributes with their numbers dropped, scripts, and responses as shown."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.attributes, self.scripts, self.policy = [], set(), [], ""
        self.steps, self.titles, self.responses = 0, [], []
        self._paragraph, self._awaits, self._reading = "", False, False
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        assert len(given) == len(attrs)
        for name, value in attrs:
            shown = value or ""
            if (tag, name) == ("a", "title"):
                self.titles.append(shown)
                shown = ""
            self.attributes.add((tag, name, re.sub(r"-?\d+(\.\d+)?", "#", shown)))
        if tag not in ("meta", "input", "br"):
            self.stack.append(tag)
        if tag == "script":
            self.scripts.append("")
        if tag == "meta" and given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        if tag == "p":
            self._paragraph = ""
        if tag == "pre" and self._awaits:
            self._reading, self._awaits = True, False
            self.responses.append("")
        self.steps += tag == "li" and "step" in (given.get("class") or "").split()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag
        self._reading = self._reading and tag != "pre"
        self._awaits = self._awaits or (tag == "p" and self._paragraph.startswith("response (log-probability"))

    def handle_data(self, data):
        if self.stack and self.stack[-1] == "script":
            self.scripts[-1] += data
        self._paragraph += data
        if self._reading:
            self.responses[-1] += data


def page_of(part, folder):
    run = RunDirectory.create(folder, {"algorithm": {"name": "stapo"}}, ["test"])
    write_transcript(run, build_batch(part, STAPO), 1, len(part))
    text = write_report(run).read_text(encoding="utf-8")
    return text, Page(text)


@pytest.mark.usefixtures("no_plots")
def test_each_can_be_read_in_a_report(part, tmp_path):
    _, played = part
    shapes = ["<think>x</think><action>go to desk 1</action>", "look", "<think>x</think><action>look</action>"]
    _, harmless = page_of(play(shapes * 400, "think_action"), tmp_path / "harmless")
    (own,) = harmless.scripts
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    for number, part in enumerate(played):
        text, page = page_of(part, tmp_path / str(number))
        steps = [step for t in part for step in t.steps]
        assert page.steps == len(page.titles) == len(steps) == COUNT // PARTS
        with_prompts = '<summary class="soft">prompts and response</summary>' in text
        shown = [s.response for s in steps if with_prompts or joined(s.response) != joined(s.action)]
        assert page.responses == [readable(joined(response)) for response in shown]
        assert page.scripts == [own]
        assert f"script-src 'sha256-{digest}'" in page.policy
        assert page.attributes <= harmless.attributes, page.attributes - harmless.attributes
        # Titles are the one attribute that holds a model's words.
        assert all(re.match(r"\d+: ", title) and len(title) < 80 for title in page.titles)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\u200e\u200f]", text)


@pytest.fixture
def no_plots(monkeypatch):
    for kind in ("outcome_plots", "outlier_plots", "update_plots"):
        monkeypatch.setattr(f"stapo.report.write.{kind}", lambda log: [])
