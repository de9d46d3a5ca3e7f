"""What models write, family by family, and what tools are called with.

1. Each recorded response gives its action, its thought, and what is wrong with it.
2. An environment's tools reach prompts and come back as actions; one without has one tool that takes a command.
3. No text raises, and what the agent is told of a call that cannot be read has none of its own words.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stapo.agent import AgentConfig, PromptFields, formats, parse_response, render_prompt, write_response
from stapo.agent.thoughts import read_response, thought_length
from stapo.envs import CommandShapes, Tool, read_call

READ = Tool(
    "read", "Read a file.", {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
)
WRITE = Tool(
    "write",
    "Write a file.",
    {
        "type": "object",
        "properties": {"path": {"type": "string"}, "text": {"type": "string"}, "lines": {"type": "integer"}},
    },
)
RESPONSES = yaml.safe_load((Path(__file__).parent / "responses.yaml").read_text(encoding="utf-8"))


# -- 1 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: f"{case['family']}, {case['form']}")
def test_a_recorded_response(case):
    agent = AgentConfig(response=case["form"])
    parsed = read_response(case.get("opened", ""), case["text"], agent, ("go to shelf 1", "look"), (READ, WRITE))
    found = {"action": parsed.action, "thought": parsed.thought, "problem": parsed.problem, "valid": parsed.valid}
    problem = case.get("problem", "")
    expected = {"action": case["action"], "thought": case.get("thought", ""), "problem": problem}
    assert found == {**expected, "valid": not problem}
    assert bool(parsed.told) == (case["form"] == "tool_call" and bool(problem))


def test_there_are_forty_of_many_families():
    assert len(RESPONSES) >= 40
    assert len({case["family"] for case in RESPONSES}) >= 12


# -- 2 -----------------------------------------------------------------------------------------------------------------


def fields(shapes):
    return PromptFields("find A", 0, 0, (), "A shell.", "A shell.", None, shapes=shapes)


def test_tools_are_in_the_full_and_in_the_blind_prompt_and_in_no_other_format():
    agent = AgentConfig(response="tool_call")
    for mask in ("none", "goal_history"):
        prompt = render_prompt(fields(CommandShapes(tools=(READ,))), agent, mask)
        assert json.loads(prompt.tools) == [READ.schema]
        assert prompt.text.endswith("Call exactly one of your tools.")
    assert json.loads(render_prompt(fields(CommandShapes()), agent).tools)[0]["function"]["name"] == "act"
    assert render_prompt(fields(CommandShapes(tools=(READ,))), AgentConfig()).tools == ""


def test_without_tools_a_command_is_called_and_handed_on_as_text():
    said = write_response("打开 A", "tool_call", thought="so")
    parsed = parse_response(said, "tool_call")
    assert (parsed.action, parsed.thought, parsed.valid) == ("打开 A", "so", True)
    call = '{"name": "read", "arguments": {"path": "A"}}'
    assert read_call(parse_response(write_response(call, "tool_call"), "tool_call", tools=(READ,)).action) == (
        "read",
        {"path": "A"},
    )


@pytest.mark.parametrize("text", ["", "look", "[1]", '{"name": 7}', '{"name": "a"}', "[" * 100_000])
def test_what_is_no_call_is_none(text):
    assert read_call(text) is None


@pytest.mark.parametrize(
    "odd",
    [{"name": ""}, {"name": "a b"}, {"name": 7}, {"name": "a", "description": None}, {"name": "a", "parameters": []},
     {"name": "a", "parameters": {"properties": {"p": object()}}}, {"name": "a", "parameters": {"properties": 1}}],
)  # fmt: skip
def test_an_odd_tool_is_refused(odd):
    with pytest.raises(ValueError, match="tool"):
        Tool(**odd)
    with pytest.raises(ValueError, match="tools"):
        CommandShapes(tools=(READ, READ))


# -- 3 -----------------------------------------------------------------------------------------------------------------

_PIECES = st.sampled_from(
    ["<tool_call>", "</tool_call>", '{"name": "read", "arguments": {"path": "A"}}', "<function=read>", "</function>",
     "<parameter=path>", "</parameter>", "<think>", "</think>", "{", "}", "[", "]", ";", "\n", '"', "mug",
     "<|python_tag|>"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(_PIECES | st.text(max_size=3), max_size=10).map("".join))
def test_no_text_raises(text):
    parsed = parse_response(text, "tool_call", tools=(READ,))
    assert parsed.valid == (parsed.problem == "") == (parsed.told == "")
    assert not parsed.valid or read_call(parsed.action)
    assert "mug" not in parsed.told


@pytest.mark.parametrize("form", ["tagged", "tool_call"])
@pytest.mark.parametrize("text", ["<think>a</think>" * 50 + "b", "<think>" * 50, "b"])
def test_the_end_of_a_thought_is_looked_for_once(monkeypatch, form, text):
    looked = []

    def counted(said):
        looked.append(said)
        return thought_length(said)

    monkeypatch.setattr(formats, "thought_length", counted)
    parse_response(text, form, 0, ())
    assert looked == [text]
