"""Loading a pretrained policy. Safetensors and JSON only; no remote code, nothing is unpickled."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from stapo.documents import shown
from stapo.errors import ConfigError, ModelError, did_you_mean, first_line
from stapo.models.catalog import names_of
from stapo.policy.chat import give_template
from stapo.policy.config import ModelConfig
from stapo.policy.inspection import check_generation, check_sizes, check_tokenizer, read_object
from stapo.policy.model import Policy, dtype_of, finish_policy, quiet
from stapo.policy.sources import source_of
from stapo.policy.try_tokenizer import MESSAGE

_EXPECTED = "Expected a folder written by save_pretrained: config.json, model.safetensors and the tokenizer files."
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


def check_model(path: str) -> None:
    """Look whether `path` can be a model at all, without reading the weights.

    Raises:
        ModelError: a folder that does not exist, that lacks configuration, safetensors weights or tokenizer, or whose
            files say what cannot be; a hub name that cannot be found; a kind of model that transformers does not know.
    """
    source = source_of(path)
    folder = Path(source).expanduser()
    if os.path.lexists(folder):
        _check_folder(path, folder)
    elif _is_path(path):
        raise ModelError(f"model folder {shown(path)} does not exist. {_EXPECTED}")
    try:
        AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as err:  # transformers raises what it likes
        if "custom code" in str(err) or "trust_remote_code" in str(err):
            raise ModelError(
                f"model '{path}' brings custom code of its own, which would be run when it is loaded; that is never "
                "done here. Take a model that transformers knows by itself, such as those of the Qwen and Llama "
                "families."
            ) from err
        where = "" if folder.exists() else f"there is no folder '{path}' here, and as a hub name: "
        meant = "" if where == "" or "/" in path else did_you_mean(path, names_of("language model"))
        raise ModelError(f"model '{path}' cannot be loaded: {where}{first_line(err, 300)}.{meant}") from err


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
    described = read_object(path, folder / "config.json")
    if not isinstance(described.get("model_type"), str) or not described["model_type"]:
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
    check_sizes(path, folder, described)
    check_generation(path, folder)


def check_chat_template(path: str, config: ModelConfig | None = None) -> None:
    """Look whether the tokenizer of a model has a chat template, or is given one.

    Raises:
        ModelError: it has none, one that cannot be used, or cannot be loaded.
    """
    tokenizer = load_tokenizer(path, config)
    require_template(path, tokenizer)
    if not getattr(tokenizer, "chat_template", None):
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
    # A checkpoint of the run has the template that the settings made.
    tokenizer = load_tokenizer(path, config if config.path in (None, path) else None)
    loaded: Any
    try:
        with quiet():
            loaded = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=dtype_of(config),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except Exception as err:
        raise ModelError(
            f"model '{path}' cannot be loaded: {first_line(err, 300)}. Expected a local folder or a hub name of a "
            "causal language model with safetensors weights and a fast tokenizer."
        ) from err
    model, found = loaded
    _require_all_weights(path, found)
    if config.chat_template != "none":
        require_template(path, tokenizer)
    return finish_policy(model, tokenizer, config)


def load_tokenizer(path: str, config: ModelConfig | None = None) -> Any:
    """The tokenizer of a model folder or hub name, without its weights.

    Args:
        path: folder or hub name.
        config: says which chat template it is given; None leaves it its own.

    Raises:
        ModelError: it cannot be loaded, its files say what cannot be, or the template cannot be used.
    """
    try:
        tokenizer = _load_tokenizer(path, source_of(path))
        if config is not None:
            give_template(tokenizer, config.chat_template, config.chat_template_kwargs)
        return tokenizer
    except (ModelError, ConfigError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as err:  # no common base: transformers raises what it likes, and Rust code panics
        raise ModelError(
            f"the tokenizer of model '{path}' cannot be loaded: {first_line(err, 300)}. Expected a folder with "
            "tokenizer.json and tokenizer_config.json, or a hub name."
        ) from err


def require_template(path: str, tokenizer: Any) -> None:
    """Check that the chat template of a tokenizer, if it has one, shows the model what it is asked.

    Raises:
        ModelError: it fails, or leaves out the user's message.
    """
    if not getattr(tokenizer, "chat_template", None):
        return
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": MESSAGE}], add_generation_prompt=True, tokenize=False
        )
    except Exception as err:  # a template can fail in any way
        raise ModelError(
            f"the chat template of model '{path}' cannot be used: {first_line(err, 300)}. Repair it, or set "
            "model.chat_template to 'none' to train on bare prompts."
        ) from err
    if not isinstance(text, str) or not all(line in text for line in MESSAGE.splitlines()):
        raise ModelError(
            f"the chat template of model '{path}' leaves out the user's message: it makes {shown(text)} of "
            f"{shown(MESSAGE)}. Repair it, or set model.chat_template to 'none' to train on bare prompts."
        )


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


def _load_tokenizer(path: str, source: str) -> Any:
    """Load the tokenizer that `path` holds, as it was saved.

    For some model types `AutoTokenizer` overrules a saved generic fast tokenizer with the class of the model family,
    whose pre-tokenizer cuts text differently: the same file, other ids, no warning. What names the generic class is
    therefore loaded by that class, from a folder and from the hub.
    """
    described, fast = _file_of(source, "tokenizer_config.json"), _file_of(source, "tokenizer.json")
    if described is not None or fast is not None:
        check_tokenizer(path, (described or fast).parent)  # type: ignore[union-attr]
    if described is not None and fast is not None:
        settings = read_object(path, described)
        if settings.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast"):
            return PreTrainedTokenizerFast.from_pretrained(source)
    return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
