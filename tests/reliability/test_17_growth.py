"""17. Reading takes time in proportion to length: 1 to 256 kB of every pattern that pattern matching stumbles over.

Time is this process's own, so that other work on the machine does not count. A reader that looks through the rest of a
text for every tag takes minutes for what is allowed a second here.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest

import stapo
from slow import slow_except
from stapo.agent import AgentConfig, PromptFields, Turn, parse_response, part_spans, render_prompt
from stapo.agent.marking import mark_shared
from stapo.agent.thoughts import quieted, thought_length, with_opening_tag
from stapo.envs.offers import offers
from stapo.envs.search import protocols, scoring
from stapo.policy.tokenizer import train_tokenizer
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.episode import token_parts
from stapo.texts import escape_control_chars, replace_surrogates

LARGEST = 256_000
ENOUGH = 1.0
"""Seconds of this process for the largest text, below which nobody asks how they grow."""

_LETTERS = random.Random(17)
PATTERNS = {
    "letters": "a", "capitals": "A", "digits": "1", "blanks": " ", "tabs": "\t", "lines": "\n", "opening": "<",
    "closing": ">", "cut tags": "<a", "words": "a b ", "numbered": "x1 ", "queries": "search[", "clicks": "click[a] ",
    "brackets": "]", "empty": "<>", "ends": "</", "answers": "<answer>", "searches": "<search>", "capital": "<SEARCH>",
    "both": "<search><answer>", "informed": "<information>", "closed": "</think>", "thought": "<think>",
    "action": "<action>", "ended": "</action>", "turned": "</search><search", "crossed": "<search></answer>",
    "blocks": "<answer>a</answer>", "assistant": "<|im_start|>assistant ", "half": "\ud800",
    "pairs": "\ude00\ud83d", "accents": "é", "faces": "😀", "long s": "ſ", "quotes": "'",
    "parts": " [SEP] ", "control": "\x1f", "the": "the ",
    "spaced tag": "< ", "attribute": "<think ", "slashes": "</ ",
    "random": "".join(_LETTERS.choices("abcdefgh", k=997)),
}  # fmt: skip


def text_of(pattern: str, size: int) -> str:
    return (pattern * (size // len(pattern) + 1))[:size]


def seconds(work, text: str) -> float:
    started = time.process_time()
    work(text)
    return time.process_time() - started


def assert_linear(work, pattern: str) -> None:
    largest = seconds(work, text_of(pattern, LARGEST))
    if largest > ENOUGH:
        # Eight times the text takes eight times as long, and 64 times where every part looks at every other.
        smaller = min(seconds(work, text_of(pattern, LARGEST // 8)) for _ in range(3))
        assert largest < 24 * smaller, f"{smaller:.2f} s for {LARGEST // 8}, {largest:.2f} s for {LARGEST} characters"


FORMATS = ("think_action", "tagged", "action", "choice", "search_answer", "search_answer_single")
READERS = {
    **{f"{f} response": lambda text, f=f: parse_response(text, f, listed=("look", "go")) for f in FORMATS},
    "spans": part_spans,
    "search-r1": protocols.read_search_r1,
    "stepwise": protocols.project_stepwise,
    "a page cut": lambda text: protocols.shorten(text, 500, None),
    "answer": lambda text: scoring.extract_answer(text),
    "form": lambda text: scoring.is_valid_sequence("<|im_start|>assistant" + text),
    "format reward": lambda text: scoring.format_reward("<|im_start|>assistant" + text, ["a", "the b"]),
    "sub_em": lambda text: scoring.sub_exact_match(text, ["a", "the b"]),
    "retrieval": lambda text: scoring.retrieval_correct(text + "</information>", ["zz"]),
    "offers": lambda text: offers(["look", "search[<your query>]", "say <what> to <whom>"], f"search[{text}]"),
    "an offer": lambda text: offers([text, f"search[{text}<q>{text}]"], "look"),
    "thought": thought_length,
    "opened thought": with_opening_tag,
    "quiet thought": lambda text: quieted(f"<think>{text}</think>"),
    "marks": lambda text: mark_shared(text, text),
    "escapes": escape_control_chars,
    "half characters": replace_surrogates,
}


@pytest.mark.parametrize("reader", READERS)
def test_readers(reader):
    for pattern in PATTERNS.values():
        assert_linear(READERS[reader], pattern)


STYLES = ("standard", "compact", "webshop", "search-r1", "search-stepwise", "search-compact")


@pytest.mark.parametrize("style", STYLES)
def test_prompts(style):
    agent = AgentConfig(prompt=style, response="choice" if style == "compact" else "action")
    fields = PromptFields("goal", 1, 1, (Turn("seen", "seen", "did"),), "now", "now", ("look", "click[a]"))

    def render(text):
        for changed in (
            {"goal": text},
            {"observation": text, "blind_observation": text},
            {"history": (Turn(text, text, text),)},
            {"admissible": (text, f"click[{text}]")},
        ):
            render_prompt(replace(fields, **changed), agent)

    for pattern in PATTERNS.values():
        assert_linear(render, pattern)


TEXTS = ["You arrive at cabinet 1. <think>a</think> click[b12] search[mug] [SEP] Warm Mug $21.0"] * 20


@pytest.mark.parametrize("cut", slow_except(["phrases", "words", "names"], "words"))
def test_built_in_tokenizers(cut):
    encoder = PromptEncoder(train_tokenizer(TEXTS, 330, cut))
    for name in ("letters", "cut tags", "digits", "random", "blanks"):
        assert_linear(encoder.encode, PATTERNS[name])


def test_the_parts_of_a_long_response():
    encoder = PromptEncoder(train_tokenizer(TEXTS, 330))
    ids = encoder.encode("<think>" + "a" * 20_000 + "</think><action>look</action>")
    assert set(token_parts(ids, encoder.decode)) == {"think", "action"}
    for pattern in ("<think>", "a", "</action>", "<think>a</think><action>"):
        assert_linear(lambda text: token_parts(encoder.encode(text), encoder.decode), pattern)


@pytest.mark.parametrize("name", slow_except(["alfworld", "webshop", "search"], "alfworld"))
def test_environments(name):
    env = stapo.make(name, **({"scenes": "tiny", "games_per_type": 1} if name == "alfworld" else {"size": "tiny"}))
    task = env.tasks[0]
    env.reset(task)

    def act(text):
        for action in (text, f"search[{text}]", f"<search>{text}", f"go to {text}"):
            if env.step(action).done:
                env.reset(task)

    for pattern in PATTERNS.values():
        assert_linear(act, pattern)
    env.close()
