"""Which characters of a response each token stands for: always as many as the text has, in its order."""

from __future__ import annotations

import pytest
from chat_tokenizers import KINDS

from stapo.rollout.encoding import PromptEncoder
from stapo.training.transcript_details import token_characters
from toy_world import small_policy

SAID = ["go to desk 1", " think  search", "café \u4f60\u597d \U0001f600!", "<think>a</think> b", "\n\n  take", ""]


def pieces(ids, decode):
    lengths = token_characters(ids, decode)
    assert lengths is not None
    assert len(lengths) == len(ids)
    text, place, found = decode(ids), 0, []
    for length in lengths:
        found.append(text[place : place + length])
        place += length
    assert place == len(text)
    return found


@pytest.mark.parametrize("family", KINDS)
def test_pieces_of_every_family_add_up(family):
    tokenizer = KINDS[family]()
    decode = PromptEncoder(tokenizer).decode
    for said in SAID:
        ids = [*tokenizer.encode(said, add_special_tokens=False), tokenizer.eos_token_id]
        found = pieces(ids, decode)
        assert "".join(found) == decode(ids)
        assert found[-1] == "", "the end token shows nothing"


def test_each_token_has_its_own_characters():
    encoder = PromptEncoder(small_policy().tokenizer)
    tokenizer = encoder.tokenizer
    ids = [*tokenizer.encode("The judge \u4f60"), tokenizer.eos_token_id]
    found = pieces(ids, encoder.decode)
    assert found[-1] == ""
    # A character of three bytes belongs to the token with its last byte.
    assert found[-4:-1] == ["", "", "\u4f60"]
    assert "".join(found) == "The judge \u4f60"
    words = [tokenizer.convert_ids_to_tokens(i).replace("\u0120", " ") for i in ids[:-4]]
    assert found[: len(words)] == words


def test_bytes_that_make_no_characters_belong_to_the_last_token_or_to_nobody():
    encoder = PromptEncoder(small_policy().tokenizer)
    half = encoder.tokenizer.encode("\u4f60")[:2]
    assert pieces([*encoder.tokenizer.encode("a"), *half], encoder.decode)[-1].strip("\ufffd") == ""
    assert token_characters(half[1:] * 500, lambda ids: "\ufffd" * len(ids) + "x" * (len(ids) > 1)) is None


def test_a_text_that_its_tokens_do_not_make_has_no_pieces():
    assert token_characters([1, 2, 3], lambda ids: "abc" if len(ids) == 3 else "xy"[: len(ids)]) is None
    assert token_characters([], lambda ids: "") == []
