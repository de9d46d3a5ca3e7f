"""Scores of answers: worked by hand, and equal to those that the published scorers gave."""

from __future__ import annotations

import json

import pytest

from stapo.envs.search import scoring
from stapo.envs.search.protocols import project_stepwise

EXAMPLE = "Write the answer as <answer> Lisbon </answer>. Question: who?\n"
START = "<|im_start|>assistant\n"
FOUND = "<think>t</think><search>q</search>\n<information>Doc 1 The Rex</information>\n<think>t</think>"


@pytest.fixture(scope="module")
def golden(shared):
    path = shared / "golden" / "searchqa" / "reward_cases.json"
    if not path.exists():
        pytest.skip(f"no recorded scores in {path}")
    return json.loads(path.read_text(encoding="utf-8"))


def test_recorded_scores(golden):
    assert len(golden["solutions"]) == 260
    for case in golden["solutions"]:
        text, golds = case["solution"], case["golden"]
        answer, written = scoring.extract_answer(text, least=2), scoring.extract_answer(text)
        assert answer == case["extracted_needs_2_matches"]
        assert float(answer is not None and scoring.exact_match(answer, golds)) == case["em"]
        assert float(answer is not None and scoring.sub_exact_match(answer, golds)) == case["subem"]
        assert (written is not None and scoring.exact_match(written, golds)) == case["verl_agent_em_1_match_enough"]
        assert scoring.is_valid_sequence(text) == case["valid_format"]
        assert scoring.retrieval_correct(text, golds) == case["retrieval_correct"]
        assert scoring.format_reward(text, golds) == case["format_reward(0.2,0.1,0)"]
        assert scoring.format_reward(text, golds, retrieval=0.1) == case["format_reward(0.2,0.1,0.1)"]


def test_recorded_normal_forms(golden):
    assert len(golden["normalize"]) == 15
    for case in golden["normalize"]:
        assert scoring.normalize_answer(case["in"]) == case["out"]


def test_recorded_projections(golden):
    assert len(golden["verl_agent_projection"]) == 10
    for case in golden["verl_agent_projection"]:
        assert project_stepwise(case["in"]) == (case["action"], bool(case["valid"]))


@pytest.mark.parametrize(
    "text, normal",
    [
        ("The U.S.A.", "usa"),  # the article goes, the letters stay together
        ("Theatre of the Absurd", "theatre of absurd"),
        ("an_the a-the", "anthe athe"),  # punctuation goes first and joins words, so no article is left
        ("«The» Café’s", "« » café’s"),  # punctuation other than ASCII stays, and is the edge of a word
        ("ÉCOLE\u00a0a\u2003b", "école b"),
        ("İ", "i̇"),
        ("1,234.50 €", "123450 €"),
        ("-5", "5"),
        ("\ud800 a", "\ud800"),
    ],
)
def test_normal_form(text, normal):
    assert scoring.normalize_answer(text) == normal


def test_one_of_several_answers_is_enough():
    assert scoring.exact_match("two", ["7", "Two."])
    assert not scoring.exact_match("seven two", ["7", "two"])
    assert scoring.sub_exact_match("it is Two o'clock", ["7", "two"])
    # Letters are compared and not words: the published rule.
    assert scoring.sub_exact_match("17", ["7"])
    assert scoring.exact_match("7", "7")
    assert scoring.exact_match("7", [7])
    assert not scoring.exact_match("7", [])
    assert scoring.exact_match("", ["the"])
    assert scoring.sub_exact_match("anything", [""])


@pytest.mark.parametrize(
    "text, least, answer",
    [
        ("<answer>a</answer>", 1, "a"),
        ("<answer>a</answer>", 2, None),
        ("<answer>a</answer>", 0, "a"),
        ("no answer", 0, None),
        (EXAMPLE + "<answer> b </answer>", 2, "b"),
        ("<answer>a</answer><answer>b", 1, "a"),
        ("<answer>a<answer>b</answer>", 1, "a<answer>b"),
        ("</answer>a<answer>", 1, None),
        ("<answer>a\nb</answer>", 1, "a\nb"),
        ("<ANSWER>a</ANSWER>", 1, None),
        ("<answer></answer>", 1, ""),
        ("<answer>a</answer></answer>", 1, "a"),
    ],
)
def test_extracted_answer(text, least, answer):
    assert scoring.extract_answer(text, least) == answer


@pytest.mark.parametrize(
    "sequence, well",
    [
        ("<think>t</think><answer>a</answer>", True),
        (" \n<think></think>\t<answer></answer>\n ", True),
        (FOUND + "<answer>a</answer>", True),
        (FOUND + FOUND[16:] + "<answer>a</answer>", True),
        ("<answer>a</answer>", False),
        ("<think>t</think>so<answer>a</answer>", False),
        ("<think>t</think><answer>a</answer>.", False),
        ("<think>t</think><answer>a</answer><think>t</think>", False),
        ("<think>t<think>t</think></think><answer>a</answer>", False),
        ("<think>t</think><search>q</search><answer>a</answer>", False),
        ("<think>t</think><search>q</search><information>i</information><answer>a</answer>", False),
        ("<think>a <answer>b</answer></think><answer>a</answer>", False),
        ("<think>t</think><answer>a", False),
        ("<think>t</think>", False),
        ("<Think>t</Think><think>t</think><answer>a</answer>", False),
        ("<think>a <b>c</b></think><answer>a</answer>", True),
        ("", False),
    ],
)
def test_well_formed(sequence, well):
    assert scoring.is_well_formed(sequence) is well
    assert scoring.is_valid_sequence(EXAMPLE + START + sequence) is well
    assert scoring.is_valid_sequence(sequence) is False


def test_reward_with_a_share_for_form():
    """Table of the docstring, with shares that tell the cells apart."""
    shares = {"structure": 0.3, "final": 0.05, "retrieval": 0.2}
    good, head = FOUND + "<answer>rex</answer>", EXAMPLE + START
    assert scoring.format_reward(head + good, ["Rex"], **shares) == 1.0
    assert scoring.format_reward(head + good + "!", ["Rex"], **shares) == 0.7
    assert scoring.format_reward(head + FOUND + "<answer>no</answer>", ["Rex"], **shares) == 0.5
    assert scoring.format_reward(head + FOUND + "<answer>no</answer>", ["Max"], **shares) == 0.3
    assert scoring.format_reward(head + FOUND + "<answer>no</answer>!", ["Rex"], **shares) == 0.05
    assert scoring.format_reward(head + FOUND, ["Rex"], **shares) == 0.0
    # Without the example in the prompt one answer is too few, and a well-formed sequence counts as wrong.
    assert scoring.format_reward(START + good, ["Rex"], **shares) == 0.5
    assert scoring.format_reward(START + good, ["Rex"], **shares, least=1) == 1.0
