"""Numbers of each token of a response, in a transcript: half precision, base64, 10.7 characters per token in all.

`per_token` of a step holds little-endian arrays with one entry per sampled token:

    characters   uint16: characters of the decoded response that the token stands for; 0 for an end token, and for a
                 token that only begins a character. Absent where tokens and text do not fit together.
    entropy      float16: entropy of the distribution that it was drawn from, nats
    logprob      float16: log-probability under the sampling policy, nats
    kl           float16: exact KL(full || blind) at it, nats; only where a blind pass ran
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from stapo.documents import shown
from stapo.errors import RunDirectoryError
from stapo.texts import counted

_TYPES = {"characters": "<u2", "entropy": "<f2", "logprob": "<f2", "kl": "<f2"}


def encode_per_token(numbers: Mapping[str, npt.ArrayLike | None]) -> dict[str, str]:
    """What a transcript holds of the tokens of one response.

    Args:
        numbers: (T,) arrays by name, as above; those that are None are left out, as are characters that a uint16
            cannot count.
    """
    found = {}
    for name, kind in _TYPES.items():
        values = numbers.get(name)
        if values is None or (name == "characters" and np.max(values, initial=0) > np.iinfo(kind).max):
            continue
        # Beyond half precision's 65,504 nats there is infinity, and it is meant.
        with np.errstate(over="ignore"):
            found[name] = base64.b64encode(np.asarray(values, dtype=np.float64).astype(kind).tobytes()).decode()
    return found


def decode_per_token(step: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """The numbers of a step's tokens, (T,) arrays by name; {} where the transcript holds none.

    Raises:
        RunDirectoryError: they are not what a run writes, or not as many as the step has tokens.
    """
    held = step.get("per_token")
    if held is None:
        return {}
    if not isinstance(held, Mapping):
        raise RunDirectoryError(f"per_token of a step is {shown(held)}, expected an object of base64 texts.")
    found: dict[str, npt.NDArray[Any]] = {}
    for name, kind in _TYPES.items():
        if name in held:
            try:
                found[name] = np.frombuffer(base64.b64decode(held[name], validate=True), dtype=kind)
            except (TypeError, ValueError, binascii.Error):
                raise RunDirectoryError(
                    f"per_token.{name} of a step is {shown(held[name])}, expected base64 of {np.dtype(kind).name}."
                ) from None
            if len(found[name]) != step.get("tokens"):
                raise RunDirectoryError(
                    f"per_token.{name} of a step has {counted(len(found[name]), 'entry', 'entries')}, "
                    f"and the step {shown(step.get('tokens'))} tokens; expected one per token."
                )
    return found
