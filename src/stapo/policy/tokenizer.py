"""A tokenizer trained on environment text, for policies that are built from scratch.

Byte-level BPE; any text, also text never seen in training, round-trips exactly. Three cuts:

- `phrases` keeps every entity ("cabinet 1") apart from the words around it and lets fixed phrases ("You arrive at")
  merge whole. Prompts of worlds with set sentences shrink to about a third of their word count.
- `words` never merges across words, digits or brackets. A world whose text is product titles and prices needs it: a
  title that merged whole would share no token with the goal that asks for the same words in another order, and a
  number that merged whole could not be copied before it was seen. A tag such as <search> stays one piece.
- `names` is `words` that leaves letters and digits together: "B07VQJM594" or "8oz" is one token where the vocabulary
  has room for it. A small model copies one token long before it can spell ten; it needs a world whose names all occur
  in what the tokenizer is trained on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from stapo.policy.config import EOS, PAD, SPECIAL

Cut = Literal["phrases", "words", "names"]

_MARK = r"\n"
# Begins where letters begin, and gives none back: tried anew at each letter, a text without blanks takes hours.
PHRASE = r" ?(?<![a-z])[a-z]++ \d+"
"""A noun and its number."""

_SPLITS: dict[Cut, tuple[str, ...]] = {
    "phrases": (_MARK, PHRASE),
    # One pattern: a second one would cut what the first has isolated.
    "words": (r"\n| \[SEP\]| ?</?[a-z]+>| ?[^\W\d_]+|\d| ?[^\w\s]",),
    "names": (r"\n| \[SEP\]| ?</?[a-z]+>| ?[^\W_]+| ?[^\w\s]",),
}
_SPECIAL = re.compile(f"(?<=<)(?={re.escape(EOS[1:])}|{re.escape(PAD[1:])})")


def train_tokenizer(texts: Iterable[str], vocab_size: int, cut: Cut = "phrases") -> PreTrainedTokenizerFast:
    """Train the tokenizer of a small model.

    Args:
        texts: prompts and commands as the policy will see and write them.
        vocab_size: upper bound on the number of tokens, at least 300 (256 bytes and the special tokens).
        cut: where tokens must end; see the module docstring.

    Returns:
        a fast tokenizer with eos and pad tokens and no chat template.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in _SPLITS[cut]),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Else characters of a text could merge into one of these two.
    pieces = (piece for text in texts for piece in _SPECIAL.split(text) if piece)
    tokenizer.train_from_iterator(pieces, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )
