"""The phrase tokenizer: any text comes back as it went in, and a saved one cuts text as before."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers
from transformers import AutoTokenizer

from stapo.policy import ModelConfig, load_policy
from stapo.policy.config import EOS, PAD
from stapo.policy.tokenizer import PHRASE, train_tokenizer
from toy_world import small_policy

TEXTS = [
    "saw You arrive at cabinet 1. The cabinet 1 is closed.\ndid open cabinet 1\nnow You open the cabinet 1.\n"
    "can\ntake mug 2 from cabinet 1\ngo to shelf 1 desk 2\nstep 3\ngoal put a clean mug in shelf.\n>",
    "go to cabinet 1",
    "take mug 2 from cabinet 1",
] * 20
TOKENIZER = train_tokenizer(TEXTS, 400)
SAMPLES = [
    *TEXTS[:3],
    "",
    " ",
    "\n\n",
    "  two  blanks ",
    "naïve 我想 😀 \x00\x07",
    "UPPER case 12 ab12",
    "<think>x</think>",
]


@pytest.mark.parametrize("text", SAMPLES)
def test_round_trip(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text), skip_special_tokens=True) == text


@settings(max_examples=300, deadline=None)
@given(st.text().filter(lambda t: EOS not in t and PAD not in t))
def test_any_text_comes_back(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text), skip_special_tokens=True) == text


def test_entities_and_phrases_are_single_tokens():
    assert len(TOKENIZER.encode(" cabinet 1")) == 1
    assert len(TOKENIZER.encode("go to cabinet 1")) <= 3
    assert len(TOKENIZER) <= 400


@settings(max_examples=500, deadline=None)
@given(st.text(st.sampled_from("ab A1²١_-[<\nßé"), max_size=40))
def test_the_cut_into_phrases_is_the_simple_pattern(text):
    """The tokenizer's own pattern takes one pass where this one tries every letter anew."""
    simple = pre_tokenizers.Split(Regex(r" ?[a-z]+ \d+"), behavior="isolated")
    fast = pre_tokenizers.Split(Regex(PHRASE), behavior="isolated")
    assert fast.pre_tokenize_str(text) == simple.pre_tokenize_str(text)


def test_the_same_texts_give_the_same_tokens():
    assert train_tokenizer(TEXTS, 400).get_vocab() == TOKENIZER.get_vocab()


def test_the_end_token_ends_and_is_not_text():
    assert TOKENIZER.eos_token_id != TOKENIZER.pad_token_id
    assert TOKENIZER.decode([*TOKENIZER.encode("look"), TOKENIZER.eos_token_id], skip_special_tokens=True) == "look"
    assert TOKENIZER.eos_token_id not in TOKENIZER.encode("look")


class TestWords:
    """The cut for worlds whose text is titles and prices."""

    TEXTS = (
        "now Back to Search [SEP] Page 1 (Total results: 3) [SEP] B12 [SEP] Tamwick Warm Plain Mug [SEP] $21.0\n"
        "can\nsearch[<your query>]\nclick[b12] [back to search]\ngoal Find me plain, warm mug with color: blue\n>",
        "click[b12]",
        "search[plain warm mug]",
    ) * 20
    TOKENIZER = train_tokenizer(TEXTS, 500, "words")

    def pieces(self, text):
        return [self.TOKENIZER.decode([token]) for token in self.TOKENIZER.encode(text)]

    def test_titles_share_their_words_with_goals(self):
        assert self.pieces(" Warm Plain Mug [SEP]") == [" Warm", " Plain", " Mug", " [SEP]"]
        assert " Plain" in self.pieces(" Warm Plain Mug")
        assert " plain" in self.pieces("me plain, warm mug")

    def test_digits_and_brackets_stand_alone(self):
        assert self.pieces("click[b12]") == ["click", "[", "b", "1", "2", "]"]
        assert self.pieces(" $21.0") == [" $", "2", "1", ".", "0"]

    def test_numbers_never_seen_cost_a_token_a_digit(self):
        assert len(self.pieces("click[b97]")) == 6

    @settings(max_examples=200, deadline=None)
    @given(st.text().filter(lambda t: EOS not in t and PAD not in t))
    def test_any_text_comes_back(self, text):
        assert self.TOKENIZER.decode(self.TOKENIZER.encode(text), skip_special_tokens=True) == text


class TestNames:
    """The cut for worlds whose names are few enough to know them all."""

    TOKENIZER = train_tokenizer(TestWords.TEXTS + ("click[b07vqjm594] B07VQJM594 8oz 100.0",) * 20, 700, "names")

    def pieces(self, text):
        return [self.TOKENIZER.decode([token]) for token in self.TOKENIZER.encode(text)]

    def test_letters_and_digits_stay_together(self):
        assert self.pieces("click[b07vqjm594]") == ["click", "[", "b07vqjm594", "]"]
        assert self.pieces(" B07VQJM594 8oz 100.0") == [" B07VQJM594", " 8oz", " 100", ".", "0"]
        assert self.pieces(" Warm Plain Mug [SEP]") == [" Warm", " Plain", " Mug", " [SEP]"]

    @settings(max_examples=200, deadline=None)
    @given(st.text().filter(lambda t: EOS not in t and PAD not in t))
    def test_any_text_comes_back(self, text):
        assert self.TOKENIZER.decode(self.TOKENIZER.encode(text), skip_special_tokens=True) == text


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
def test_a_saved_tokenizer_cuts_text_as_before(tmp_path, architecture):
    """Also for those who load the checkpoint with plain transformers.

    The exception is qwen2: there `AutoTokenizer` overrules what was saved by the cut of the Qwen2 family.
    """
    policy = small_policy(architecture=architecture)
    policy.save(tmp_path)
    tokenizers = [load_policy(str(tmp_path), ModelConfig(device="cpu")).tokenizer]
    if architecture != "qwen2":
        tokenizers.append(AutoTokenizer.from_pretrained(tmp_path))
    for tokenizer in tokenizers:
        for text in SAMPLES:
            assert tokenizer.encode(text) == policy.tokenizer.encode(text), type(tokenizer)
            assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.eos_token_id == policy.tokenizer.eos_token_id
        assert tokenizer.pad_token_id == policy.tokenizer.pad_token_id
        assert len(tokenizer) == len(policy.tokenizer)
