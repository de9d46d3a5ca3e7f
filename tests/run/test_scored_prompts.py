"""Prompts exactly as they were scored, from what a transcript holds.

1. Whatever was scored comes back, character for character, and the usual case costs nothing per step.
2. A damaged record is an error of ours that says so.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stapo.errors import RunDirectoryError
from stapo.run.scored_prompts import ScoredPrompts, add_scored, edits_between, scored_prompts

LINES = st.lists(st.sampled_from(["a\n", "b\n", "> go\n", "tail", "\n", "é\u2028x", "\r\n"]), max_size=8).map("".join)


def written(steps, scored):
    """A record as it is read back from its file."""
    record = {"steps": [dict(zip(("prompt", "blind_prompt", "response"), step, strict=True)) for step in steps]}
    add_scored(record, [ScoredPrompts(*texts) for texts in scored])
    return json.loads(json.dumps(record))


# -- 1 -----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(LINES, LINES, LINES, LINES, LINES), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_any_prompts_come_back(steps):
    record = written([step[:3] for step in steps], [step[3:] for step in steps])
    for number, step in enumerate(steps):
        assert scored_prompts(record, number) == step[3:]


@given(LINES, LINES)
@settings(max_examples=150, deadline=None)
def test_edits_turn_one_text_into_the_other(one, other):
    parts, place = [], 0
    for start, end, new in edits_between(one, other):
        assert place <= start <= end
        parts += [one[place:start], new]
        place = end
    assert "".join([*parts, one[place:]]) == other


def test_a_chat_template_around_every_prompt_is_held_once():
    steps = [(f"full {k}\n", f"blind {k}", "go") for k in range(20)]
    record = written(steps, [(f"<user>{full}<agent>", f"<user>{blind}<agent>") for full, blind, _ in steps])
    assert record["frame"] == ["<user>", "<agent>"]
    assert not any("scored" in step for step in record["steps"])
    assert scored_prompts(record, 7) == ("<user>full 7\n<agent>", "<user>blind 7<agent>")


def test_a_conversation_holds_what_is_new_of_each_prompt():
    texts, steps = ["<system>rules<user>room 0<agent>"], [("rules\nroom 0", "rules\nroom 0", "go 0")]
    for k in range(1, 30):
        texts.append(f"{texts[-1]}go {k - 1}<end><user>room {k}<agent>")
        steps.append((f"room {k}", f"rules\nroom {k}", f"go {k}"))
    scored = [(text, f"<system>rules<user>room {k}<agent>") for k, text in enumerate(texts)]
    record = written(steps, scored)
    assert [tuple(scored_prompts(record, k)) for k in range(30)] == scored
    assert record["steps"][20]["scored"]["prompt"] == {"more": "<end><user>room 20<agent>"}
    assert len(json.dumps(record)) < 10_000 < sum(len(text) for text in texts)


def test_long_texts_without_a_line_in_common_are_held_whole():
    one, other = "a\n" * 6_000, "b\n" * 6_000
    record = written([(one, one, "")], [(other, one)])
    assert record["steps"][0]["scored"]["prompt"] == {"text": other}
    assert scored_prompts(record, 0) == (other, one)


def test_transcripts_of_earlier_versions_have_none():
    assert scored_prompts({"steps": [{"prompt": "a", "blind_prompt": "b", "response": "c"}]}, 0) is None


# -- 2 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scored",
    [
        {"prompt": {"more": "x"}},
        {"prompt": {"edits": [[5, 2, "x"]]}},
        {"prompt": {"edits": [[0, 10**9, "x"]]}},
        {"prompt": {"edits": [[-3, 0, "x"]]}},
        {"prompt": {"edits": [[0, 1, 7]]}},
        {"prompt": {"text": 7}},
        {"prompt": {"other": 7}},
        {"prompt": [1]},
        "text",
    ],
)
def test_a_damaged_record_says_so(scored):
    record = {"frame": ["a", "b"], "steps": [{"prompt": "p\n", "blind_prompt": "b", "response": "", "scored": scored}]}
    with pytest.raises(RunDirectoryError, match="scored prompts of step 0 cannot be read"):
        scored_prompts(record, 0)


@pytest.mark.parametrize("frame", [[], "abc", 5, [1, 2], ["a"]])
def test_a_damaged_frame_says_so(frame):
    with pytest.raises(RunDirectoryError, match="scored prompts of step 0 cannot be read"):
        scored_prompts({"frame": frame, "steps": [{"prompt": "p", "blind_prompt": "b", "response": ""}]}, 0)
