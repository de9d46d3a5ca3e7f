"""Building, loading and saving the policy. Safetensors and JSON only; no remote code."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from stapo.agent.tokenizer import train_tokenizer
from stapo.errors import ModelError
from stapo.policy.config import ModelConfig


@dataclass
class Policy:
    """A model with its tokenizer.

    Attributes:
        model: the causal language model.
        tokenizer: its tokenizer; has an end token and a pad token.
        eos_ids: tokens that end a response.
    """

    model: Any
    tokenizer: Any
    eos_ids: list[int]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.model.parameters())

    def save(self, folder: Path) -> None:
        """Write model (safetensors), configuration and tokenizer into `folder`; plain transformers can load it."""
        self.model.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)


def build_policy(config: ModelConfig, texts: Iterable[str], max_positions: int, seed: int) -> Policy:
    """Build a small Qwen2-type model with random weights and train its tokenizer on `texts`.

    Args:
        config: sizes.
        texts: prompts and commands of the environment.
        max_positions: longest prompt plus response, in tokens.
        seed: of the initial weights.
    """
    tokenizer = train_tokenizer(texts, config.vocab_size)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "head_dim": config.hidden_size // config.heads,
        "max_position_embeddings": max_positions,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.architecture, **sizes))
    return _finish(model, tokenizer, config)


def load_policy(path: str, config: ModelConfig) -> Policy:
    """Load a pretrained causal language model by folder or name.

    Raises:
        ModelError: it cannot be loaded, has no safetensors weights, or its vocabulary does not fit its tokenizer.
    """
    folder = Path(path)
    if folder.exists() and not (folder / "config.json").is_file():
        raise ModelError(
            f"'{path}' holds no config.json, so it is not a saved model. Expected a folder written by "
            "save_pretrained: config.json, model.safetensors and the tokenizer files."
        )
    try:
        tokenizer = _load_tokenizer(path)
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, config.dtype), use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, json.JSONDecodeError) as err:
        reason = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
        raise ModelError(
            f"model '{path}' cannot be loaded: {reason} Expected a local folder or a hub name of a causal language "
            "model with safetensors weights and a fast tokenizer."
        ) from err
    return _finish(model, tokenizer, config)


def _load_tokenizer(path: str) -> Any:
    """Load the tokenizer that `path` holds, as it was saved.

    For some model types `AutoTokenizer` overrules a saved generic fast tokenizer with the class of the model family,
    whose pre-tokenizer cuts text differently: the same file, other ids, no warning. A folder that names the generic
    class is therefore loaded by that class.
    """
    described = Path(path) / "tokenizer_config.json"
    if described.is_file() and (Path(path) / "tokenizer.json").is_file():
        name = json.loads(described.read_text(encoding="utf-8")).get("tokenizer_class")
        if name in ("TokenizersBackend", "PreTrainedTokenizerFast"):
            return PreTrainedTokenizerFast.from_pretrained(path)
    return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def _finish(model: Any, tokenizer: Any, config: ModelConfig) -> Policy:
    rows = model.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise ModelError(
            f"the tokenizer has token ids up to {highest}, but the model has embeddings for {rows} tokens only. "
            "Use the tokenizer that belongs to the model, or resize the model's embeddings and train them first."
        )
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no end token, so a response could never end. Set its eos_token.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device=device, dtype=getattr(torch, config.dtype))
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *([configured] if isinstance(configured, int) else configured or [])}
    return Policy(model, tokenizer, sorted(ends))
