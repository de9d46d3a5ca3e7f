"""Between prompt text and token ids, with and without a chat template."""

from __future__ import annotations

import pytest

from stapo.rollout.encoding import PromptEncoder
from toy_world import small_policy

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def tokenizer():
    return small_policy().tokenizer


def test_a_plain_tokenizer_gets_the_prompt_as_it_stands(tokenizer):
    encoder = PromptEncoder(tokenizer)
    assert not encoder.uses_chat_template
    assert encoder.encode("now A judge.\n>") == tokenizer.encode("now A judge.\n>")


def test_a_chat_tokenizer_gets_one_user_message_and_the_cue_to_answer(tokenizer):
    tokenizer.chat_template = TEMPLATE
    encoder = PromptEncoder(tokenizer)
    assert encoder.uses_chat_template
    ids = encoder.encode("now A judge.\n>")
    assert tokenizer.decode(ids) == "<|user|>now A judge.\n><|im_end|><|assistant|>"
    assert ids.count(tokenizer.eos_token_id) == 1


def test_what_the_caller_does_to_the_ids_is_not_remembered(tokenizer):
    encoder = PromptEncoder(tokenizer)
    first = encoder.encode("hello")
    expected = list(first)
    first.append(7)
    assert encoder.encode("hello") == expected


def test_a_demonstrated_response_ends(tokenizer):
    encoder = PromptEncoder(tokenizer)
    ids = encoder.encode_response("go to desk 1")
    assert ids[-1] == tokenizer.eos_token_id
    assert encoder.decode(ids) == "go to desk 1"


@pytest.mark.parametrize("template", [None, TEMPLATE])
@pytest.mark.parametrize("text", ["\ud800 broken \udfff", "\x00\x1b[31m", "我想 😀", "", "x" * 10_000])
def test_no_text_of_a_world_breaks_it(tokenizer, template, text):
    tokenizer.chat_template = template
    encoder = PromptEncoder(tokenizer)
    assert text.encode("utf-8", "replace").decode() in tokenizer.decode(encoder.encode(text))
