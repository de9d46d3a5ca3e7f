"""Settings of the model, and what tells one that was built here from a pretrained one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stapo.checks import check_choices, check_integer, check_least, check_number, check_numbers
from stapo.documents import lookup, parse_json, shown
from stapo.errors import ConfigError

DType = Literal["auto", "float32", "bfloat16"]
Architecture = Literal["qwen2", "qwen3", "llama"]
Tokenization = Literal["phrases", "words", "names"]
HeadKernel = Literal["eager", "compiled"]
ReferencePlace = Literal["auto", "device", "cpu", "none"]

UNTIMED = 5_000_000
"""Weights below which a model is float32 without being timed."""
MOST_WEIGHTS = 4_000_000_000
"""Weights of a model that is built from sizes; larger ones are loaded."""

# The names that Qwen2 tokenizers use: `AutoTokenizer` would add them to a Qwen2 model's vocabulary otherwise.
EOS, PAD = "<|im_end|>", "<|endoftext|>"
SPECIAL = (PAD, EOS)
"""Special tokens of a tokenizer that is trained here, in the order of their ids, and no others."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_TAKEN = ("messages", "tools", "documents", "add_generation_prompt", "strftime_now", "raise_exception", "bos_token",
          "eos_token", "pad_token", "unk_token", "true", "false", "none", "True", "False", "None")  # fmt: skip
_DEVICE = re.compile(r"[a-z]+(:[0-9]{1,4})?")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685) instead of all weights; needs the extra `lora`.

    Attributes:
        rank: rank of low-rank adapters, 0 to 65,536; 0 trains all weights. So does `lora: null`.
        alpha: scale of the adapters: their product is multiplied by alpha / rank; above 0, or null for twice the rank.
        dropout: share of a layer's inputs that its adapter drops while gradients are computed, 0 to below 1. With
            dropout, an update scores another policy than the sampling one: importance ratios and R_TA become noisy, and
            the numbers depend on `optim.micro_tokens`.
        target_modules: names of the linear layers with adapters, such as q_proj; empty means every linear layer except
            the head.
    """

    rank: int = 0
    alpha: float | None = None
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_integer("model.lora.rank", self.rank, 0, 65_536)
        if self.alpha is not None:
            check_number("model.lora.alpha", self.alpha, 0, open_low=True, null=True)
        check_number("model.lora.dropout", self.dropout, 0, 1, open_high=True)
        if not self.rank and (self.alpha is not None or self.dropout or self.target_modules):
            raise ConfigError(
                "model.lora.rank is 0, so there is no adapter, but alpha, dropout or target_modules is set. Give a "
                "rank, such as 32."
            )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model is trained.

    Attributes:
        path: pretrained model: a name that 'stapo models' lists, a GGUF file, a folder or a Hub name; or null. No
            remote code is run, and weights are safetensors. Without it a small model is built from the sizes below,
            and its tokenizer is trained on environment text.
        architecture: architecture of the small model that is built.
        dtype: dtype of the weights. `auto` times both for a second each when the run begins, takes the faster and keeps
            it; float32 on a tie, and for models that are built here or have fewer than 5 million weights. Under
            bfloat16 the optimizer keeps a float32 copy of every weight that it trains, because steps of 1e-6 would be
            lost in rounding. Adapters are always float32.
        device: device of the model: `auto` (a GPU if there is one, otherwise the CPU), `cpu`, `cuda` or `cuda:1`.
        lora: train low-rank adapters instead of all weights.
        reference: where the frozen starting policy is kept. `auto` keeps a copy beside the model; with adapters it
            switches them off instead and needs no copy; if beta and gamma are 0, there is none. `device` and `cpu`
            place the copy; `none` keeps no reference, and refuses an algorithm that needs one.
        gradient_checkpointing: keep only the inputs of each layer and compute the rest again in the backward pass: less
            memory, about a third more time, the same numbers.
        head_kernel: how training computes log-probabilities, entropies and divergences of a chunk of tokens: one
            operation after the other, or fused by torch.compile, which needs Triton on a GPU, a C++ compiler on a CPU.
        chat_template: `auto` puts prompts into the chat template of a pretrained model's tokenizer, and refuses one
            without it where the prompts are written for chat models; `none` gives the model the bare prompt; anything
            else is a file with a template in Jinja, which checkpoints then have for their own.
        chat_template_kwargs: values that the chat template is rendered with, such as ``enable_thinking: false``; on
            the command line ``--model.chat_template_kwargs.enable_thinking false``. They become a part of the template
            of checkpoints; a server is sent them with each request.
        hidden_size: width of the small model; 1 or more, a multiple of twice `heads`.
        layers: layers of the small model; 1 or more.
        heads: attention heads per layer of the small model; 1 or more.
        intermediate_size: width of the small model's feed-forward layers; 1 or more.
        vocab_size: maximum number of tokens of the trained tokenizer; 300 or more.
        tokenizer: where the trained tokenizer splits text: `phrases` keeps set sentences whole (ALFWorld), `words`
            splits at words, digits and brackets (generated shops), `names` at words and brackets (real products).
        rope_theta: base of the rotary position embedding; above 0.
        initializer_range: standard deviation of the initial weights; above 0.
    """

    path: str | None = None
    architecture: Architecture = "qwen2"
    dtype: DType = "auto"
    device: str = "auto"
    lora: LoraConfig = field(default_factory=LoraConfig)
    reference: ReferencePlace = "auto"
    gradient_checkpointing: bool = False
    head_kernel: HeadKernel = "eager"
    chat_template: str = "auto"
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    hidden_size: int = 64
    layers: int = 2
    heads: int = 4
    intermediate_size: int = 256
    vocab_size: int = 640
    tokenizer: Tokenization = "phrases"
    rope_theta: float = 1e6
    initializer_range: float = 0.1

    def __post_init__(self) -> None:
        check_choices(self, "model", architecture=Architecture, tokenizer=Tokenization, dtype=DType)
        check_choices(self, "model", reference=ReferencePlace, head_kernel=HeadKernel)
        if self.lora.rank and self.reference in ("device", "cpu"):
            raise ConfigError(
                f"model.reference is '{self.reference}', but with model.lora the reference is the model with its "
                "adapters switched off, and there is no copy to place. Use 'auto' or 'none'."
            )
        if not self.chat_template.strip():
            raise ConfigError("model.chat_template is empty; expected auto, none or a file.")
        for name in self.chat_template_kwargs:
            if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _TAKEN:
                raise ConfigError(
                    f"model.chat_template_kwargs has the name {shown(name)}; expected one that the chat template asks "
                    "for, such as enable_thinking."
                )
        if self.path is not None and not self.path.strip():
            raise ConfigError("model.path is empty; expected a folder or a hub name, or null for a small model.")
        if not _DEVICE.fullmatch(self.device):
            raise ConfigError(f"model.device is {shown(self.device)}, expected auto, cpu, cuda or the like of cuda:1.")
        # Of the tokens of a tokenizer, bytes come first.
        check_least(self, "model", hidden_size=1, layers=1, heads=1, intermediate_size=1, vocab_size=300)
        if self.hidden_size % (2 * self.heads):
            raise ConfigError(
                f"model.hidden_size is {self.hidden_size} with {self.heads} heads; expected a multiple of "
                f"{2 * self.heads}, so that each head has an even width."
            )
        check_numbers(self, "model", "rope_theta", "initializer_range", low=0, open_low=True)
        if self.path is None and self.weights > MOST_WEIGHTS:
            raise ConfigError(
                f"model.layers {self.layers:,}, model.hidden_size {self.hidden_size:,}, model.intermediate_size "
                f"{self.intermediate_size:,} and model.vocab_size {self.vocab_size:,} make {self.weights:,} weights; "
                f"expected at most {MOST_WEIGHTS:,} where no pretrained model is loaded (model.path)."
            )

    @property
    def weights(self) -> int:
        """Weights of the small model that the sizes make."""
        layer = self.hidden_size * (4 * self.hidden_size + 3 * self.intermediate_size)
        return self.layers * layer + self.vocab_size * self.hidden_size


def is_built_here(path: str) -> bool:
    """Whether a folder holds a small model that was built here, and not a pretrained one."""
    try:
        tokens = lookup(parse_json((Path(path).expanduser() / "tokenizer.json").read_bytes()), "added_tokens")
        return {token["id"]: token["content"] for token in tokens} == dict(enumerate(SPECIAL))
    except (OSError, ValueError, KeyError, TypeError):
        return False
