"""Numbered links and marked words: pages of web worlds as small policies are shown them.

1. A word is marked where the goal has it, whatever its case and ending; words without a subject never are.
2. Links are numbered in the order of the page, each command once; those that the goal asks for come in its order.
3. Marks come from the goal: a prompt that hides the goal has none, and is the prompt of an agent without marks.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from stapo.agent import AgentConfig, PromptFields, in_page_order, render_prompt
from stapo.agent.marking import covers, first_mention, mark_shared
from stapo.agent.pages import number_links
from stapo.envs.webshop.env import WebShopEnv
from stapo.errors import ConfigError

SHOP = WebShopEnv.command_shapes

GOAL = "Find me rose gold jars with lids with size: 2 ounce, and color: black, and price lower than 40.00 dollars"
PAGE = "Back to Search [SEP] < Prev [SEP] size [SEP] 0.5 ounce [SEP] 2 ounce [SEP] A Jar of Gold [SEP] Price: $7.99"
COMMANDS = ("click[0.5 ounce]", "click[2 ounce]", "click[< prev]", "click[back to search]", "search[jars]")
FIELDS = PromptFields(
    goal=GOAL, step=1, steps_taken=1, history=(), observation=f"{GOAL} [SEP] {PAGE}", blind_observation=PAGE,
    admissible=in_page_order(COMMANDS, PAGE, SHOP), earlier=("click[b0001]",), shapes=SHOP,
)  # fmt: skip


# -- 1 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, marked",
    [
        ("a ROSE Jar, a lid", "a ROSE* Jar*, a lid*"),
        ("rosewood and golden", "rosewood and golden"),
        ("the price of 2", "the price of 2*"),
        ("gas", "gas"),
        ("black-gold", "black*-gold*"),
        ("", ""),
        ("…", "…"),
    ],
)
def test_shared_words_are_marked(text, marked):
    assert mark_shared(text, GOAL) == marked


def test_marks_taken_away_leave_the_text():
    text = "Jars & lids (2 ounce) – ROSE gold/black, 12.5 x 3"
    assert mark_shared(text, GOAL).replace("*", "") == text
    assert mark_shared(text, "the price of it") == text


@pytest.mark.parametrize(
    "text, whole",
    [("2 ounce", True), ("2 Ounces", True), ("0.5 ounce", False), ("black", True), ("black lids only", False),
     ("the", False), ("", False)],
)  # fmt: skip
def test_a_text_is_covered_when_the_goal_has_all_its_words(text, whole):
    assert covers(GOAL, text) is whole


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_links_come_in_the_order_of_the_page_and_others_behind_them():
    assert in_page_order(COMMANDS, PAGE, SHOP) == (
        "click[back to search]", "click[< prev]", "click[0.5 ounce]", "click[2 ounce]", "search[jars]",
    )  # fmt: skip
    assert in_page_order(("look", "go to desk 1"), "You see a desk 1.", SHOP) == ("look", "go to desk 1")


def test_numbers_stand_before_links():
    page, found, asked = number_links(PAGE, in_page_order(COMMANDS, PAGE, SHOP), GOAL, SHOP)
    assert page == (
        "[1] Back to Search [SEP] [2] < Prev [SEP] size [SEP] [3] 0.5 ounce [SEP] [4] 2 ounce [SEP] A Jar of Gold"
        " [SEP] Price: $7.99"
    )
    assert found == {0, 1, 2, 3}
    assert asked == [4]
    assert number_links(PAGE, in_page_order(COMMANDS, PAGE, SHOP), None, SHOP) == (page, found, [])


def test_links_that_are_asked_for_come_in_the_order_of_the_goal():
    page = "color [SEP] black [SEP] white [SEP] size [SEP] 2 ounce [SEP] rose gold"
    commands = in_page_order(("click[2 ounce]", "click[black]", "click[rose gold]", "click[white]"), page, SHOP)
    assert number_links(page, commands, GOAL, SHOP)[2] == [4, 3, 1]
    assert number_links(page, commands, "white, black", SHOP)[2] == [2, 1]


@pytest.mark.parametrize(
    "text, place", [("Rose gold", 2), ("gold", 3), ("2 ounce", 9), ("ounce 2", 9), ("silver", 21), ("", 0)]
)
def test_where_a_goal_names_something(text, place):
    assert first_mention(GOAL, text) == place


def test_a_link_that_a_page_has_twice_gets_its_number_once():
    page, found, _ = number_links("red [SEP] Red", ("click[red]", "click[red]"), None, SHOP)
    assert (page, found) == ("[1] red [SEP] Red", {0})


def test_a_link_with_a_star_of_its_own_is_numbered_or_stays_in_the_list():
    assert number_links("5* black [SEP] white", ("click[5* black]",), None, SHOP)[:2] == (
        "[1] 5* black [SEP] white",
        {0},
    )
    assert number_links("5* black*", ("click[5* black]",), GOAL, SHOP) == ("5* black*", frozenset(), [])


def test_a_marked_page_keeps_its_links():
    page, found, asked = number_links(mark_shared(PAGE, GOAL), in_page_order(COMMANDS, PAGE, SHOP), GOAL, SHOP)
    assert "[4] 2* ounce*" in page
    assert "A Jar* of Gold*" in page
    assert (len(found), asked) == (4, [4])


# -- 3 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["standard", "compact", "webshop"])
@pytest.mark.parametrize("response", ["action", "choice", "think_action"])
def test_marks_are_where_the_goal_is(style, response):
    plain = AgentConfig(prompt=style, response=response)
    marking = replace(plain, mark_goal_words=True)
    for mask in ("none", "history"):
        text = render_prompt(FIELDS, marking, mask).shown
        assert "Jar* of Gold*" in text
        assert ("\nasked 4\n" in text) == (style == "compact" and response == "choice")
        assert "*" not in render_prompt(FIELDS, plain, mask).shown
    for mask in ("goal", "goal_history"):
        assert render_prompt(FIELDS, marking, mask).shown == render_prompt(FIELDS, plain, mask).shown


def test_prompts_of_questions_refuse_marks():
    with pytest.raises(ConfigError, match=r"agent\.mark_goal_words.*search-compact"):
        AgentConfig(prompt="search-compact", response="search_answer", mark_goal_words=True)
