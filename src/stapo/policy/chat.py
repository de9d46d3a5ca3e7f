"""The chat template of a tokenizer: the model's own or a file's, and the values that it is rendered with.

Values are written into the template, as its first statements. Whoever renders it makes the same prompts of the same
messages: training, an evaluation, a server that is handed a checkpoint. What a model brings is looked at by
`stapo.policy.inspection`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stapo.documents import read_text, shown
from stapo.errors import ConfigError, ModelError
from stapo.policy.trial import try_out

_MOST_BYTES = 2**21
_BEGIN, _END = "{# model.chat_template_kwargs #}", "{{- '' }}"


def give_template(tokenizer: Any, template: str, values: Mapping[str, Any]) -> None:
    """Give a tokenizer the chat template that a run's settings say.

    Args:
        tokenizer: is changed.
        template: `model.chat_template`.
        values: `model.chat_template_kwargs`.

    Raises:
        ModelError: the file cannot be used, or there is no template to give values to.
    """
    if template == "none":
        tokenizer.chat_template = None
        return
    if template != "auto":
        tokenizer.chat_template = _of_file(template)
    if not values:
        return
    own = getattr(tokenizer, "chat_template", None)
    if not own:
        raise ModelError(
            "model.chat_template_kwargs has values for a chat template, but the tokenizer has none. Leave them out, or "
            "name a file with one in model.chat_template."
        )
    tokenizer.chat_template = (
        {name: _with_values(text, values) for name, text in own.items()}
        if isinstance(own, Mapping)
        else _with_values(str(own), values)
    )


def _of_file(path: str) -> str:
    try:
        text = read_text(Path(path), _MOST_BYTES)
    except (OSError, ValueError) as err:
        reason = err.strerror if isinstance(err, OSError) else err
        raise ModelError(
            f"model.chat_template is {shown(path)}, which cannot be read: {reason}. Expected auto, none, or a file "
            "with a chat template in Jinja."
        ) from err
    try_out(path, None, None, {"model.chat_template": text}, {})
    return text


def _with_values(template: str, values: Mapping[str, Any]) -> str:
    if template.startswith(_BEGIN):  # a checkpoint has those of its run
        template = template.partition(_END)[2]
    told = "".join(f"{{%- set {name} = {_literal(value)} %}}" for name, value in values.items())
    return f"{_BEGIN}{told}{_END}{template}"


def _literal(value: Any) -> str:
    """A value of JSON as Jinja writes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(str(key))}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float) and value == value and value not in (float("inf"), -float("inf")):
        return json.dumps(value, ensure_ascii=False)
    raise ConfigError(f"model.chat_template_kwargs has the value {shown(value)}; expected one that JSON can hold.")
