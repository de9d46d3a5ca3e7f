"""The conversation prompt.

1. The first message holds role, goal and rules; each turn shows an observation and what was said.
2. Commands are listed at every turn, once, or never.
3. What is hidden in blind prompts: the goal, the turns, or both; their style can be another.
4. Thoughts of past turns are kept as they were sampled, or dropped.
5. Turns that were forgotten are said to have been taken; the older half goes at once.
6. Settings that cannot be are refused.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from stapo.agent import AgentConfig, Exchange, Memory, PromptFields, Turn, render_prompt
from stapo.errors import ConfigError

AGENT = AgentConfig(prompt="conversation", response="action")
SAUNA = "put a hot mug on the desk."
TURNS = (
    Turn(f"You see a desk. {SAUNA}", "You see a desk.", "look", "look", (7, 1), ("look", "go to desk 1")),
    Turn("A desk.", "A desk.", "go to desk 1", "<think>hm</think>go to desk 1", (8, 9, 1), ("look",)),
)
FIELDS = PromptFields(SAUNA, 2, 2, TURNS, "On it is a mug.", "On it is a mug.", ("take mug 1", "look"))


def fields(**changes):
    return replace(FIELDS, **changes)


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_the_first_message_holds_role_goal_and_rules():
    prompt = render_prompt(FIELDS, AGENT)
    role, goal, rules = prompt.system.splitlines()
    assert "one command at a time" in role
    assert goal == f"Goal: {SAUNA}"
    assert "exactly one command" in rules
    assert prompt.shown.count(SAUNA) == 1


def test_each_turn_is_what_was_seen_and_what_was_sampled():
    never = replace(AGENT, list_commands="never")
    prompt = render_prompt(FIELDS, never)
    assert prompt.turns == (
        Exchange("You see a desk.", "look", (7, 1)),
        Exchange("A desk.", "<think>hm</think>go to desk 1", (8, 9, 1)),
    )
    assert prompt.text == "On it is a mug."
    assert prompt.begun == ""


def test_a_prompt_is_the_last_one_with_a_turn_more():
    last = render_prompt(fields(step=1, steps_taken=1, history=TURNS[:1], observation="A desk.",
                                blind_observation="A desk.", admissible=("look",)), AGENT)  # fmt: skip
    now = render_prompt(FIELDS, AGENT)
    assert now.system == last.system
    assert now.turns[:1] == last.turns
    assert now.turns[1].text == last.text


@pytest.mark.parametrize(
    "response, words",
    [
        ("think_action", "<think>"),
        ("search_answer", "<search>"),
        ("action", "exactly one command"),
        ("choice", "number"),
    ],
)
def test_the_rules_are_those_of_the_response_format(response, words):
    assert words in render_prompt(FIELDS, replace(AGENT, response=response)).system


def test_shown_reads_like_a_conversation():
    lines = render_prompt(FIELDS, replace(AGENT, list_commands="never")).shown.splitlines()
    assert lines[3:] == ["You see a desk.", "> look", "A desk.", "> <think>hm</think>go to desk 1", "On it is a mug."]


# -- 2 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting, where", [("auto", [1, 1, 1]), ("every_turn", [1, 1, 1]), ("once", [1, 0, 0]), ("never", [0, 0, 0])]
)
def test_where_commands_are_listed(setting, where):
    prompt = render_prompt(FIELDS, replace(AGENT, list_commands=setting))
    texts = [*(turn.text for turn in prompt.turns), prompt.text]
    assert [text.count("Commands: ") for text in texts] == where
    if setting == "every_turn":
        assert texts[0].endswith("Commands: look; go to desk 1")
        assert texts[2].endswith("Commands: take mug 1; look")


def test_constrained_decoding_needs_no_list():
    prompt = render_prompt(FIELDS, replace(AGENT, decode="constrained"))
    assert "Commands" not in prompt.shown
    assert "1. take mug 1" in render_prompt(FIELDS, replace(AGENT, response="choice", decode="constrained")).shown


def test_numbers_stand_in_front_of_the_commands_to_choose_from():
    prompt = render_prompt(FIELDS, replace(AGENT, response="choice"))
    assert prompt.text.endswith("Commands: 1. take mug 1; 2. look")


def test_free_text_has_no_list():
    assert "Commands" not in render_prompt(fields(admissible=None, history=()), AGENT).shown


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_a_blind_conversation_has_no_goal_and_the_observation_as_its_only_turn():
    prompt = render_prompt(FIELDS, AGENT, "goal_history")
    assert prompt.turns == ()
    assert SAUNA not in prompt.shown
    assert "exactly one command" in prompt.system
    assert prompt.text == render_prompt(FIELDS, AGENT).text
    assert "Steps taken" not in prompt.system


def test_one_part_can_be_hidden_alone():
    goal = render_prompt(FIELDS, AGENT, "goal")
    assert SAUNA not in goal.shown
    assert len(goal.turns) == 2
    history = render_prompt(FIELDS, AGENT, "history")
    assert SAUNA in history.system
    assert history.turns == ()


def test_blind_prompts_can_have_another_style():
    mixed = replace(AGENT, blind_prompt="standard")
    assert render_prompt(FIELDS, mixed) == render_prompt(FIELDS, AGENT)
    blind = render_prompt(FIELDS, mixed, "goal_history")
    assert blind == render_prompt(FIELDS, AgentConfig(prompt="standard", response="action"), "goal_history")


def test_own_queries_are_hidden_where_they_repeat_the_goal():
    from stapo.agent import CommandShapes

    asked = Turn("A shop.", "A shop.", "search[hot mug]", "search[hot mug]", (3, 4, 1), None)
    shop = fields(history=(asked, TURNS[1]), shapes=CommandShapes(query=("search[", "]")))
    prompt = render_prompt(shop, replace(AGENT, mask_own_queries=True), "goal")
    assert prompt.turns[0] == Exchange("A shop.", "search[…]", None)
    assert prompt.turns[1].ids == (8, 9, 1)
    assert render_prompt(shop, replace(AGENT, mask_own_queries=True)).turns[0].ids == (3, 4, 1)


# -- 4 -----------------------------------------------------------------------------------------------------------------


def test_thoughts_are_dropped_where_that_is_asked_for():
    prompt = render_prompt(FIELDS, replace(AGENT, earlier_thoughts="drop"))
    assert prompt.turns[0].ids == (7, 1)
    assert (prompt.turns[1].said, prompt.turns[1].ids) == ("go to desk 1", None)


# -- 5 -----------------------------------------------------------------------------------------------------------------


def test_forgotten_turns_are_counted_in_the_first_message():
    prompt = render_prompt(fields(steps_taken=9), AGENT)
    assert prompt.system.splitlines()[-1] == "Steps taken before what follows: 7."
    assert "Steps taken" not in render_prompt(fields(steps_taken=9), AGENT, "history").system


def test_a_memory_without_a_length_keeps_every_turn_and_forgets_half_at_once():
    memory = Memory(None)
    for number in range(7):
        memory.add(Turn("", "", str(number)))
    assert [turn.action for turn in memory.recall()] == list("0123456")
    assert memory.forget_half() == 4
    assert [turn.action for turn in memory.recall()] == ["4", "5", "6"]
    assert memory.steps_taken == 7
    assert [memory.forget_half() for _ in range(3)] == [2, 1, 0]


# -- 6 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, said",
    [
        ({"list_commands": "sometimes"}, "every_turn"),
        ({"earlier_thoughts": "forget"}, "keep, drop"),
        ({"blind_prompt": "standart"}, "standard"),
        ({"response": "choice", "list_commands": "never"}, "every_turn"),
        ({"mark_goal_words": True}, "marks"),
    ],
)
def test_settings_that_cannot_be(values, said):
    with pytest.raises(ConfigError, match=said):
        AgentConfig(**{"prompt": "conversation", "response": "action", **values})
