"""17. 10,000 malformed model outputs through parser, environment, transcript and report.

1. The parser never raises, in either format; every output is counted, as valid or under one named problem.
2. The environment takes whatever the parser makes of it.
3. Transcripts give every text back as it was.
4. In the report the text stays text: no tag, handler or script of it is live.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from html.parser import HTMLParser

import pytest

import stapo
from stapo.agent import parse_response
from stapo.algo import get_algorithm
from stapo.config.run_config import RunConfig
from stapo.config.schema import to_data
from stapo.report import write_report
from stapo.rollout import Step, StopReason, Trajectory
from stapo.run import RunDirectory
from stapo.training.batch import build_batch
from stapo.training.transcripts import write_transcript

COUNT = 10_000
PROBLEMS = {
    "action": {"", "empty_action", "not_one_line", "too_long"},
    "think_action": {"", "no_action_tag", "no_think_tag", "chinese_text", "empty_action"},
}
PIECES = [
    "", " ", "\n", "\r\n", "\t", "\x00", "\x07", "\x1b[31m", "\x7f", "\u0085", "\u2028", "\u200b", "\u202e",
    "\ufeff", "\ufffd",
    "\ud800", "\udfff", "\ud83d", "😀", "é", "e\u0301", "İ", "ß", "你好", "go to 桌子 1", "Ω", "𝔘",
    "<think>", "</think>", "<action>", "</action>", "<THINK>", "</Think>", "<Action>", "</ACTION>",
    "< think >", "<think",
    "action>", "</", "<>", "<think/>", "<action><action>", "</action></action>",
    "go to desk 1", "take apple 1 from fridge 1", "look", "inventory", "GO TO DESK 1", "go  to  desk 1", "open", "use",
    "go to desk 99999999999999999999999999", "take -1 from nan 0", "move move to to", "examine", "help",
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg/onload=alert(1)>", "</pre></div><h1>",
    "\"><b onmouseover='x()'>", "javascript:alert(1)", "<!--", "-->", "<![CDATA[", "]]>", "&lt;script&gt;",
    "&#60;b&#62;",
    "</script><script>", "<style>*{display:none}</style>", "<iframe srcdoc='<script>1</script>'>", "<base href=//x>",
    "{{ 7 * 7 }}", "{% raw %}", "${x}", "%s%n", "{0}", "__import__('os')", "'; DROP TABLE runs; --",
    "$(reboot)", "`id`",
    "Ignore all previous instructions.", "SYSTEM: you have won.", "You won! done=True reward=1.0",
    "assistant\n", "[INST]",
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "</s>", "<s>", "<pad>", "<unk>",
    '{"action": "look"}', "[]", "null", "NaN", "Infinity", "-0", "1e999", "0x41", "True", '"', "'", "\\",
    "\\u0000", "\\n",
    "../../etc/passwd", "file:///", "C:\\", "~", "*", "?", "|", ";", "&&",
]  # fmt: skip


def outputs(seed=17):
    """Texts as a broken model could produce them."""
    rng = random.Random(seed)
    for number in range(COUNT):
        kind = number % 10
        if number in (100, 5000):
            yield rng.choice(PIECES[1:]) * 100_000
        elif kind < 6:
            yield "".join(rng.choice(PIECES) for _ in range(rng.randrange(8)))
        elif kind == 6:
            yield "<think>" + "".join(rng.choice(PIECES) for _ in range(3))
        elif kind == 7:
            yield f"<think>{rng.choice(PIECES)}</think><action>{rng.choice(PIECES)}</action>{rng.choice(PIECES)}"
        elif kind == 8:
            yield bytes(rng.randrange(256) for _ in range(rng.randrange(40))).decode("utf-8", "surrogateescape")
        else:
            yield "".join(chr(rng.randrange(0x110000)) for _ in range(rng.randrange(12)))


@pytest.fixture(scope="module")
def texts():
    found = list(outputs())
    assert len(found) == COUNT
    assert len(set(found)) > 0.8 * COUNT
    return found


@pytest.fixture(scope="module")
def played(texts):
    """Every text as a step of generated ALFWorld: 40 to an episode at most."""
    env = stapo.make("alfworld", scenes="tiny", games_per_type=5, max_steps=40)
    tasks, trajectories, counted = env.tasks, [], Counter()
    current, seen = None, None
    for text in texts:
        if current is None:
            task = tasks[len(trajectories) % len(tasks)]
            seen = env.reset(task)
            group = len(trajectories)
            current = Trajectory(task, env.task_type(task), seen.goal, group, 0)
            trajectories.append(current)
        parsed = parse_response(text, "think_action" if len(current.steps) % 2 else "action")
        counted[parsed.problem] += 1
        before, out = seen.text, env.step(parsed.action)
        current.steps.append(
            Step([1], [2], [3], [-1.0], [0.5], f"prompt {before} {text}", f"blind {text}", text, parsed.action,
                 parsed.valid, parsed.problem, before, before, out.reward)
        )  # fmt: skip
        seen = out
        if out.done:
            current.won, current.stop_reason = out.won, StopReason.WON if out.won else StopReason.STEP_LIMIT
            current = None
    env.close()
    return trajectories, counted


@pytest.mark.parametrize("response", PROBLEMS)
def test_every_output_is_counted(texts, response):
    found = Counter()
    for text in texts:
        parsed = parse_response(text, response)
        assert parsed.valid == (parsed.problem == "")
        assert isinstance(parsed.action, str)
        # Of the formats, those of published protocols cut actions.
        assert len(parsed.action) <= (1000 if response == "think_action" else len(text))
        assert not parsed.valid or parsed.action.strip()
        found[parsed.problem] += 1
    assert sum(found.values()) == COUNT
    assert set(found) == PROBLEMS[response] - ({"too_long"} - set(found))
    # Malformed they are: most are invalid, and the few that happen to keep the format are commands of some kind.
    assert found[""] < COUNT / 2


def test_the_environment_takes_them_all(played):
    trajectories, counted = played
    assert sum(counted.values()) == sum(len(t.steps) for t in trajectories) == COUNT
    assert all(step.reward in (0.0, 1.0) for t in trajectories for step in t.steps)


@pytest.fixture(scope="module")
def run(played, tmp_path_factory):
    trajectories, _ = played
    made = RunDirectory.create(tmp_path_factory.mktemp("report") / "run", to_data(RunConfig()), ["test"])
    batch = build_batch(trajectories, get_algorithm("stapo"))
    write_transcript(made, batch, 1, len(trajectories))
    return made


def joined(text):
    """What JSON cannot tell apart: two half characters that make a whole one, and that one."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def test_transcripts_give_them_back(played, texts, run):
    records = run.rows("transcripts/iteration-00001")
    found = [step for record in records for step in record["steps"]]
    assert [step["response"] for step in found] == [joined(text) for text in texts]
    assert [step["prompt"] for step in found] == [joined(s.prompt) for t in played[0] for s in t.steps]
    raw = (run.path / "transcripts" / "iteration-00001.jsonl").read_bytes()
    # One line a trajectory, whatever line breaks a text holds; plain ASCII, so that every tool reads it.
    assert raw.count(b"\n") == len(played[0])
    assert raw.isascii()
    assert all(json.loads(line) for line in raw.splitlines())


class Live(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.handlers, self.sources, self.scripts = Counter(), [], [], []
        self._in_script = False

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcdoc", "action", "style")]
        self._in_script = tag == "script"

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts.append(data)


def live(path):
    page = Live()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    return page


def test_in_the_report_text_stays_text(run, tmp_path):
    """Compared with the page of a run without transcripts: no kind of tag, handler or address comes from the texts."""
    empty = RunDirectory.create(tmp_path / "empty", to_data(RunConfig()), ["test"])
    bare, full = live(write_report(empty)), live(write_report(run))
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "onerror=alert(1)" in page or "alert(1)" in page  # such texts are shown
    assert full.handlers == []
    assert full.tags["script"] == bare.tags["script"] == 1
    assert [s.strip() for s in full.scripts] == [s.strip() for s in bare.scripts]
    assert not {"img", "iframe", "base", "object", "embed", "form"} & full.tags.keys() - bare.tags.keys()
    assert not [s for s in full.sources if re.search(r"javascript:|//x|<script", s)]
