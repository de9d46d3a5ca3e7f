"""Tokens of thought and action: exact for whatever way a tokenizer cuts the text."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from stapo.agent import part_spans
from stapo.policy.tokenizer import train_tokenizer
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.episode import token_parts

PIECES = ["<think>", "</think>", "<action>", "</action>", "go to ", "desk 1", "é", "→", "😀", "<", "İ", " ", "\n"]


def characters(ids):
    """Decode a tokenizer whose token i is the i-th piece."""
    return "".join(PIECES[i] for i in ids)


def byte_decoder(ids):
    """Every byte is a token; unfinished characters decode to one replacement character."""
    return bytes(ids).decode("utf-8", errors="replace")


def byte_fallback(ids):
    """As Llama does it: while a character is unfinished, each of its bytes decodes to a replacement character."""
    vocab = {f"<0x{b:02X}>": b for b in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer.decode(list(ids), skip_special_tokens=False)


@pytest.mark.parametrize("decode", [byte_decoder, byte_fallback])
@pytest.mark.parametrize("action", ["go to desk 1", "→", "😀 a →", "é<"])
def test_one_byte_per_token(decode, action):
    text = f"é😀<think>→ wait 😀</think> <action>{action}</action>→"
    parts = token_parts(list(text.encode()), decode)
    raw = text.encode()
    assert raw[slice(*parts["action"])].decode() == action
    assert raw[slice(*parts["think"])].decode() == "→ wait 😀"


def test_tokens_that_carry_a_bracket_and_text_count():
    pieces = ["<thi", "nk>so", " it", " is</", "think><act", "ion>g", "o</action>", "!"]
    parts = token_parts(range(len(pieces)), lambda ids: "".join(pieces[i] for i in ids))
    assert parts == {"think": (1, 4), "action": (5, 7)}


def test_both_tags_and_text_in_one_token():
    text = "<think>a</think><action>b</action>"
    assert token_parts([0], lambda ids: text if ids else "") == {"think": (0, 1), "action": (0, 1)}


@pytest.mark.parametrize(
    "text", ["", "go", "<think>a<action>b", "<think></think><action></action>", "</action>x<action>"]
)
def test_missing_and_empty_parts_have_no_tokens(text):
    assert token_parts(list(text.encode()), byte_decoder) == {}


def test_the_end_token_and_skipped_tokens():
    """Special tokens have no text: before a part they are not in it, inside it they are."""
    pieces = {0: "", 1: "<action>", 2: "look", 3: "</action>"}
    decode = lambda ids: "".join(pieces[i] for i in ids)  # noqa: E731
    assert token_parts([0, 1, 2, 3, 0], decode) == {"action": (2, 3)}
    assert token_parts([1, 2, 0, 2, 3], decode)["action"] == (1, 4)


def test_a_decoder_that_is_not_incremental_is_survived():
    rng = random.Random(0)
    text = "<think>a</think><action>b</action>"
    for _ in range(50):
        parts = token_parts(range(30), lambda ids: text if len(ids) == 30 else text[: rng.randrange(40)])
        assert all(0 <= first < end <= 30 for first, end in parts.values())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=30))
def test_any_sequence_of_pieces(ids):
    parts = token_parts(ids, characters)
    text = characters(ids)
    for part, (start, end) in part_spans(text).items():
        # Here a token never straddles a tag, except that "<" is one of its own.
        expected = text[start:end]
        assert ("" if part not in parts else characters(ids[slice(*parts[part])])) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 319), max_size=40))
def test_any_sampled_ids_of_a_byte_level_tokenizer(ids):
    decode = PHRASES.decode
    for first, end in token_parts(ids, decode).values():
        assert 0 <= first < end <= len(ids)


def test_sampled_ids_that_the_tokenizer_would_never_write():
    """The tokens are those sampled: letter by letter where the tokenizer would write one token."""
    letters = [t for c in "<action>go</action>" for t in PHRASES.tokenizer.encode(c)]
    assert token_parts(letters, PHRASES.decode) == {"action": (8, 10)}


def _phrases() -> PromptEncoder:
    tokenizer: PreTrainedTokenizerFast = train_tokenizer(["<think>so</think><action>go to desk 1</action>"] * 9, 320)
    return PromptEncoder(tokenizer)


PHRASES = _phrases()
