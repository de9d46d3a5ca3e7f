"""Reading actions and wording results, as the two published protocols do."""

from __future__ import annotations

import json

import pytest

from stapo.envs.search.protocols import (
    PROTOCOLS,
    Act,
    cut_response,
    project_stepwise,
    read_search_r1,
    read_stepwise,
    shorten,
)
from stapo.retrieval.protocol import Passage

PAGE = [Passage("1", "Rex", "A king.", 2.0), Passage("2", 'The "Max"', "A\nqueen.", 1.0)]


@pytest.mark.parametrize(
    "text, cut",
    [
        ("a</search>b</search>", "a</search>"),
        ("a</answer>b</search>c", "a</answer>b</search>"),
        ("a</answer>b</answer>", "a</answer>"),
        ("nothing", "nothing"),
        ("a</SEARCH>b", "a</SEARCH>b"),
        ("", ""),
    ],
)
def test_cut(text, cut):
    assert cut_response(text) == cut


@pytest.mark.parametrize(
    "text, act",
    [
        ("<think>t</think> <search> q </search> rest", Act("search", "q", True)),
        ("<answer>a</answer>", Act("answer", "a", True)),
        ("<answer>a</answer><search>q</search>", Act("answer", "a", True)),
        ("<search>q</search><answer>a</answer>", Act("search", "q", True)),
        ("<search>q <answer>a</answer></search>", Act("search", "q <answer>a</answer>", True)),
        ("<search>q</answer><answer>a</answer>", Act("invalid", "", False)),
        ("<search></search>", Act("search", "", True)),
        ("<SEARCH>q</SEARCH>", Act("invalid", "", False)),
        ("<search>q", Act("invalid", "", False)),
        ("</search><search>q</search>", Act("invalid", "", False)),
        ("\x00\ud800", Act("invalid", "", False)),
    ],
)
def test_search_r1_reads(text, act):
    assert read_search_r1(text) == act


@pytest.mark.parametrize(
    "text, act",
    [
        ("<think>t</think><search> q </search>", Act("search", "q", True)),
        ("<Answer> a </aNSWER>", Act("answer", "a", True)),
        ("<answer>a</answer><search>q</search>", Act("search", "q", False)),
        ("<answer>a</answer><search>", Act("answer", "a", False)),
        ("<search>q</search><search>", Act("search", "q", False)),
        ("<search><search>q</search>", Act("search", "<search>q", False)),
        ("</search><search>q</search>", Act("invalid", "", False)),
        ("<answer>a", Act("invalid", "", False)),
        ("q", Act("invalid", "", False)),
    ],
)
def test_stepwise_reads(text, act):
    assert read_stepwise(text) == act


def test_projection():
    assert project_stepwise("x<search> q </search>y") == ("<search>q</search>", True)
    assert project_stepwise("q") == ("", False)


def test_results():
    r1, stepwise = PROTOCOLS["search-r1"], PROTOCOLS["stepwise"]
    assert r1.results(r1.page(PAGE)) == (
        '\n\n<information>Doc 1(Title: "Rex") A king.\nDoc 2(Title: "The "Max"") A\nqueen.</information>\n\n'
    )
    shown = stepwise.results(stepwise.page(PAGE))
    head, tail = "<information>", "</information>"
    assert json.loads(shown.removeprefix(head).removesuffix(tail)) == {
        "result": 'Doc 1: "Rex"\nA king.\nDoc 2: "The "Max""\nA\nqueen.'
    }


def test_limits_of_the_papers():
    r1, stepwise = PROTOCOLS["search-r1"], PROTOCOLS["stepwise"]
    assert (r1.max_steps, r1.result_tokens) == (5, 500)
    assert (stepwise.max_steps, stepwise.result_tokens, stepwise.invalid) == (4, None, "")


@pytest.mark.parametrize(
    "tokens, characters, page",
    [
        (None, None, "One, two. 3.5"),
        (1, None, "One"),
        (3, None, "One, two"),
        (6, None, "One, two. 3."),
        (7, None, "One, two. 3.5"),
        (99, None, "One, two. 3.5"),
        (None, 4, "One,"),
        (3, 2, "On"),
    ],
)
def test_shorten(tokens, characters, page):
    assert shorten("One, two. 3.5", tokens, characters) == page
