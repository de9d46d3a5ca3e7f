"""benchmarks/beside_trl.py gives TRL the prompts of stapo's conversations, token for token, and ends its episodes."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import pytest
import test_templates as templates
from test_conversation import speaking

from stapo.agent import PromptFields, Turn, render_prompt
from stapo.rollout.encoding import PromptEncoder
from stapo.training.factories import env_factory

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "beside_trl.py"


@pytest.fixture(scope="module")
def beside():
    spec = importlib.util.spec_from_file_location("beside_trl", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def config(beside):
    options = argparse.Namespace(start="unused", dtype="float32", groups=1, size=2, rate=1e-7, beta=0.0)
    return beside.configuration("trl", options)


def test_prompts_are_those_of_a_conversation(beside, config):
    ours, theirs = PromptEncoder(speaking(templates.SMOLLM)), beside.tool_calling(speaking(templates.SMOLLM))
    end = theirs.eos_token_id
    row = next(beside.prompts_of(config, 1))
    env = env_factory(config)()
    first = seen = env.reset(row["task_id"])
    system, asked = row["prompt"]
    messages = [system, {**asked, "content": asked["content"] + first.blind}]
    ids, history = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False), []
    for command in ("look", "inventory", "look"):
        fields = PromptFields(
            goal=first.goal, step=len(history), steps_taken=len(history), history=tuple(history),
            observation=seen.text, blind_observation=seen.blind, admissible=None, earlier=(),
        )  # fmt: skip
        assert ids == ours.encode(render_prompt(fields, config.agent))
        said = (*theirs.encode(command, add_special_tokens=False), end)
        history.append(Turn(seen.text, seen.blind, command, command, said))
        seen = env.step(command)
        # TRL appends what its template writes behind a call for the tool's message.
        call = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
        whole = theirs.apply_chat_template(
            [*call, {"role": "tool", "name": "act", "content": seen.blind}],
            add_generation_prompt=True,
            return_dict=False,
        )
        before = theirs.apply_chat_template(call, return_dict=False)
        last = max(i for i, token in enumerate(before) if token == end)
        ids = [*ids, *said, *whole[last + 1 :]]


def test_an_episode_of_trl_ends_with_the_environments(beside, config):
    household = beside.household_tool(config, counts := beside.Counts())()
    household.reset(next(beside.prompts_of(config, 1))["task_id"])
    seen = [household.act("look") for _ in range(config.env.options["max_steps"])]
    assert [beside.OVER in text for text in seen] == [False] * (len(seen) - 1) + [True]
    assert counts.take()["steps"] == len(seen)
    tokenizer = beside.tool_calling(speaking(templates.SMOLLM))
    answer = tokenizer.encode("look", add_special_tokens=False)
    calls = [bool(tokenizer.parse_response(answer, tokenizer.encode(t)).get("tool_calls")) for t in seen[-2:]]
    assert calls == [True, False]
