"""What clients of the OpenEnv protocol may send, and what becomes of an environment's facts."""

from __future__ import annotations

import json

import pytest

from stapo.adapters.openenv.messages import (
    Code,
    ProtocolError,
    ResetRequest,
    facts,
    read_command,
    read_message,
    read_reset,
    schemas,
    write_error,
    write_json,
)


@pytest.mark.parametrize("text, code, said", [
    ("{", Code.INVALID_JSON, "not JSON"),
    ("[" * 100_000, Code.INVALID_JSON, "nested too deep"),
    ("[1]", Code.VALIDATION_ERROR, "expected a JSON object"),
    ("{}", Code.UNKNOWN_TYPE, "type is missing, expected one of reset, step, state, close"),
    ("1" * 5_000, Code.INVALID_JSON, "the message is not readable: an integer has more than 4,300 digits."),
    ('{"type": ["step"]}', Code.UNKNOWN_TYPE, "expected one of"),
    ('{"type": "mcp", "data": {}}', Code.UNKNOWN_TYPE, "has no MCP tools"),
    ('{"type": "step", "data": 3}', Code.VALIDATION_ERROR, "data is 3, expected a JSON object"),
    ('{"type": "step", "dat": {}}', Code.VALIDATION_ERROR, "unknown field 'dat'. Did you mean 'data'?"),
])  # fmt: skip
def test_messages_of_another_kind(text, code, said):
    with pytest.raises(ProtocolError) as caught:
        read_message(text)
    assert caught.value.code == code
    assert said in caught.value.reason


def test_messages():
    assert read_message('{"type": "state"}') == ("state", {})
    assert read_message('{"type": "step", "data": {"command": "look"}}') == ("step", {"command": "look"})


@pytest.mark.parametrize("data, asked", [
    ({}, ResetRequest()),
    ({"seed": None, "episode_id": None}, ResetRequest()),
    ({"seed": 7, "split": "heldout"}, ResetRequest(seed=7, split="heldout")),
    ({"episode_id": "e", "options": {"task_id": "t"}}, ResetRequest(task_id="t", episode_id="e")),
    ({"options": None}, ResetRequest()),
    ({"seed": None, "options": {"seed": 7}}, ResetRequest(seed=7)),
    ({"seed": 8, "options": {"seed": 7}}, ResetRequest(seed=8)),
])  # fmt: skip
def test_resets(data, asked):
    assert read_reset(data) == asked


@pytest.mark.parametrize("data, said", [
    ({"sed": 1}, "unknown field 'sed'. Did you mean 'seed'?"),
    ({"options": {"seed": 1, "x": 2}}, "options of 'reset' has the unknown field 'x'"),
    ({"options": 3}, "options is 3"),
    ({"seed": -1}, "seed is -1, expected a whole number"),
    ({"seed": True}, "seed is True"),
    ({"seed": 2**63}, "expected a whole number from 0 to 9223372036854775807"),
    ({"task_id": 3}, "task_id is 3, expected a text of 1 to 255"),
    ({"split": ""}, "split is '', expected a text"),
    ({"episode_id": "x" * 256}, "expected a text of 1 to 255 characters"),
])  # fmt: skip
def test_resets_that_cannot_be_read(data, said):
    with pytest.raises(ProtocolError) as caught:
        read_reset(data)
    assert caught.value.code == Code.VALIDATION_ERROR
    assert said in caught.value.reason


@pytest.mark.parametrize("sent, command", [
    ("go to desk 1", "go to desk 1"),
    ("  look\n", "look"),
    ("<think>Where? <action>up</action></think> go to desk 1", "go to desk 1"),
    ("I wonder.</think>\n<action> Go To Desk 1 </action> done", "Go To Desk 1"),
    ("<action>search[mug < 60]</action>", "search[mug < 60]"),
    ("<think>never ends", ""),
    ("", ""),
])  # fmt: skip
def test_commands_are_what_stands_behind_the_thought(sent, command):
    assert read_command({"command": sent, "metadata": {"by": "me"}}) == command


@pytest.mark.parametrize("data, said", [
    (None, "the action is None"),
    ({}, "command is missing"),
    ({"command": 3}, "command is 3"),
    ({"comand": "x"}, "Did you mean 'command'?"),
])  # fmt: skip
def test_actions_that_are_none(data, said):
    with pytest.raises(ProtocolError) as caught:
        read_command(data)
    assert caught.value.code == Code.VALIDATION_ERROR
    assert said in caught.value.reason


def test_facts_fit_into_json():
    loop: list = []
    loop.append(loop)
    found = facts(
        {"a": 1, "b": float("nan"), "c": {"d": (1.5, "x", object()), 3: 4}, "e": loop, "f": "y" * 20_000, "g": 1 << 80}
    )
    assert found == {"a": 1, "c": {"d": [1.5, "x"]}, "e": [[[[]]]], "f": "y" * 10_000}
    json.loads(write_json(found))


def test_text_that_is_no_text():
    assert json.loads(write_json({"text": "a\ud800b"})) == {"text": "a?b"}
    told = json.loads(write_error(ProtocolError(Code.EXECUTION_ERROR, "bad \x1b[2J" + "x" * 5_000)))
    assert told["data"]["code"] == "EXECUTION_ERROR"
    assert "\x1b" not in told["data"]["message"]
    assert len(told["data"]["message"]) < 2_100


def test_one_field_is_required_so_that_clients_can_put_plain_text_there():
    action = schemas("alfworld")["action"]
    assert action["required"] == ["command"]
    assert action["title"] not in ("Action", "CallToolAction", "ListToolsAction")
