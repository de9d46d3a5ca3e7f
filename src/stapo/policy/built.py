"""What tells a model that was built and trained here from a pretrained one: the special tokens of its tokenizer."""

from __future__ import annotations

from pathlib import Path

from stapo.documents import lookup, parse_json

# The names that Qwen2 tokenizers use: `AutoTokenizer` would add them to a Qwen2 model's vocabulary otherwise.
EOS, PAD = "<|im_end|>", "<|endoftext|>"
SPECIAL = (PAD, EOS)
"""Special tokens of a tokenizer that is trained here, in the order of their ids, and no others."""


def is_built_here(path: str) -> bool:
    """Whether a folder holds a small model that was built here, and not a pretrained one."""
    try:
        tokens = lookup(parse_json((Path(path).expanduser() / "tokenizer.json").read_bytes()), "added_tokens")
        return {token["id"]: token["content"] for token in tokens} == dict(enumerate(SPECIAL))
    except (OSError, ValueError, KeyError, TypeError):
        return False
