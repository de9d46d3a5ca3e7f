"""Prompts and responses of questions with a search engine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stapo.agent import RESPONSE_BEGINS, AgentConfig, Prompt, PromptFields, Turn, parse_response, render_prompt
from stapo.rollout.encoding import PromptEncoder

ASK = "Where is Rex king?"
FIRST = PromptFields(ASK, 0, 0, (), f"Question: {ASK}", "waiting", None)
TURNS = (
    Turn(f"Question: {ASK}", "waiting", "<think>t1</think><search> Rex </search>"),
    Turn("\n\n<information>I1</information>\n\n", "\n\n<information>I1</information>\n\n", "no tags"),
)
THIRD = PromptFields(ASK, 2, 2, TURNS, "\nMy previous action is invalid.\n", "x", None)
STYLES = ("search-r1", "search-stepwise", "search-compact")


def agent(style):
    response = "search_answer_single" if style == "search-stepwise" else "search_answer"
    return AgentConfig(prompt=style, response=response, history_length=4)


def test_the_growing_transcript():
    rules, _, asked = render_prompt(FIRST, agent("search-r1")).shown.partition(" Question: ")
    assert asked == ASK + "\n"
    assert rules.count("<answer>") == 2  # explained once, and one example, which the published scorer counts on
    assert rules.endswith("<answer> Lisbon </answer>.")
    whole = render_prompt(THIRD, agent("search-r1")).shown
    head, _, begun = whole.partition(RESPONSE_BEGINS)
    assert head == f"{rules} Question: {ASK}\n"
    assert begun == (
        "<think>t1</think><search> Rex </search>\n\n<information>I1</information>\n\nno tags"
        "\nMy previous action is invalid.\n"
    )


def test_the_transcript_loses_its_oldest_turns():
    config = agent("search-r1")
    shorter = render_prompt(replace(THIRD, history=TURNS[1:]), config).shown.partition(RESPONSE_BEGINS)[2]
    assert shorter == "\n\n<information>I1</information>\n\nno tags\nMy previous action is invalid.\n"
    assert render_prompt(replace(THIRD, history=()), config).shown.endswith("\x1f\nMy previous action is invalid.\n")


def test_the_stepwise_prompt():
    text = render_prompt(THIRD, agent("search-stepwise")).shown
    assert f"Question: {ASK}" in text
    assert "[1] <search> Rex </search>\n<information>I1</information>" in text
    assert "[2] (no search and no answer)\nMy previous action is invalid." in text
    assert "t1" not in text
    last = render_prompt(replace(THIRD, history=TURNS[1:]), agent("search-stepwise")).shown
    assert "[1]" not in last
    assert "[2] (no search" in last


def test_the_compact_prompt():
    assert render_prompt(FIRST, agent("search-compact")).shown == f"{ASK}\n>"
    assert render_prompt(THIRD, agent("search-compact")).shown == (
        f"<search> Rex </search>\n<information>I1</information>\n\nMy previous action is invalid.\n{ASK}\n>"
    )


@pytest.mark.parametrize("style", STYLES)
def test_the_blind_prompt_is_constant(style):
    config = agent(style)
    other = replace(THIRD, goal="another?", observation="else", history=TURNS[:1], step=1, steps_taken=1)
    blind = {render_prompt(f, config, "goal_history").shown for f in (FIRST, THIRD, other)}
    assert len(blind) == 1
    (text,) = blind
    assert "Rex" not in text
    assert RESPONSE_BEGINS not in text
    assert ASK in render_prompt(THIRD, config, "history").shown
    assert "I1" not in render_prompt(THIRD, config, "history").shown
    assert ASK not in render_prompt(THIRD, config, "goal").shown
    assert "I1" in render_prompt(THIRD, config, "goal").shown


@pytest.mark.parametrize("style", STYLES)
def test_foreign_text_cannot_move_the_border(style):
    plain = render_prompt(replace(THIRD, observation="a b", goal="c d"), agent(style))
    odd = render_prompt(replace(THIRD, observation="a\x1fb", goal="c\x1fd"), agent(style))
    assert bool(odd.begun) == (style == "search-r1")
    assert odd.text.replace("\x1f", " ") == plain.text
    assert odd.begun.replace("\x1f", " ") == plain.begun
    assert odd.shown.count(RESPONSE_BEGINS) == (style == "search-r1")


class Plain:
    chat_template = None
    eos_token_id = 0

    def encode(self, text, add_special_tokens=True):
        return [ord(c) for c in text]


class Chat(Plain):
    chat_template = "yes"

    def apply_chat_template(self, messages, add_generation_prompt, tokenize):
        (message,) = messages
        return f"[user]{message['content']}[assistant]"


def test_the_transcript_stands_in_the_agents_own_message():
    prompt = Prompt("rules\n", "so far")
    shown = ["".join(map(chr, PromptEncoder(tokenizer).encode(prompt))) for tokenizer in (Plain(), Chat())]
    assert shown == ["rules\nso far", "[user]rules\n[assistant]so far"]


@pytest.mark.parametrize(
    "text, action, thought, problem",
    [
        ("<think> t </think> <search>q</search> x", "<think> t </think> <search>q</search>", "t", ""),
        ("<answer>a</answer><search>q</search>y", "<answer>a</answer><search>q</search>", "", ""),
        ("<answer> 北京 </answer>", "<answer> 北京 </answer>", "", ""),
        ("<search>q", "<search>q", "", "no_search_or_answer"),
        ("<SEARCH>q</SEARCH>", "<SEARCH>q</SEARCH>", "", "no_search_or_answer"),
        ("</search><search>q</search>", "</search>", "", "no_search_or_answer"),
        ("", "", "", "no_search_or_answer"),
    ],
)
def test_search_r1_responses(text, action, thought, problem):
    parsed = parse_response(text, "search_answer")
    assert (parsed.action, parsed.thought, parsed.problem, parsed.valid) == (action, thought, problem, not problem)


@pytest.mark.parametrize(
    "text, problem",
    [
        ("<think>t</think><search>q</search>", ""),
        ("<Answer>a</Answer>", ""),
        ("<search>q</search><answer>a</answer>", "more_than_one_action"),
        ("<search>q</search> <search>", "more_than_one_action"),
        ("<answer>a</answer><answer>b</answer>", "more_than_one_action"),
        ("<answer>a", "no_search_or_answer"),
    ],
)
def test_stepwise_responses(text, problem):
    parsed = parse_response(text, "search_answer_single")
    assert (parsed.problem, parsed.valid) == (problem, not problem)


def test_what_agent_and_environment_read_is_the_same(shared):
    """The agent judges the whole response, the environment acts on what the agent passes on."""
    import json

    from stapo.envs.search.protocols import read_search_r1, read_stepwise

    path = shared / "golden" / "searchqa" / "reward_cases.json"
    if not path.exists():
        pytest.skip(f"no recorded cases in {path}")
    cases = json.loads(path.read_text(encoding="utf-8"))
    texts = [c["in"] for c in cases["verl_agent_projection"]] + [c["solution"] for c in cases["solutions"]]
    for text in texts:
        assert parse_response(text, "search_answer_single").valid == read_stepwise(text).valid
        for form, read in (("search_answer", read_search_r1), ("search_answer_single", read_stepwise)):
            passed = read(parse_response(text, form).action)
            assert (passed.kind, passed.text) == (read(text).kind, read(text).text)
        assert parse_response(text, "search_answer").valid == read_search_r1(text).valid
