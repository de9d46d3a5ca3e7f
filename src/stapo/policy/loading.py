"""Loading a pretrained policy. Safetensors and JSON only; no remote code, nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from stapo.errors import ModelError
from stapo.policy.config import ModelConfig
from stapo.policy.model import Policy, finish_policy

_EXPECTED = "Expected a folder written by save_pretrained: config.json, model.safetensors and the tokenizer files."
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


def check_model(path: str) -> None:
    """Look whether `path` can be a model at all, without reading the weights.

    Raises:
        ModelError: a folder that does not exist, or that lacks configuration, safetensors weights or tokenizer; a hub
            name that cannot be found; a kind of model that transformers does not know.
    """
    folder = Path(path).expanduser()
    if folder.exists():
        _check_folder(path, folder)
    elif _is_path(path):
        raise ModelError(f"model folder '{path}' does not exist. {_EXPECTED}")
    try:
        AutoConfig.from_pretrained(source_of(path), trust_remote_code=False)
    except Exception as err:  # transformers raises what it likes
        if "custom code" in str(err) or "trust_remote_code" in str(err):
            raise ModelError(
                f"model '{path}' brings custom code of its own, which would be run when it is loaded; that is never "
                "done here. Take a model that transformers knows by itself, such as those of the Qwen and Llama "
                "families."
            ) from err
        where = "" if folder.exists() else f"there is no folder '{path}' here, and as a hub name: "
        raise ModelError(f"model '{path}' cannot be loaded: {where}{_first_line(err)}.") from err


def _check_folder(path: str, folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(f"model '{path}' is a file. {_EXPECTED}")
    if not (folder / "config.json").is_file() and (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"'{path}' holds adapters (adapter_config.json) and not the model that they belong to. A checkpoint of a "
            "run has them merged in: give the folder above. Other adapters have to be merged by peft first."
        )
    if not (folder / "config.json").is_file():
        raise ModelError(f"'{path}' holds no config.json, so it is not a saved model. {_EXPECTED}")
    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise ModelError(f"'{folder / 'config.json'}' cannot be read: {err}.") from err
    if not isinstance(described, dict) or not described.get("model_type"):
        raise ModelError(
            f"'{folder / 'config.json'}' names no model_type, so it does not describe a model. {_EXPECTED}"
        )
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
        if pickles:
            raise ModelError(
                f"'{path}' holds no safetensors weights, only {', '.join(pickles[:3])}. Such files can run any code "
                "when they are loaded, so they are refused. Where you trust them, load the model with transformers "
                "yourself and write it anew with save_pretrained."
            )
        raise ModelError(f"'{path}' holds no weights. {_EXPECTED}")
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise ModelError(f"'{path}' holds no tokenizer. {_EXPECTED}")


def check_chat_template(path: str) -> None:
    """Look whether the tokenizer of a model has a chat template.

    Raises:
        ModelError: it has none, or cannot be loaded.
    """
    if not getattr(load_tokenizer(path), "chat_template", None):
        raise ModelError(
            f"the tokenizer of model '{path}' has no chat template, but the prompts of this run (agent.prompt) are "
            "written for a chat model, which is given them as a user's message. Take the model's instruction-tuned "
            "version; or, to train this one on bare prompts, set model.chat_template to 'none'."
        )


def load_policy(path: str, config: ModelConfig) -> Policy:
    """Load a pretrained causal language model by folder or hub name.

    Raises:
        ModelError: it cannot be loaded, has no safetensors weights or lacks some of them, its vocabulary does not fit
            its tokenizer, or its head does more than a matrix product.
    """
    check_model(path)
    source = source_of(path)
    tokenizer = load_tokenizer(path)
    loaded: Any
    try:
        with _quiet():
            loaded = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=getattr(torch, config.dtype),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except Exception as err:
        raise ModelError(
            f"model '{path}' cannot be loaded: {_first_line(err)}. Expected a local folder or a hub name of a causal "
            "language model with safetensors weights and a fast tokenizer."
        ) from err
    model, found = loaded
    _require_all_weights(path, found)
    return finish_policy(model, tokenizer, config)


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a model folder or hub name, without its weights.

    Raises:
        ModelError: it cannot be loaded.
    """
    try:
        return _load_tokenizer(source_of(path))
    except Exception as err:  # what a broken file makes transformers raise has no common base
        raise ModelError(
            f"the tokenizer of model '{path}' cannot be loaded: {_first_line(err)}. Expected a folder with "
            "tokenizer.json and tokenizer_config.json, or a hub name."
        ) from err


def _require_all_weights(path: str, found: dict[str, Any]) -> None:
    """Transformers fills what a file lacks with random numbers and goes on; we do not."""
    missing = sorted(found["missing_keys"])
    misfits = sorted(str(key[0] if isinstance(key, tuple) else key) for key in found["mismatched_keys"])
    for names, what in ((missing, "lacks"), (misfits, "has the wrong shape for")):
        if names:
            raise ModelError(
                f"the weights file of model '{path}' {what} {len(names)} of the model's weights "
                f"({', '.join(names[:3])}{', …' if len(names) > 3 else ''}); they would be random. It does not belong "
                "to the config.json beside it, or the model has no language-model head."
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from printing tables: what they say is in our errors."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def source_of(path: str) -> str:
    """What transformers is given for a folder or hub name."""
    folder = Path(path).expanduser()
    return str(folder) if folder.is_dir() else path


def _first_line(err: Exception) -> str:
    lines = str(err).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(err).__name__


def _is_path(path: str) -> bool:
    """Whether a name is meant as a folder: hub names are `name` or `owner/name`, and start with a letter or digit."""
    parts = path.split("/")
    return not path[:1].isalnum() or len(parts) > 2 or not all(parts) or (len(parts) == 2 and Path(parts[0]).is_dir())


def _file_of(source: str, name: str) -> Path | None:
    """A file of a folder, or of a hub name by way of the cache; None where there is none."""
    try:
        found = cached_file(source, name)
    except OSError:
        return None
    return None if found is None else Path(found)


def _load_tokenizer(path: str) -> Any:
    """Load the tokenizer that `path` holds, as it was saved.

    For some model types `AutoTokenizer` overrules a saved generic fast tokenizer with the class of the model family,
    whose pre-tokenizer cuts text differently: the same file, other ids, no warning. What names the generic class is
    therefore loaded by that class, from a folder and from the hub.
    """
    described = _file_of(path, "tokenizer_config.json")
    if described is not None and _file_of(path, "tokenizer.json") is not None:
        settings = json.loads(described.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError(f"{described.name} holds {type(settings).__name__}, expected an object")
        if settings.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast"):
            return PreTrainedTokenizerFast.from_pretrained(path)
    return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
