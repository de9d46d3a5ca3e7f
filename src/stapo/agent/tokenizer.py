"""A tokenizer trained on environment text, for policies that are built from scratch.

Byte-level BPE whose pre-tokenizer keeps every entity ("cabinet 1") apart from the words around it and lets fixed
phrases ("You arrive at") merge whole. Prompts shrink to about a third of their word count, and any text, also text
never seen in training, round-trips exactly.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

_ENTITY = r" ?[a-z]+ \d+"
_MARK = r"\n"
# The names that Qwen2 tokenizers use: `AutoTokenizer` would add them to a Qwen2 model's vocabulary otherwise.
EOS, PAD = "<|im_end|>", "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train the phrase tokenizer.

    Args:
        texts: prompts and commands as the policy will see and write them.
        vocab_size: upper bound on the number of tokens, at least 300 (256 bytes and the special tokens).

    Returns:
        a fast tokenizer with eos and pad tokens and no chat template.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_MARK), behavior="isolated"),
            pre_tokenizers.Split(Regex(_ENTITY), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )
