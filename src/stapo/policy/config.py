"""Settings of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from stapo.errors import ConfigError

DType = Literal["float32", "bfloat16"]
Architecture = Literal["qwen2", "qwen3", "llama"]
Tokenization = Literal["phrases", "words"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model is trained.

    Attributes:
        path: folder or name of a pretrained model (safetensors only, remote code off). Without it a small Qwen2-type
            model is built from the sizes below, and its tokenizer is trained on environment text.
        architecture: model type that is built.
        dtype: number type of the weights.
        device: `auto` takes a GPU where there is one.
        hidden_size: width of the small model.
        layers: its depth.
        heads: attention heads; must divide `hidden_size`.
        intermediate_size: width of its feed-forward layers.
        vocab_size: upper bound for the trained tokenizer.
        tokenizer: where the trained tokenizer must cut: `phrases` merges set sentences whole (ALFWorld), `words` cuts
            at words, digits and brackets (WebShop).
        rope_theta: base of the rotary position embedding.
        initializer_range: standard deviation of the initial weights.
    """

    path: str | None = None
    architecture: Architecture = "qwen2"
    dtype: DType = "float32"
    device: str = "auto"
    hidden_size: int = 64
    layers: int = 2
    heads: int = 4
    intermediate_size: int = 256
    vocab_size: int = 640
    tokenizer: Tokenization = "phrases"
    rope_theta: float = 1e6
    initializer_range: float = 0.1

    def __post_init__(self) -> None:
        if self.architecture not in get_args(Architecture):
            raise ConfigError(
                f"model.architecture is '{self.architecture}', expected one of {', '.join(get_args(Architecture))}."
            )
        if self.tokenizer not in get_args(Tokenization):
            raise ConfigError(
                f"model.tokenizer is '{self.tokenizer}', expected one of {', '.join(get_args(Tokenization))}."
            )
        if self.dtype not in get_args(DType):
            raise ConfigError(f"model.dtype is '{self.dtype}', expected one of {', '.join(get_args(DType))}.")
        for field in ("hidden_size", "layers", "heads", "intermediate_size"):
            if getattr(self, field) < 1:
                raise ConfigError(f"model.{field} is {getattr(self, field)}, expected at least 1.")
        if self.hidden_size % (2 * self.heads):
            raise ConfigError(
                f"model.hidden_size is {self.hidden_size} with {self.heads} heads; expected a multiple of "
                f"{2 * self.heads}, so that each head has an even width."
            )
        for field in ("rope_theta", "initializer_range"):
            if not 0 < getattr(self, field) < math.inf:
                raise ConfigError(f"model.{field} is {getattr(self, field)}, expected a number above 0.")
        if self.vocab_size < 300:
            raise ConfigError(f"model.vocab_size is {self.vocab_size}, expected at least 300 (bytes come first).")
