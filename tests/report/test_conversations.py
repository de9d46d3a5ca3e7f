"""How conversations are recorded and shown.

1. A transcript has each text of a conversation once, and every prompt can be put together from it.
2. It says where a new sequence begins, and why; prompts of other kinds are recorded as ever.
3. The page shows a conversation as one: first message, then turn by turn; broken and older records as well.
4. The diagnosis shows the turns that a step's prompt shows.
5. The report says what reading sequences saved.
"""

from __future__ import annotations

import html
import json
from dataclasses import replace

import numpy as np
import pytest
from report_rows import metrics_row, step, trajectory

from stapo.agent import AgentConfig
from stapo.diagnosis.records import Case, _turns
from stapo.html.pages import page_environment
from stapo.report import write_report
from stapo.report.data import read_run
from stapo.report.summary import reading
from stapo.rollout.collect import Collector
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.sampler import Sample
from stapo.training.transcripts import told
from toy_world import LongEnv, small_policy

AGENT = AgentConfig(prompt="conversation", response="action", max_prompt_tokens=900, max_response_tokens=40)
ENCODER = PromptEncoder(small_policy().tokenizer)
HOSTILE = "<script>alert(1)</script>\u202e"


class Sampler:
    """Answers with a thought and a word, as the tokens of a tokenizer or in tokens of its own."""

    def __init__(self, thought=""):
        self.thought = thought

    def sample(self, prompts, streams, temperature):
        rng = np.random.default_rng(7)
        words = ["".join(chr(97 + c) for c in rng.integers(0, 26, 4)) for _ in prompts]
        found = [ENCODER.encode_response(self.thought + word) for word in words]
        return [Sample(ids, [-1.0] * len(ids), [0.5] * len(ids), True) for ids in found]


def played(agent=AGENT, thought="", env=LongEnv):
    collector = Collector(env, ENCODER, Sampler(thought), agent)
    try:
        return collector.collect(["toy/train/red"], 1, 1.0, (0, 1))[0]
    finally:
        collector.close()


def whole_prompts(records):
    """Every full prompt, put together as docs/run-directory.md says."""
    prompts, said = [], ""
    for record in records:
        prompts.append(f"{prompts[-1]}\n> {said}\n{record['prompt']}" if record.get("continues") else record["prompt"])
        said = record["response"]
    return prompts


# -- 1 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [900, 320])
def test_every_prompt_can_be_put_together_from_what_is_new_in_it(limit):
    episode = played(replace(AGENT, max_prompt_tokens=limit))
    records = told(episode)
    assert whole_prompts(records) == [s.prompt for s in episode.steps]
    assert len(records) == 10
    assert records[0]["first_message"].startswith("You give one command at a time.")
    assert f"Goal: {episode.goal}" in records[0]["first_message"]


def test_a_transcript_grows_with_the_steps_and_not_with_their_square():
    records = told(played())
    assert [r["prompt"] for r in records[1:]] == [r["observation"] for r in records[1:]]
    assert [r["continues"] for r in records] == [False] + 9 * [True]
    assert ["first_message" in r for r in records] == [True] + 9 * [False]


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_a_new_sequence_says_how_many_turns_it_lost():
    episode = played(replace(AGENT, max_prompt_tokens=320))
    begun = [r for r in told(episode) if "new_sequence" in r]
    assert begun
    assert {(r["new_sequence"], r["continues"]) for r in begun} == {("prompt", False)}
    lost = [s.forgotten_turns for s in episode.steps if s.forgotten_turns]
    assert [r["forgotten_turns"] for r in begun] == lost
    assert sum(lost) > len(lost)


def test_a_response_without_its_thought_begins_a_new_sequence():
    records = told(played(replace(AGENT, earlier_thoughts="drop"), thought="<think>hm</think>"))
    assert [r.get("new_sequence") for r in records] == [None] + 9 * ["response"]
    assert not any(r["continues"] for r in records)
    assert all("hm" not in r["prompt"] for r in records)


def test_prompts_of_other_kinds_are_recorded_as_ever():
    (first, second, *_) = told(played(AgentConfig(prompt="standard", response="action")))
    assert second["prompt"].count(first["observation"]) == 1
    assert not {"continues", "first_message", "new_sequence", "forgotten_turns"} & {*first, *second}


# -- 3 -----------------------------------------------------------------------------------------------------------------


def talk(number, **changes):
    new = {"prompt": f"You stand in cell {number}.\nCommands: go", "continues": True, "blind_prompt": f"blind {number}"}
    return step(number, **{**new, **changes})


def opening(first, **changes):
    prompt = f"{first}\nYou stand in cell 0.\nCommands: go"
    return {"continues": False, "first_message": first, "prompt": prompt, **changes}


def page(make_run, steps):
    return write_report(make_run(transcripts={1: [trajectory(1, steps=steps)]})).read_text()


@pytest.mark.usefixtures("no_plots")
def test_the_page_shows_a_conversation_turn_by_turn(make_run):
    first = "You act.\nGoal: reach the exit"
    thought = talk(2, response="<think>so</think> go")
    text = page(make_run, [talk(0, **opening(first)), talk(1, outlier="high"), thought])
    shown = html.unescape(text)
    assert text.count("first message</summary>") == 1
    assert shown.count(f'<p class="obs" dir="auto">{first}</p>') == 1
    for number in range(3):
        assert f'<p class="obs" dir="auto">You stand in cell {number}.\nCommands: go</p>' in shown
        assert f'<pre dir="auto">blind {number}</pre>' in shown
    assert '<p class="obs" dir="auto"><think>so</think> go</p>' in shown
    assert 'class="steps chat"' in text
    assert "A new sequence begins" not in text


@pytest.mark.usefixtures("no_plots")
def test_a_long_first_message_is_closed_and_a_long_message_gives_way_to_the_observation(make_run):
    short = page(make_run, [talk(0, **opening("Rules."))])
    assert '<details class="first" open>' in short
    long = page(make_run, [talk(0, **opening("Rules. " * 200)), talk(1, prompt="go; " * 400)])
    assert '<details class="first">' in long
    assert '<p class="obs" dir="auto">You stand in cell 1.</p>' in long


@pytest.mark.usefixtures("no_plots")
def test_the_page_says_where_a_sequence_begins_and_why(make_run):
    anew = {"continues": False, "first_message": "Rules.", "prompt": "Rules.\nYou stand.\n> go north\nHere.", "step": 1}
    left = page(make_run, [talk(0, **opening("Rules.")), talk(1, **anew, new_sequence="prompt", forgotten_turns=4)])
    assert "4 older turns left out here" in left
    assert '<p class="obs" dir="auto">Here.</p>' in left
    kept = [talk(k, **anew, new_sequence="response", forgotten_turns=0) for k in (1, 1, 1)]
    repeated = page(make_run, [talk(0, **opening("Rules.")), *kept])
    assert repeated.count("the last response is written anew") == 1  # and not at every step


@pytest.mark.usefixtures("no_plots")
def test_records_before_there_were_conversations_are_shown_as_they_were(make_run):
    text = write_report(make_run()).read_text()
    assert "chat" not in text
    assert "full prompt (marked: what the blind prompt lacks)" in text


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(
    "odd",
    [
        {"continues": "yes"},
        {"continues": True, "prompt": None},
        {"continues": False, "first_message": 7, "prompt": []},
        {"continues": True, "new_sequence": ["prompt"], "forgotten_turns": "many"},
        {"continues": True, "prompt": HOSTILE, "response": HOSTILE, "first_message": HOSTILE},
        {"message": 3, "note": HOSTILE},
    ],
)
def test_broken_and_hostile_records_make_a_page(make_run, odd):
    text = page(make_run, [talk(0, **opening(HOSTILE)), talk(1, **odd), step(2)])
    assert "<script>alert(1)" not in text
    assert "\u202e" not in text
    assert "You stand in cell 2." in text


# -- 4 -----------------------------------------------------------------------------------------------------------------


def test_the_diagnosis_shows_the_turns_of_a_prompt():
    episode = played()
    turns = _turns(episode, 4)
    assert [said for _, said in turns] == [s.response for s in episode.steps[:5]]
    assert [seen for seen, _ in turns][1:] == [s.observation for s in episode.steps[1:5]]
    assert turns[0][0] == "A judge listens."
    assert _turns(played(AgentConfig(prompt="standard", response="action")), 4) == []


@pytest.mark.parametrize(("count", "hidden"), [(3, None), (9, 6)])
def test_a_case_of_the_diagnosis_is_a_conversation_whose_older_turns_are_closed(count, hidden):
    turns = [(f"Seen {k}. {HOSTILE}", f"said {k}") for k in range(count)]
    case = Case({}, "exit", "", "Rules.\nGoal: exit", turns, "Rules.\nSeen.", "said", [], 0)
    source = '{% import "cards.html.jinja" as cards %}{{ cards.conversation(case) }}'
    text = page_environment().from_string(source).render(case=case)
    assert "<mark>Goal: exit</mark>" in text
    assert "<mark>Rules." not in text
    assert [text.count(f"Seen {k}.") for k in range(count)] == count * [1]
    assert (f"{hidden} earlier turns" in text) == (hidden is not None)
    assert ("earlier turns" in text) == (hidden is not None)
    assert "<script>" not in text


# -- 5 -----------------------------------------------------------------------------------------------------------------


def row(**sequences):
    return metrics_row(1) | {"sequences": {"count": 4, "tokens": 500, "row_tokens": 2500, "breaks": {}, **sequences}}


def test_the_report_says_what_sequences_saved(make_run):
    said = reading(read_run(make_run(metrics=[row(breaks={"prompt": 3}, forgotten_turns=12)])))
    assert "20 steps as 4 sequences, 500 tokens instead of 2,500 (5.0 times fewer)" in said
    assert "3 where an earlier message was written anew" in said
    assert "12 older turns" in said
    assert "within an episode" not in reading(read_run(make_run(metrics=[row()])))


@pytest.mark.parametrize(
    "sequences", [{"count": 20}, {"count": "x"}, {"tokens": 0}, {"tokens": float("inf")}, {"row_tokens": None}]
)
def test_nothing_is_said_where_steps_were_read_alone(make_run, sequences):
    assert reading(read_run(make_run(metrics=[json.loads(json.dumps(row(**sequences)))]))) == ""
    assert reading(read_run(make_run())) == ""
    assert reading(read_run(make_run(empty=True))) == ""
