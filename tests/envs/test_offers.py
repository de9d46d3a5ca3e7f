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
