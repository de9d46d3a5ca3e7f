"""Shapes of models: of well-known names from a small table, of local folders from their config.json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from stapo.documents import parse_json
from stapo.errors import ModelError, did_you_mean

_KINDS = ("qwen2", "qwen3", "llama")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of a decoder of the Llama and Qwen kind.

    Attributes:
        hidden: width H.
        inner: width of the feed-forward layers I.
        layers: L.
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: width of a head.
        vocabulary: V.
        tied: the head is the embedding.
        bias: query, key and value have biases (Qwen2).
        head_norms: queries and keys are normalized (Qwen3).
    """

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    bias: bool = False
    head_norms: bool = False

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * self.hidden * (q + kv) + (q + 2 * kv if self.bias else 0)
        norms = 2 * self.hidden + (2 * self.head_dim if self.head_norms else 0)
        return attention + 3 * self.hidden * self.inner + norms

    @property
    def parameters(self) -> int:
        """Weights of the whole model, a tied head counted once."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * self.layer_parameters + embeddings + self.hidden

    def adapter_parameters(self, rank: int) -> int:
        """Weights of low-rank adapters on every linear layer but the head: rank x (in + out) each."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        ends = 2 * (self.hidden + q) + 2 * (self.hidden + kv) + 3 * (self.hidden + self.inner)
        return self.layers * rank * ends


def known_shapes() -> dict[str, ModelShape]:
    """Shapes by short name, such as "qwen2.5-1.5b"."""
    data = json.loads((files("stapo.estimate") / "shapes.json").read_text(encoding="utf-8"))
    return {name: shape_of(config) for name, config in data.items()}


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """The shape that a config.json describes.

    Raises:
        KeyError, TypeError: it lacks sizes.
        ValueError: another kind of model.
    """
    kind = config["model_type"]
    if kind not in _KINDS:
        raise ValueError(f"model_type is '{kind}', expected one of {', '.join(_KINDS)}")
    heads = int(config["num_attention_heads"])
    return ModelShape(
        hidden=int(config["hidden_size"]),
        inner=int(config["intermediate_size"]),
        layers=int(config["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
        vocabulary=int(config["vocab_size"]),
        tied=bool(config.get("tie_word_embeddings", False)),
        bias=kind == "qwen2",
        head_norms=kind == "qwen3",
    )


def find_shape(path: str) -> ModelShape:
    """The shape of a local folder, or of a well-known name; nothing is downloaded.

    Raises:
        ModelError: neither; the message says what is needed.
    """
    described = Path(path).expanduser() / "config.json"
    if described.is_file():
        try:
            return shape_of(parse_json(described.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise ModelError(f"'{described}' gives no shape to reckon with: {err}.") from err
    known = known_shapes()
    name = path.rpartition("/")[2].lower().removeprefix("meta-")
    name = re.sub(r"(-(instruct|base|it|chat|\d{4}))+$", "", name)
    name = "llama-3.1-8b" if name == "llama-3-8b" else name
    if name in known:
        return known[name]
    raise ModelError(
        f"the shape of model '{path}' is not known, and nothing is downloaded for an estimate."
        f"{did_you_mean(name, known)} "
        f"Give a local folder with its config.json, or one of {', '.join(known)}."
    )
