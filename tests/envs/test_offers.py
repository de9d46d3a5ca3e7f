"""Offered commands: literal ones, and templates with a placeholder."""

from __future__ import annotations

import pytest

from stapo.envs.offers import is_template, offers

SHOP = ["click[buy now]", "click[next >]", "click[< prev]", "search[<your query>]"]


@pytest.mark.parametrize(
    ("command", "offered"),
    [
        ("click[buy now]", True),
        ("click[next >]", True),
        ("click[< prev]", True),
        ("click[red]", False),
        ("search[red mug]", True),
        ("search[ red mug ]", True),
        ("search[a]b]", True),
        ("search[red mug]\nclick[buy now]", False),
        ("search[red mug]\r\nclick[buy now]", False),
        ("search[red\u2028mug]", False),
        ("search[red mug] click[buy now]", False),
        ("search[red mug]search[blue mug]", False),
        ("search[]", False),
        ("search[  ]", False),
        ("search[red", False),
        ("search[", False),
        ("Search[red mug]", False),
        ("please search[red mug]", False),
        ("search[red mug] now", False),
        ("search[<your query>]", False),
        ("", False),
    ],
)
def test_shop(command, offered):
    assert offers(SHOP, command) is offered


def test_buttons_with_one_angle_bracket_are_literal():
    assert [is_template(command) for command in SHOP] == [False, False, False, True]


def test_a_placeholder_may_stand_anywhere():
    assert offers(["say <words> to guard"], "say open up to guard")
    assert not offers(["say <words> to guard"], "say  to guard")
    assert offers(["give <what> to <whom>"], "give mug to ann")


def test_the_affixes_of_a_template_do_not_overlap():
    assert not offers(["aa<x>aa"], "aaa")
    assert not offers(["aa<x>aa"], "aaaa")
    assert offers(["aa<x>aa"], "aabaa")


def test_no_offer_no_command():
    assert not offers([], "look")


@pytest.mark.parametrize(
    "command",
    [
        *(f"search[a]{line}click[b]" for line in "\n\r\x0b\x0c\x1c\x85\u2028\u2029"),
        *(f"search[a{line}]" for line in ("\n", "\u2028")),
        "search[a\nb]",
        "search[a] click[b]",
        "search[a]click[b]",
        "search[a]; click[b]",
        "search[a[b]] click[c]",
        "search[a] b",
        "search[\t]",
        "search[\u3000]",
        "\nsearch[a]",
        "search[a]\n",
    ],
)  # fmt: skip
def test_a_placeholder_stands_for_one_line_and_for_no_second_command(command):
    assert not offers(SHOP, command)


@pytest.mark.parametrize("query", ["mug [blue]", "a [b] c [d]", "price < 60.00", "a]b", "x > y", "<b>", "→ café"])
def test_signs_in_a_query_are_text(query):
    assert offers(SHOP, f"search[{query}]")


def test_no_placeholder_of_several_spans_lines():
    assert not offers(["give <what> to <whom>"], "give mug\nto ann")
